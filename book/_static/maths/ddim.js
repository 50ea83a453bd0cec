"use strict";
// Sampling a model that guesses the noise, as helpers.samplers.discrete: DDPM (Ho et al. 2020, arXiv:2006.11239) and
// DDIM (Song et al. 2021, arXiv:2010.02502). A step goes from x_t to x_s, s < t, given the guess of the clean picture:
//
//     x_s = √ᾱ_s x̂_0 + √(1 − ᾱ_s − σ²) ε̂ + σ z,    σ = η √β̃,    β̃ = (1 − ᾱ_s)/(1 − ᾱ_t) · (1 − ᾱ_t/ᾱ_s),
//
// where ε̂ = (x_t − √ᾱ_t x̂_0)/√(1 − ᾱ_t). η = 0 is DDIM, η = 1 is DDPM with the posterior variance. t = 0 is the first
// noisy step, and t = −1 the clean picture, with ᾱ = 1.
globalThis.Course ??= {};
Course.maths ??= {};

(() => {
  /** Rounding as Python does it: halves to the even neighbour. */
  const roundHalfEven = (value) => Math.abs(value % 1) === 0.5 ? 2 * Math.round(value / 2) : Math.round(value);

  /** `nSteps` timesteps from `total` − 1 downwards, evenly spaced so that one more step would reach −1. */
  function spacedTimesteps(total, nSteps) {
    if (!(nSteps >= 1 && nSteps <= total)) throw new RangeError(`expected 1 to ${total} steps, got ${nSteps}`);
    return Array.from({ length: nSteps }, (_, k) => roundHalfEven((total * (nSteps - k)) / nSteps) - 1);
  }

  /** x̂_0 = (x_t − √(1 − ᾱ) ε̂)/√ᾱ, clipped to [−clip, clip]. */
  function predictX0(x, eps, alphaBar, clip = 1) {
    const [signal, noise] = [Math.sqrt(alphaBar), Math.sqrt(1 - alphaBar)];
    return Float64Array.from(x, (value, i) => Math.min(clip, Math.max(-clip, (value - noise * eps[i]) / signal)));
  }

  /** One step from ᾱ to ᾱ_s, given x̂_0, and standard normal numbers z if η > 0. */
  function step(x, x0, alphaBar, alphaBarNext, eta = 0, z = null) {
    const [signal, noise] = [Math.sqrt(alphaBar), Math.sqrt(1 - alphaBar)];
    const variance = eta * eta * ((1 - alphaBarNext) / (1 - alphaBar)) * (1 - alphaBar / alphaBarNext);
    const [keep, direction] = [Math.sqrt(alphaBarNext), Math.sqrt(Math.max(0, 1 - alphaBarNext - variance))];
    const fresh = Math.sqrt(variance);
    return Float64Array.from(x0, (guess, i) =>
      keep * guess + direction * ((x[i] - signal * guess) / noise) + (fresh ? fresh * z[i] : 0));
  }

  /**
   * A whole run, as a generator: it yields { ask: { x, t } } and wants ε̂ back, and yields { step } after each step.
   * @param {Float64Array} x Standard normal numbers, all pictures one after the other.
   * @param {{alphaBar: number[], nSteps: number, eta?: number, clip?: number, noise?: (k: number) => Float32Array}} how
   *   `noise(k)`: standard normal numbers for step k, needed if η > 0.
   */
  function* sample(x, { alphaBar, nSteps, eta = 0, clip = 1, noise = null }) {
    const timesteps = spacedTimesteps(alphaBar.length, nSteps);
    for (let k = 0; k < nSteps; k++) {
      const t = timesteps[k];
      const tNext = k + 1 < nSteps ? timesteps[k + 1] : -1;
      const [here, next] = [alphaBar[t], tNext < 0 ? 1 : alphaBar[tNext]];
      const eps = yield { ask: { x, t } };
      const x0 = predictX0(x, eps, here, clip);
      const after = step(x, x0, here, next, eta, eta > 0 && tNext >= 0 ? noise(k) : new Float64Array(x.length));
      yield { step: { k, t, tNext, alphaBar: here, alphaBarNext: next, x, eps, x0, next: after } };
      x = after;
    }
    return x;
  }

  Course.maths.ddim = { predictX0, sample, spacedTimesteps, step };
})();
