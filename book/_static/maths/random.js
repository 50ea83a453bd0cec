"use strict";
// Random numbers that a seed determines: the same on every machine, so that a figure and a test can repeat them.
globalThis.Course ??= {};
Course.maths ??= {};

(() => {
  /** Seeded random numbers: `uniform()` in [0, 1) (Mulberry32), `normal()` by the polar method of Box and Muller. */
  function rng(seed) {
    let state = seed >>> 0;
    let spare = null;
    const uniform = () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let z = state;
      z = Math.imul(z ^ (z >>> 15), z | 1);
      z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
      return ((z ^ (z >>> 14)) >>> 0) / 4294967296;
    };
    const normal = () => {
      if (spare !== null) {
        const value = spare;
        spare = null;
        return value;
      }
      const radius = Math.sqrt(-2 * Math.log(1 - uniform()));
      const angle = 2 * Math.PI * uniform();
      spare = radius * Math.sin(angle);
      return radius * Math.cos(angle);
    };
    return { uniform, normal };
  }

  Course.maths.random = { rng };
})();
