"use strict";
// Gaussian mixtures in the plane, whose noised versions, scores and best denoisers are known exactly: the JavaScript
// twin of helpers/oracle/densities.py. Noising x_t = √ᾱ x_0 + √(1−ᾱ) ε turns Σ_k w_k N(μ_k, Σ_k) into the mixture
// Σ_k w_k N(√ᾱ μ_k, ᾱΣ_k + (1−ᾱ)I). Points are Float64Arrays x1, y1, x2, y2, …; randomness is an argument.
globalThis.Course ??= {};
Course.maths ??= {};

(() => {
  /** Σ_k w_k N(x; μ_k, Σ_k) in two dimensions. */
  class GaussianMixture {
    /**
     * @param {number[][]} means Pairs [x, y], one for each component.
     * @param {number | number[][][]} covariances One 2×2 matrix for each component, or a number s² for s²I everywhere.
     * @param {number[]} [weights] Positive; normalised here. Equal if not given.
     * @param {{label: string, components: number[]}[]} [modes] What a reader would call a mode: components that belong
     *   together. Each component is one if not given.
     */
    constructor(means, covariances, weights = means.map(() => 1), modes = undefined) {
      const round =
        typeof covariances === "number"
          ? [
              [covariances, 0],
              [0, covariances],
            ]
          : null;
      const total = weights.reduce((sum, w) => sum + w, 0);
      this.means = means;
      this.covariances = round ? means.map(() => round) : covariances;
      this.weights = weights.map((w) => w / total);
      this.modes = modes ?? means.map((_, k) => ({ label: String(k + 1), components: [k] }));
      if (means.length !== this.covariances.length || means.length !== weights.length) {
        throw new RangeError(`expected as many covariances and weights as means, ${means.length}`);
      }
      // For each component: mean, precision matrix (three entries), log(w / (2π √det Σ)).
      this.constants = Float64Array.from(
        means.flatMap(([x, y], k) => {
          const [[a, b], [, c]] = this.covariances[k];
          const det = a * c - b * b;
          if (!(a > 0 && det > 0 && this.weights[k] > 0)) {
            throw new RangeError("expected positive definite covariances and positive weights");
          }
          return [
            x,
            y,
            c / det,
            -b / det,
            a / det,
            Math.log(this.weights[k]) - Math.log(2 * Math.PI) - Math.log(det) / 2,
          ];
        }),
      );
    }

    /** The density of x_t at ᾱ in [0, 1]: again a mixture. */
    noised(alphaBar) {
      const [signal, noise] = [Math.sqrt(alphaBar), 1 - alphaBar];
      return new GaussianMixture(
        this.means.map(([x, y]) => [signal * x, signal * y]),
        this.covariances.map(([[a, b], [, c]]) => [
          [alphaBar * a + noise, alphaBar * b],
          [alphaBar * b, alphaBar * c + noise],
        ]),
        this.weights,
        this.modes,
      );
    }

    /**
     * log p, score and responsibilities at n points, each into the array that is given for it.
     * @param {Float64Array} points Length 2n.
     * @param {{logProb?: Float64Array, score?: Float64Array, responsibilities?: Float64Array}} into Lengths n, 2n, nK.
     */
    evaluate(points, { logProb, score, responsibilities }) {
      const constants = this.constants;
      const K = this.means.length;
      const logs = new Float64Array(K);
      for (let i = 0; i < points.length / 2; i++) {
        const [x, y] = [points[2 * i], points[2 * i + 1]];
        let highest = -Infinity;
        for (let k = 0, c = 0; k < K; k++, c += 6) {
          const [dx, dy] = [x - constants[c], y - constants[c + 1]];
          const square = constants[c + 2] * dx * dx + 2 * constants[c + 3] * dx * dy + constants[c + 4] * dy * dy;
          logs[k] = constants[c + 5] - square / 2;
          if (logs[k] > highest) highest = logs[k];
        }
        let [sum, sx, sy] = [0, 0, 0];
        for (let k = 0, c = 0; k < K; k++, c += 6) {
          const weight = logs[k] < highest - 45 ? 0 : Math.exp(logs[k] - highest); // less than rounding: no exp needed
          if (responsibilities) responsibilities[i * K + k] = weight;
          if (weight === 0) continue;
          const [dx, dy] = [x - constants[c], y - constants[c + 1]];
          sum += weight;
          sx -= weight * (constants[c + 2] * dx + constants[c + 3] * dy);
          sy -= weight * (constants[c + 3] * dx + constants[c + 4] * dy);
        }
        if (logProb) logProb[i] = highest + Math.log(sum);
        if (score) {
          score[2 * i] = sx / sum;
          score[2 * i + 1] = sy / sum;
        }
        if (responsibilities) for (let k = 0; k < K; k++) responsibilities[i * K + k] /= sum;
      }
    }

    /** log p at each point, length n. */
    logProb(points) {
      const logProb = new Float64Array(points.length / 2);
      this.evaluate(points, { logProb });
      return logProb;
    }

    /** ∇ log p at each point, length 2n. */
    score(points) {
      const score = new Float64Array(points.length);
      this.evaluate(points, { score });
      return score;
    }

    /** p(component k | point), length nK, a row for each point. */
    responsibilities(points) {
      const responsibilities = new Float64Array((points.length / 2) * this.means.length);
      this.evaluate(points, { responsibilities });
      return responsibilities;
    }

    /** n independent draws, length 2n. @param {{uniform(): number, normal(): number}} rng */
    sample(n, rng) {
      const points = new Float64Array(2 * n);
      for (let i = 0; i < n; i++) {
        let [u, k] = [rng.uniform(), 0];
        while (k < this.weights.length - 1 && u >= this.weights[k]) u -= this.weights[k++];
        const [[a, b], [, c]] = this.covariances[k];
        const [first, second] = [rng.normal(), rng.normal()];
        const low = b / Math.sqrt(a); // Cholesky's factor of Σ is [[√a, 0], [b/√a, √(c − b²/a)]]
        points[2 * i] = this.means[k][0] + Math.sqrt(a) * first;
        points[2 * i + 1] = this.means[k][1] + low * first + Math.sqrt(c - low * low) * second;
      }
      return points;
    }

    /** The density of one coordinate (0 or 1), a function of a number. */
    marginal(axis) {
      const parts = this.means.map((mean, k) => [this.weights[k], mean[axis], this.covariances[k][axis][axis]]);
      return (x) =>
        parts.reduce(
          (sum, [w, m, v]) => sum + (w * Math.exp(-((x - m) ** 2) / (2 * v))) / Math.sqrt(2 * Math.PI * v),
          0,
        );
    }

    /** The smallest variance of any component in any direction: how fine the density's details are. */
    smallestVariance() {
      return Math.min(...this.covariances.map(([[a, b], [, c]]) => (a + c) / 2 - Math.hypot((a - c) / 2, b)));
    }

    /**
     * Which share of the points each mode explains, the mean of p(mode | point). For draws from this mixture its
     * expectation is the mode's weight, exactly, however much the modes overlap.
     * @returns {{label: string, share: number, exact: number, standardError: number}[]} One for each mode; the error
     *   is that of as many independent exact draws, √(w(1 − w)/n), a little too large where modes overlap.
     */
    modeShares(points) {
      const [n, K] = [points.length / 2, this.means.length];
      const all = this.responsibilities(points);
      return this.modes.map(({ label, components }) => {
        const exact = components.reduce((sum, k) => sum + this.weights[k], 0);
        let share = 0;
        for (const k of components) for (let i = 0; i < n; i++) share += all[i * K + k] / n;
        return { label, share, exact, standardError: Math.sqrt((exact * (1 - exact)) / n) };
      });
    }
  }

  /** The perfect noise predictor, ε̂(x_t) = −√(1−ᾱ) ∇ log p_t(x_t). */
  const exactEps = (mixture, xT, alphaBar) =>
    mixture
      .noised(alphaBar)
      .score(xT)
      .map((s) => -Math.sqrt(1 - alphaBar) * s);

  /** D(y; σ) = E[x_0 | x_0 + σε = y], the best denoiser, by Tweedie's formula. */
  function exactDenoiser(mixture) {
    return (y, sigma) => {
      const alphaBar = 1 / (1 + sigma * sigma);
      const scale = Math.sqrt(alphaBar);
      const score = mixture.noised(alphaBar).score(y.map((v) => scale * v));
      return y.map((v, i) => v + ((1 - alphaBar) / scale) * score[i]);
    };
  }

  // --- the densities of the figure

  const rotated = (along, across, angle) => {
    const [c, s] = [Math.cos(angle), Math.sin(angle)];
    const [u, v] = [along * along, across * across];
    return [
      [u * c * c + v * s * s, (u - v) * c * s],
      [(u - v) * c * s, u * s * s + v * c * c],
    ];
  };

  /** Eight equal round Gaussians on a circle; helpers.oracle.eight_gaussians. */
  function eightGaussians(radius = 2, std = 0.3) {
    const angles = Array.from({ length: 8 }, (_, k) => (2 * Math.PI * k) / 8);
    return new GaussianMixture(
      angles.map((a) => [radius * Math.cos(a), radius * Math.sin(a)]),
      std * std,
    );
  }

  /** Three round Gaussians on a triangle that hold 70, 20 and 10 % of the points. */
  function unequalModes(std = 0.3) {
    const corners = [1 / 2, 7 / 6, 11 / 6].map((a) => [1.5 * Math.cos(a * Math.PI), 1.5 * Math.sin(a * Math.PI)]);
    const modes = ["top", "left", "right"].map((label, k) => ({ label, components: [k] }));
    return new GaussianMixture(corners, std * std, [0.7, 0.2, 0.1], modes);
  }

  /** Two half circles that reach into each other, each a chain of `n` long thin Gaussians. */
  function twoMoons(n = 8) {
    const [means, covariances] = [[], []];
    for (const sign of [1, -1]) {
      for (let k = 0; k < n; k++) {
        const angle = (Math.PI * (k + 0.5)) / n;
        means.push([1.5 * sign * (Math.cos(angle) - 0.5), 1.5 * sign * (Math.sin(angle) - 0.25)]);
        covariances.push(rotated((0.6 * 1.5 * Math.PI) / n, 0.12, angle + Math.PI / 2));
      }
    }
    const half = (from) => Array.from({ length: n }, (_, k) => from + k);
    const modes = [
      { label: "upper", components: half(0) },
      { label: "lower", components: half(n) },
    ];
    return new GaussianMixture(
      means,
      covariances,
      means.map(() => 1),
      modes,
    );
  }

  /** Five curved arms, each of three long thin Gaussians. */
  function pinwheel(arms = 5) {
    const [means, covariances, modes] = [[], [], []];
    for (let arm = 0; arm < arms; arm++) {
      modes.push({ label: String(arm + 1), components: [] });
      for (let k = 0; k < 3; k++) {
        const radius = 0.75 + 0.62 * k;
        const angle = (2 * Math.PI * arm) / arms + 0.42 * k;
        modes[arm].components.push(means.length);
        means.push([radius * Math.cos(angle), radius * Math.sin(angle)]);
        covariances.push(rotated(0.3, 0.09, angle + Math.atan((0.42 * radius) / 0.62)));
      }
    }
    return new GaussianMixture(
      means,
      covariances,
      means.map(() => 1),
      modes,
    );
  }

  Course.maths.mixtures = {
    GaussianMixture,
    exactEps,
    exactDenoiser,
    eightGaussians,
    unequalModes,
    twoMoons,
    pinwheel,
  };
})();
