"use strict";
// Seeded standard normal numbers: the generator sfc32 (Doty-Humphrey, PractRand), and Box & Muller's transform.
globalThis.Course ??= {};
Course.maths ??= {};

(() => {
  /** Uniform numbers in [0, 1) of 32 bits, from two integers: a seed, and which of its streams. */
  function uniform(seed, stream = 0) {
    let [a, b, c, counter] = [seed >>> 0, Math.floor(seed / 4294967296) >>> 0, stream >>> 0, 1];
    const next = () => {
      const sum = (((a + b) | 0) + counter) | 0;
      counter = (counter + 1) | 0;
      a = b ^ (b >>> 9);
      b = (c + (c << 3)) | 0;
      c = (((c << 21) | (c >>> 11)) + sum) | 0;
      return (sum >>> 0) / 4294967296;
    };
    for (let k = 0; k < 15; k++) next();
    return next;
  }

  /** n standard normal numbers; those of a stream do not depend on how many streams there are. */
  function normals(n, seed, stream = 0) {
    const next = uniform(seed, stream);
    const values = new Float32Array(n);
    for (let k = 0; k < n; k += 2) {
      const radius = Math.sqrt(-2 * Math.log(1 - next()));
      const angle = 2 * Math.PI * next();
      values[k] = radius * Math.cos(angle);
      if (k + 1 < n) values[k + 1] = radius * Math.sin(angle);
    }
    return values;
  }

  Course.maths.noise = { uniform, normals };
})();
