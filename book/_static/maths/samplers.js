"use strict";
// From noise to data, one step after the other: the JavaScript twin of helpers/samplers and of the annealed Langevin
// dynamics of helpers/langevin. Time runs from data to noise, t = −1 is clean; alphaBar is ᾱ where a step starts and
// alphaBarPrev where it goes. States are Float64Arrays; noise is an argument. Uses schedules.js and mixtures.js.
globalThis.Course ??= {};
Course.maths ??= {};

(() => {
  /** Python's round: halves go to the even neighbour. */
  function roundHalfEven(value) {
    const below = Math.floor(value);
    if (value - below !== 0.5) return Math.round(value);
    return below % 2 === 0 ? below : below + 1;
  }

  /** n timesteps from total − 1 downwards, evenly spaced so that one more step would reach −1. */
  const spacedTimesteps = (total, n) => Array.from({ length: n }, (_, k) => roundHalfEven((total * (n - k)) / n) - 1);

  /** x̂_0 = (x_t − √(1−ᾱ) ε̂)/√ᾱ. */
  const predictX0 = (eps, xT, alphaBar) =>
    xT.map((x, i) => (x - Math.sqrt(1 - alphaBar) * eps[i]) / Math.sqrt(alphaBar));

  /** Bayes' rule for the step back, q(x_s | x_t, x_0) = N(c_0 x_0 + c_t x_t, β̃ I): { x0, xt, variance }. */
  function posteriorCoefficients(alphaBar, alphaBarPrev) {
    const step = alphaBar / alphaBarPrev;
    return {
      x0: (Math.sqrt(alphaBarPrev) * (1 - step)) / (1 - alphaBar),
      xt: (Math.sqrt(step) * (1 - alphaBarPrev)) / (1 - alphaBar),
      variance: ((1 - alphaBarPrev) * (1 - step)) / (1 - alphaBar),
    };
  }

  /** One ancestral step of DDPM: a draw around the posterior mean, with the posterior's variance. */
  function ddpmStep(x0, xT, alphaBar, alphaBarPrev, noise) {
    const c = posteriorCoefficients(alphaBar, alphaBarPrev);
    const std = Math.sqrt(c.variance);
    return xT.map((x, i) => c.x0 * x0[i] + c.xt * x + (std ? std * noise[i] : 0));
  }

  /** One step of DDIM; η = 0 is deterministic and needs no noise, η = 1 is DDPM. */
  function ddimStep(x0, xT, alphaBar, alphaBarPrev, noise = null, eta = 0) {
    const variance = eta ? eta ** 2 * posteriorCoefficients(alphaBar, alphaBarPrev).variance : 0;
    const direction = Math.sqrt(Math.max(0, 1 - alphaBarPrev - variance));
    return xT.map((x, i) => {
      const eps = (x - Math.sqrt(alphaBar) * x0[i]) / Math.sqrt(1 - alphaBar);
      return Math.sqrt(alphaBarPrev) * x0[i] + direction * eps + (variance ? Math.sqrt(variance) * noise[i] : 0);
    });
  }

  /** Euler's step of dx/dσ = (x − D)/σ from σ to σ', D being `x0`. */
  const eulerStep = (x, x0, sigma, sigmaNext) => x.map((v, i) => x0[i] + (sigmaNext / sigma) * (v - x0[i]));

  /** Heun's step: Euler's, repeated with the mean of the slopes at both ends. @param denoise (x, sigma) → D. */
  function heunStep(denoise, x, sigma, sigmaNext) {
    const x0 = denoise(x, sigma);
    const end = eulerStep(x, x0, sigma, sigmaNext);
    if (sigmaNext === 0) return end;
    const x0Next = denoise(end, sigmaNext);
    return x.map((v, i) => v + ((sigmaNext - sigma) * ((v - x0[i]) / sigma + (end[i] - x0Next[i]) / sigmaNext)) / 2);
  }

  /** One Langevin step of length ε at T = 1 along a score: x + (ε/2) s + √ε ξ. */
  const langevinStepOnScore = (x, score, stepSize, noise) =>
    x.map((v, i) => v + (stepSize / 2) * score[i] + Math.sqrt(stepSize) * noise[i]);

  /** A geometric grid of noise levels, from sigmaMax down to sigmaMin. */
  const logSnrSigmas = (n, sigmaMin, sigmaMax) =>
    Array.from({ length: n }, (_, i) =>
      i === 0 ? sigmaMax : i === n - 1 ? sigmaMin : sigmaMax * (sigmaMin / sigmaMax) ** (i / (n - 1)),
    );

  // --- whole runs on an exact density

  // A run has n + 1 stops. Its state at stop k is x_t at ᾱ = stops[k], whichever variables the sampler works in, so
  // that all runs live in the same picture; `step(k, x, noise)` leads from stop k to stop k + 1.

  const alphaBarOf = (sigma) => Course.maths.schedules.alphaBarFromSigma(sigma);
  const scaled = (x, factor) => x.map((v) => v * factor);

  /** DDPM and DDIM along evenly spaced timesteps. */
  function discreteRun(mixture, alphaBars, n, step, stochastic) {
    const stops = [...spacedTimesteps(alphaBars.length, n).map((t) => alphaBars[t]), 1];
    const { exactEps } = Course.maths.mixtures;
    return {
      stops,
      stochastic,
      evaluations: n,
      step: (k, x, noise) =>
        step(predictX0(exactEps(mixture, x, stops[k]), x, stops[k]), x, stops[k], stops[k + 1], noise),
    };
  }

  /** The probability-flow ODE down Karras's grid; the states y = x_t/√ᾱ of the solver are shown as x_t. */
  function odeRun(mixture, sigmas, step, evaluationsEach) {
    const levels = [...sigmas, 0];
    const stops = levels.map(alphaBarOf);
    const denoise = Course.maths.mixtures.exactDenoiser(mixture);
    return {
      stops,
      stochastic: false,
      evaluations: evaluationsEach * (levels.length - 2) + 1,
      step: (k, x) =>
        scaled(step(denoise, scaled(x, 1 / Math.sqrt(stops[k])), levels[k], levels[k + 1]), Math.sqrt(stops[k + 1])),
    };
  }

  /** A few Langevin steps at each noise level, the largest first; the last step is Tweedie's, to the clean mean. */
  function annealedRun(mixture, sigmas, stepsPerLevel, relativeStep) {
    const levels = sigmas.flatMap((sigma) => Array(stepsPerLevel).fill(sigma)); // where each Langevin step is made
    const stops = [levels[0], ...levels, 0].map(alphaBarOf);
    const denoise = Course.maths.mixtures.exactDenoiser(mixture);
    const at = (k) => Math.sqrt(stops[k]);
    return {
      stops,
      stochastic: true,
      evaluations: levels.length + 1,
      step: (k, x, noise) => {
        const y = scaled(x, 1 / at(k));
        if (k === levels.length) return denoise(y, levels[k - 1]);
        const sigma = levels[k];
        const score = denoise(y, sigma).map((x0, i) => (x0 - y[i]) / (sigma * sigma));
        return scaled(langevinStepOnScore(y, score, relativeStep * sigma * sigma, noise), at(k + 1));
      },
    };
  }

  /** Langevin dynamics on the density at one noise level, which never changes. */
  function plainLangevinRun(mixture, alphaBar, n, relativeStep) {
    const noised = mixture.noised(alphaBar);
    const stepSize = relativeStep * noised.smallestVariance();
    return {
      stops: Array(n + 1).fill(alphaBar),
      stochastic: true,
      evaluations: n,
      stepSize,
      step: (k, x, noise) => langevinStepOnScore(x, noised.score(x), stepSize, noise),
    };
  }

  /** Largest and smallest noise level of the solvers in σ, and what annealed Langevin dynamics does at each level. */
  const SETTINGS = { sigmaMin: 0.02, sigmaMax: 10, stepsPerLevel: 5, relativeStep: 0.4 };

  /**
   * A run of n steps with the perfect model of a density.
   * @param {"ddpm" | "ddim" | "euler" | "heun" | "annealed" | "langevin"} kind
   * @param {GaussianMixture} mixture The clean data.
   * @param {number[] | Float64Array} alphaBars ᾱ_t for t = 0 … T − 1, for the samplers on discrete time.
   * @param {number} n Steps, at least 1.
   * @param {number} [alphaBar] Where plain Langevin dynamics stays; 1 is clean.
   * @returns {{stops: number[], stochastic: boolean, evaluations: number, step(k, x, noise): Float64Array}}
   */
  function makeRun(kind, mixture, alphaBars, n, alphaBar = 1) {
    const { sigmaMin, sigmaMax, stepsPerLevel, relativeStep } = SETTINGS;
    const grid = () => [...Course.maths.schedules.karrasSigmas(n, sigmaMin, sigmaMax)];
    switch (kind) {
      case "ddpm":
        return discreteRun(mixture, alphaBars, n, ddpmStep, true);
      case "ddim":
        return discreteRun(mixture, alphaBars, n, ddimStep, false);
      case "euler":
        return odeRun(mixture, grid(), (denoise, x, s, next) => eulerStep(x, denoise(x, s), s, next), 1);
      case "heun":
        return odeRun(mixture, grid(), heunStep, 2);
      case "annealed": {
        const each = Math.min(n, stepsPerLevel);
        const levels = Math.floor(n / each);
        return annealedRun(mixture, logSnrSigmas(levels, sigmaMin, sigmaMax), each, relativeStep);
      }
      case "langevin":
        return plainLangevinRun(mixture, alphaBar, n, relativeStep);
      default:
        throw new RangeError(`expected a sampler, got ${kind}`);
    }
  }

  Course.maths.samplers = {
    SETTINGS,
    spacedTimesteps,
    predictX0,
    posteriorCoefficients,
    ddpmStep,
    ddimStep,
    eulerStep,
    heunStep,
    langevinStepOnScore,
    logSnrSigmas,
    makeRun,
  };
})();
