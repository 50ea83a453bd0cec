"use strict";
// Langevin dynamics on energies of one variable, and what is known exactly about it: the JavaScript twin of
// helpers/langevin and helpers/oracle/langevin.py. Energy: low is likely, p ∝ exp(−E/T); a step of size ε is
// x' = x − (ε/2) E'(x) + √(εT) ξ. States are Float64Arrays; noise and uniform numbers are arguments.
globalThis.Course ??= {};
Course.maths ??= {};

(() => {
  // --- energies: { value(x), gradient(x) } for numbers

  /** x²/(2σ²). */
  const gaussian = (std) => ({ value: (x) => (x * x) / (2 * std * std), gradient: (x) => x / (std * std) });

  /** 2(x² − 1)² + x/2: two wells, the left one lower by about 1 (lesson 7). */
  const doubleWell = () => ({
    value: (x) => 2 * (x * x - 1) ** 2 + x / 2,
    gradient: (x) => 8 * x * (x * x - 1) + 0.5,
  });

  /** A deep narrow well at −1.2, a wide one at 1 with a floor higher by 1: −log(e^(−E₁) + e^(−1−E₂)) (lesson 7). */
  function unevenWells() {
    const wells = [
      [-1.2, 0.12, 0],
      [1, 0.6, -1],
    ];
    const terms = (x) => wells.map(([centre, width, logWeight]) => logWeight - ((x - centre) / width) ** 2 / 2);
    return {
      value: (x) => {
        const [a, b] = terms(x);
        return -Math.max(a, b) - Math.log1p(Math.exp(-Math.abs(a - b)));
      },
      gradient: (x) => {
        const [a, b] = terms(x);
        const first = 1 / (1 + Math.exp(b - a)); // the responsibility of the narrow well
        const [slope, other] = wells.map(([centre, width]) => (x - centre) / width ** 2);
        return first * slope + (1 - first) * other;
      },
    };
  }

  // --- steps

  /** One unadjusted step: x − (ε/2)∇E + √(εT) ξ. */
  const langevinStep = (x, gradient, stepSize, temperature, noise) =>
    x.map((v, i) => v - (stepSize / 2) * gradient[i] + Math.sqrt(stepSize * temperature) * noise[i]);

  /** The log of a proposal's density q(x'|x), but for a constant: −(x' − x + (ε/2)E'(x))²/(2εT). */
  const logProposal = (xNew, x, gradient, stepSize, temperature) =>
    -((xNew - x + (stepSize / 2) * gradient) ** 2) / (2 * stepSize * temperature);

  /** log r of one proposal of MALA; it is accepted with probability min(1, r). */
  function malaLogRatio(energy, x, xNew, stepSize, temperature) {
    const there = logProposal(xNew, x, energy.gradient(x), stepSize, temperature);
    const back = logProposal(x, xNew, energy.gradient(xNew), stepSize, temperature);
    return (energy.value(x) - energy.value(xNew)) / temperature + back - there;
  }

  /** One step of MALA: { x, accepted }. @param uniform In [0, 1), one number for each chain's own decision. */
  function malaStep(energy, x, stepSize, temperature, noise, uniform) {
    const proposal = langevinStep(x, x.map(energy.gradient), stepSize, temperature, noise);
    let accepted = 0;
    const next = x.map((old, i) => {
      const logRatio = malaLogRatio(energy, old, proposal[i], stepSize, temperature);
      if (!(Math.log(uniform[i]) < logRatio && logRatio < Infinity)) return old; // NaN is not accepted either
      accepted++;
      return proposal[i];
    });
    return { x: next, accepted };
  }

  // --- closed forms on x²/(2σ²)

  /** b = 1 − ε/(2σ²): what a step multiplies the state by. */
  const contraction = (std, stepSize) => 1 - stepSize / (2 * std * std);

  /** 4σ²: chains settle if and only if ε is below it. */
  const ulaStabilityLimit = (std) => 4 * std * std;

  /** Tσ²/(1 − ε/(4σ²)), the variance that unadjusted chains settle at; Infinity from 4σ² on. */
  const ulaVariance = (std, stepSize, temperature = 1) =>
    stepSize < ulaStabilityLimit(std) ? (temperature * std * std) / (1 - stepSize / (4 * std * std)) : Infinity;

  /** b^lag, the correlation of stationary states `lag` steps apart. */
  const ulaAutocorrelation = (std, stepSize, lag = 1) => contraction(std, stepSize) ** lag;

  /** log r of a proposal of MALA on N(0, 1) at T = 1: (ε/8)(x² − x'²). */
  const malaLogAcceptance = (x, xNew, stepSize) => (stepSize / 8) * (x * x - xNew * xNew);

  // --- sums in place of integrals, for any energy

  /**
   * The Gibbs density exp(−E/T)/Z on a grid of n points over [low, high], by the trapezoidal rule.
   * @returns {{x, density, spacing, logZ, mean, variance, below(x)}} below(x): the share of the density left of x.
   */
  function gibbs(energy, temperature = 1, low = -12, high = 12, n = 2401) {
    const spacing = (high - low) / (n - 1);
    const x = Float64Array.from({ length: n }, (_, i) => low + spacing * i);
    const logs = x.map((v) => -energy.value(v) / temperature);
    const highest = Math.max(...logs);
    const weights = logs.map((l, i) => Math.exp(l - highest) * spacing * (i === 0 || i === n - 1 ? 0.5 : 1));
    const sum = weights.reduce((a, b) => a + b, 0);
    const logZ = highest + Math.log(sum);
    const density = logs.map((l) => Math.exp(l - logZ));
    const mean = weights.reduce((total, w, i) => total + w * x[i], 0) / sum;
    const variance = weights.reduce((total, w, i) => total + w * (x[i] - mean) ** 2, 0) / sum;
    const below = (limit) => {
      let share = 0;
      for (let i = 0; i < n - 1 && x[i] < limit; i++) {
        // trapezoids, the last one cut at the limit
        const part = Math.min(1, (limit - x[i]) / spacing);
        share += part * spacing * (density[i] + (part / 2) * (density[i + 1] - density[i]));
      }
      return share;
    };
    return { x, density, spacing, logZ, mean, variance, below };
  }

  /** The mean acceptance of MALA once its chains have settled: E min(1, r) over x ~ exp(−E/T)/Z and the noise. */
  function malaAcceptance(energy, stepSize, temperature = 1, { low = -12, high = 12, n = 2401, nodes = 161 } = {}) {
    const { x, density, spacing } = gibbs(energy, temperature, low, high, n);
    const reach = 6;
    const step = (2 * reach) / (nodes - 1);
    let total = 0;
    for (let i = 0; i < n; i++) {
      if (density[i] < 1e-10) continue;
      const centre = x[i] - (stepSize / 2) * energy.gradient(x[i]);
      let mean = 0;
      for (let j = 0; j < nodes; j++) {
        const xi = -reach + step * j;
        const xNew = centre + Math.sqrt(stepSize * temperature) * xi;
        const ratio = Math.exp(Math.min(0, malaLogRatio(energy, x[i], xNew, stepSize, temperature)));
        if (ratio > 0) mean += (ratio * Math.exp((-xi * xi) / 2) * step) / Math.sqrt(2 * Math.PI);
      }
      total += density[i] * spacing * mean;
    }
    return Math.min(1, total);
  }

  Course.maths.langevin = {
    gaussian,
    doubleWell,
    unevenWells,
    langevinStep,
    logProposal,
    malaLogRatio,
    malaStep,
    contraction,
    ulaStabilityLimit,
    ulaVariance,
    ulaAutocorrelation,
    malaLogAcceptance,
    gibbs,
    malaAcceptance,
  };
})();
