"use strict";
// Continuous noise levels, as helpers.diffusion.edm, helpers.samplers.continuous and .guidance: x = x_0 + σ ε, and a
// network F that becomes a denoiser D = c_skip x + c_out F(c_in x, c_noise) (Karras et al. 2022, arXiv:2206.00364). The
// solvers follow dx/dσ = d = (x − D)/σ down a grid of noise levels that ends in 0.
globalThis.Course ??= {};
Course.maths ??= {};

(() => {
  /** n levels whose ρ-th roots are evenly spaced, and a 0 at the end (eq. 5). */
  function sigmas(n, { sigma_min: low, sigma_max: high, rho }) {
    const [first, last] = [high ** (1 / rho), low ** (1 / rho)];
    const grid = Array.from({ length: n }, (_, i) => (first + (last - first) * (n > 1 ? i / (n - 1) : 0)) ** rho);
    grid[0] = high;
    if (n > 1) grid[n - 1] = low;
    return [...grid, 0];
  }

  /** c_skip, c_out, c_in and c_noise at a noise level (table 1). */
  function coefficients(sigma, sigmaData) {
    const total = sigma * sigma + sigmaData * sigmaData;
    return {
      skip: (sigmaData * sigmaData) / total,
      out: (sigma * sigmaData) / Math.sqrt(total),
      input: 1 / Math.sqrt(total),
      noise: Math.log(sigma) / 4,
    };
  }

  /** D = c_skip x + c_out F. */
  const denoised = (x, raw, { skip, out }) => Float64Array.from(x, (value, i) => skip * value + out * raw[i]);

  /** Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598): D without class + w (D with − D without). */
  const guided = (withClass, without, scale) =>
    Float64Array.from(withClass, (value, i) => without[i] + scale * (value - without[i]));

  /** Whether guidance acts: inside its interval, and if it changes anything. */
  const isGuided = (sigma, scale, [low, high]) => scale !== 1 && sigma > low && sigma <= high;

  /** An Euler step to σ': x' = D + σ'/σ (x − D). */
  const euler = (x, d0, sigma, next) => Float64Array.from(x, (value, i) => d0[i] + (next / sigma) * (value - d0[i]));

  const ADAMS_BASHFORTH = [[1], [3 / 2, -1 / 2], [23 / 12, -16 / 12, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -9 / 24]];

  /** The solvers: generators from (x, D, σ, σ', history) to x'; Heun's asks for a second D on the way. */
  const solvers = {
    *euler(x, d0, sigma, next) {
      return euler(x, d0, sigma, next);
    },

    /** The mean of the slopes at both ends (Karras et al., algorithm 1); Euler's step to σ = 0. */
    *heun(x, d0, sigma, next) {
      const ahead = euler(x, d0, sigma, next);
      if (next === 0) return ahead;
      const d1 = yield { ask: { x: ahead, sigma: next } };
      return Float64Array.from(x, (value, i) =>
        value + ((next - sigma) * ((value - d0[i]) / sigma + (ahead[i] - d1[i]) / next)) / 2);
    },

    /** DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, algorithm 2): D extrapolated to the middle of the step. */
    *dpmpp2m(x, d0, sigma, next, history) {
      const last = history.at(-1);
      history.push({ sigma, d0 });
      if (!last || next === 0) return euler(x, d0, sigma, next);
      const share = Math.log(sigma / next) / (2 * Math.log(last.sigma / sigma));
      const guess = d0.map((value, i) => value + share * (value - last.d0[i]));
      return euler(x, guess, sigma, next);
    },

    /** Adams & Bashforth on the slopes of up to four levels (iPNDM: Zhang & Chen 2022, arXiv:2204.13902). */
    *ipndm(x, d0, sigma, next, history) {
      history.push({ slope: x.map((value, i) => (value - d0[i]) / sigma) });
      const weights = ADAMS_BASHFORTH[Math.min(4, history.length) - 1];
      return Float64Array.from(x, (value, i) => {
        let slope = 0;
        for (let k = 0; k < weights.length; k++) slope += weights[k] * history[history.length - 1 - k].slope[i];
        return value + (next - sigma) * slope;
      });
    },
  };

  /** How often a run asks the denoiser. */
  const evaluations = (solver, nSteps) => (solver === "heun" ? 2 * nSteps - 1 : nSteps);

  /**
   * A whole run, as a generator: it yields { ask: { x, sigma } } and wants D back, and { step } after each step.
   * @param {Float64Array} noise Standard normal numbers, all pictures one after the other.
   * @param {{solver: string, grid: number[]}} how `grid`: decreasing noise levels, the last one 0.
   */
  function* sample(noise, { solver, grid }) {
    let x = Float64Array.from(noise, (value) => Math.fround(value * grid[0]));
    const history = [];
    for (let k = 0; k + 1 < grid.length; k++) {
      const [sigma, sigmaNext] = [grid[k], grid[k + 1]];
      const x0 = yield { ask: { x, sigma } };
      const next = yield* solvers[solver](x, x0, sigma, sigmaNext, history);
      const eps = x.map((value, i) => (value - x0[i]) / sigma);
      yield { step: { k, sigma, sigmaNext, x, eps, x0, next } };
      x = next;
    }
    return x;
  }

  Course.maths.edm = { coefficients, denoised, evaluations, guided, isGuided, sample, sigmas, solvers };
})();
