"use strict";
// Noise schedules, as helpers.schedules: how much of the image is left at each step. Time runs from data to noise, and
// t = 0 is the first noisy step: alphaBar[t] = Π_{s ≤ t} (1 − β_s) (Ho et al. 2020, arXiv:2006.11239, eq. 4).
globalThis.Course ??= {};
Course.maths ??= {};

(() => {
  /** β rises linearly (Ho et al. 2020). Returns a Float64Array of T numbers. */
  function linearBetas(nSteps = 1000, betaStart = 1e-4, betaEnd = 0.02) {
    return Float64Array.from({ length: nSteps }, (_, t) => betaStart + ((betaEnd - betaStart) * t) / (nSteps - 1));
  }

  /** ᾱ follows a squared cosine, and β is clipped (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 17). */
  function cosineBetas(nSteps = 1000, s = 0.008, maxBeta = 0.999) {
    const f = (k) => Math.cos((((k / nSteps + s) / (1 + s)) * Math.PI) / 2) ** 2;
    return Float64Array.from({ length: nSteps }, (_, t) => Math.min(1 - f(t + 1) / f(t), maxBeta));
  }

  /** ᾱ_t: the running product of 1 − β. */
  function alphaBarFromBetas(betas) {
    let product = 1;
    return betas.map((beta) => (product *= 1 - beta));
  }

  /** n noise levels, decreasing, whose ρ-th roots are evenly spaced (Karras et al. 2022, arXiv:2206.00364, eq. 5). */
  function karrasSigmas(n, sigmaMin = 0.002, sigmaMax = 80, rho = 7) {
    const [first, last] = [sigmaMax ** (1 / rho), sigmaMin ** (1 / rho)];
    const sigmas = Float64Array.from({ length: n }, (_, i) => (first + ((last - first) * i) / (n - 1)) ** rho);
    sigmas[n - 1] = sigmaMin; // roots move the ends by a rounding error
    sigmas[0] = sigmaMax;
    return sigmas;
  }

  /** ᾱ = 1/(1 + σ²): x_0 + σε, times √ᾱ, is x_t. */
  const alphaBarFromSigma = (sigma) => 1 / (1 + sigma * sigma);

  /** σ = √((1 − ᾱ)/ᾱ): the noise beside a unit signal. */
  const sigmaFromAlphaBar = (alphaBar) => Math.sqrt((1 - alphaBar) / alphaBar);

  /** The signal-to-noise ratio ᾱ/(1 − ᾱ) (Kingma et al. 2021, arXiv:2107.00630). */
  const snr = (alphaBar) => alphaBar / (1 - alphaBar);

  /** ᾱ_t of a schedule by its name: "linear", "cosine", or "karras", whose levels run from little noise to much. */
  function alphaBar(name, nSteps = 1000) {
    if (name === "linear") return alphaBarFromBetas(linearBetas(nSteps));
    if (name === "cosine") return alphaBarFromBetas(cosineBetas(nSteps));
    if (name === "karras") return karrasSigmas(nSteps).reverse().map(alphaBarFromSigma);
    throw new RangeError(`expected the schedule linear, cosine or karras, got ${name}`);
  }

  /** x_t = √ᾱ x_0 + √(1 − ᾱ) ε, entry by entry. */
  function noised(x0, eps, alphaBar) {
    const [signal, noise] = [Math.sqrt(alphaBar), Math.sqrt(1 - alphaBar)];
    return Float64Array.from(x0, (value, i) => signal * value + noise * eps[i]);
  }

  Course.maths.schedules = {
    linearBetas,
    cosineBetas,
    alphaBarFromBetas,
    karrasSigmas,
    alphaBarFromSigma,
    sigmaFromAlphaBar,
    snr,
    alphaBar,
    noised,
  };
})();
