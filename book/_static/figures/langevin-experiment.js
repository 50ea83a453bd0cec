"use strict";
// What happens in the figure "langevin", without its looks: a thousand chains, their settings, what is known exactly
// for these settings, and what has been measured.
globalThis.Course ??= {};

(() => {
  const CHAINS = 1000;
  const TRACERS = 2;
  const TRACE = 26; // states of the tracers that are kept
  const HISTORY = 240;
  const ZOOMS = [1, 2, 5].flatMap((m) => [1, 10, 100, 1e3, 1e4, 1e5].map((p) => m * p)).sort((a, b) => a - b);

  /** The landscapes; `barrier` splits two wells, `start` is where all chains begin, `curvature` the steepest bottom. */
  const ENERGIES = {
    gaussian: {
      text: "Gaussian x²/(2σ²)",
      make: (std) => Course.maths.langevin.gaussian(std),
      xlim: [-5, 5],
      elim: [0, 8],
      start: 2.5,
      stepSize: 1,
    },
    doubleWell: {
      text: "Two wells",
      bottom: "wells",
      make: () => Course.maths.langevin.doubleWell(),
      xlim: [-2.2, 2.2],
      elim: [-1, 7],
      barrier: 0,
      start: 1,
      stepSize: 0.05,
      curvature: 16,
    },
    unevenWells: {
      text: "Narrow and wide",
      bottom: "narrow well",
      make: () => Course.maths.langevin.unevenWells(),
      xlim: [-3, 4],
      elim: [0, 8],
      barrier: -0.6,
      start: 1,
      stepSize: 0.01,
      curvature: 1 / 0.12 ** 2,
    },
  };

  const short = (value) => value.toPrecision(3).replace(/\.?0+$/, "");
  const signed = (value) => value.toFixed(2).replace("-", "−");

  /** Steps until the square of the start, which shrinks by pull² a step, is a thousandth; at most 2000. */
  const forgetting = (pull) =>
    pull < 1 ? Math.ceil(Math.min(2000, Math.max(10, -3.5 / Math.log(Math.max(pull, 0.1))))) : 2000;

  class Experiment {
    /** @param {(seed: number) => {uniform(): number, normal(): number}} rng */
    constructor(rng) {
      Object.assign(this, { rng, seed: 1, energy: "gaussian", std: 1, stepSize: 1, temperature: 1, adjusted: false });
      this.found = new Map(); // results that have settled: "ULA 1" → { adjusted, stepSize, mean, error, rate }
      this.restart();
    }

    get shape() {
      return ENERGIES[this.energy];
    }

    get isGaussian() {
      return this.energy === "gaussian";
    }

    /** Whether chains are pulled apart at every step: unadjusted on a Gaussian, from ε = 4σ² on. */
    get unstable() {
      return !this.adjusted && this.isGaussian && this.stepSize >= this.limit;
    }

    /** The stability limit of unadjusted steps: 4σ², or 4/E″ at the steepest bottom. */
    get limit() {
      return this.isGaussian ? Course.maths.langevin.ulaStabilityLimit(this.std) : 4 / this.shape.curvature;
    }

    /** Whether all chains have run so far that they were stopped. */
    get over() {
      return this.chains.lost === CHAINS;
    }

    /** Whether the mean of x² needs a logarithmic axis. */
    get explodes() {
      return this.isGaussian && this.history.some(([, value]) => value > 50 * this.exact.gibbs.variance);
    }

    /** The part of the x-axis that is seen: the landscape's own; on a Gaussian a wider one if the crowd outgrows it. */
    get xlim() {
      return this.shape.xlim.map((v) => v * this.zoom);
    }

    /** The energies that are seen: those over `xlim`, as the parabola looks the same from any distance. */
    get elim() {
      return this.shape.elim.map((v) => v * this.zoom ** 2);
    }

    /** Whether averages are long enough to be shown. */
    get settled() {
      return this.chains.averaged >= 60 && this.chains.lost === 0 && !this.unstable;
    }

    /** New chains, all at the landscape's start. */
    restart() {
      this.zoom = 1;
      this.outAfter = null; // steps until the first chain had to be stopped
      const rng = this.rng(this.seed);
      const start = Float64Array.from({ length: CHAINS }, () => this.shape.start + 0.05 * rng.normal());
      this.chains = new Course.maths.chains.Chains(start, this.#settings(), rng);
      this.#begin();
    }

    /**
     * Other settings, for the chains where they are; for new ones if some have run away, or the landscape is another.
     * @param {object} settings Some of energy, std, stepSize, temperature, adjusted.
     */
    change(settings) {
      const fresh = "energy" in settings || this.chains.lost > 0 || this.chains.x.some((v) => Math.abs(v) > 50);
      Object.assign(this, settings);
      if (Object.keys(settings).some((key) => ["energy", "std", "temperature"].includes(key))) this.found.clear();
      if (fresh) {
        this.restart();
      } else {
        this.chains.change(this.#settings());
        this.#begin();
      }
    }

    /** What the chains need; what is known exactly comes on the way: `exact`. */
    #settings() {
      const maths = Course.maths.langevin;
      const { stepSize, temperature, adjusted, std, isGaussian, shape } = this;
      const energy = shape.make(std);
      const gibbs = maths.gibbs(energy, temperature);
      const acceptance = adjusted ? maths.malaAcceptance(energy, stepSize, temperature) : null;
      this.exact = {
        energy,
        gibbs,
        acceptance,
        formula: isGaussian && !adjusted ? maths.ulaVariance(std, stepSize, temperature) : gibbs.variance,
        left: shape.barrier === undefined ? null : gibbs.below(shape.barrier),
      };
      const share = Math.min(0.9, stepSize / (isGaussian ? 2 * std ** 2 : 20)) * (acceptance ?? 1);
      const burnIn =
        isGaussian && !adjusted ? forgetting(Math.abs(maths.contraction(std, stepSize))) : 3 * forgetting(1 - share);
      return { energy, stepSize, temperature, adjusted, centre: gibbs.mean, burnIn };
    }

    /** A new line of the history, from where the chains are. */
    #begin() {
      const [mean, spread] = [this.chains.mean(), this.chains.spread()];
      this.history = [[0, this.watched()]]; // [steps since the last change, spread or share left]
      this.stride = 1;
      this.trace = [this.#tracers()];
      this.#look();
      this.exact.start = { mean, variance: spread - (mean - this.chains.centre) ** 2 };
    }

    #tracers() {
      return Array.from(this.chains.x.subarray(0, TRACERS));
    }

    /** Step back from a Gaussian until 19 of 20 chains are seen; come nearer again once nearly all of them fit. */
    #look() {
      if (!this.isGaussian) return;
      const { xlim, elim } = this.shape;
      const half = Math.min(xlim[1], this.std * Math.sqrt(2 * elim[1])); // inside the axes both ways
      const seen = (zoom) => this.chains.x.reduce((count, v) => count + (Math.abs(v) <= zoom * half), 0) / CHAINS;
      let at = ZOOMS.indexOf(this.zoom);
      while (at < ZOOMS.length - 1 && seen(ZOOMS[at]) < 0.95) at++;
      while (at > 0 && seen(ZOOMS[at - 1]) > 0.995) at--;
      this.zoom = ZOOMS[at];
    }

    /** What the history is of: the share left of the barrier, or the mean square where there is none. */
    watched() {
      return this.shape.barrier === undefined ? this.chains.spread() : this.chains.below(this.shape.barrier);
    }

    /** The mean of x² k steps after the start of the history, exactly: mean and variance of a linear recursion. */
    predictedSpread(k) {
      const b = Course.maths.langevin.contraction(this.std, this.stepSize);
      const { mean, variance } = this.exact.start;
      const sum = Math.abs(b * b - 1) < 1e-12 ? k : (1 - b ** (2 * k)) / (1 - b * b);
      return b ** (2 * k) * (variance + mean ** 2) + this.stepSize * this.temperature * sum;
    }

    /** Some steps of all chains; fewer if all of them have been stopped far out. */
    advance(steps) {
      for (let k = 0; k < steps && !this.over; k++) {
        this.chains.step();
        if (this.outAfter === null && this.chains.lost > 0) this.outAfter = this.chains.sinceChange;
        this.trace.push(this.#tracers());
        if (this.trace.length > TRACE) this.trace.shift();
        if (this.chains.sinceChange % this.stride === 0) this.history.push([this.chains.sinceChange, this.watched()]);
        if (this.history.length > HISTORY) {
          this.history = this.history.filter((_, i) => i % 2 === 0);
          this.stride *= 2;
        }
      }
      this.#look();
    }

    /** { variance, acceptance } measured so far, each { mean, error } or null; remembered in `found`. */
    measure() {
      const { adjusted, stepSize } = this;
      if (!this.settled) return { variance: null, acceptance: null };
      const variance = this.chains.averageSpread();
      const acceptance = adjusted ? this.chains.acceptance() : null;
      const key = `${adjusted ? "MALA" : "ULA"} ${stepSize}`;
      this.found.set(key, { adjusted, stepSize, ...variance, rate: acceptance?.mean });
      return { variance, acceptance };
    }

    /** What a step does, in a sentence. */
    explanation() {
      if (this.adjusted) {
        const cost = "what a long step costs is refusals, and time.";
        return `Each chain may refuse its step. That keeps the density exact at every step size; ${cost}`;
      }
      return this.isGaussian ? this.#onGaussian() : this.#onWells();
    }

    #onGaussian() {
      const b = Course.maths.langevin.contraction(this.std, this.stepSize);
      const [edge, factor] = [short(this.limit), `b = 1 − ε/(2σ²) = ${signed(b)}`];
      if (this.stepSize > this.limit) {
        const end = this.over
          ? `All ${CHAINS} chains ran past 10⁶, the first after ${this.outAfter} steps.`
          : "There is no variance to settle at.";
        const step = `each step multiplies x by ${factor}, across the minimum and further out.`;
        return `ε is above 4σ² = ${edge}: ${step} ${end}`;
      }
      if (this.unstable)
        return "ε = 4σ² exactly: b = −1. Chains are mirrored at each step, and noise adds up without end.";
      let remark = b < 0 ? ": each step jumps across the minimum, and still they settle" : "";
      if (Math.abs(b) < 1e-9)
        remark = ": each state is independent of the one before, and the variance is twice too large";
      return `Each step multiplies x by ${factor}${remark}. Stable up to 4σ² = ${edge}.`;
    }

    #onWells() {
      const [edge, bottom] = [short(this.limit), this.shape.bottom];
      if (this.chains.lost > 0) {
        const { lost } = this.chains;
        const why = "far out the landscape is too steep for any fixed step.";
        const who = `${lost} of ${CHAINS} chains ${lost === 1 ? "has" : "have"} run away`;
        return `${who}, the first after ${this.outAfter} steps: ${why} Take a smaller one, or the accept step.`;
      }
      if (this.stepSize < this.limit)
        return `Around the bottom of the ${bottom} steps are stable below 4/E″ ≈ ${edge}.`;
      return `The step is longer than 4/E″ ≈ ${edge}: chains are thrown out of the ${bottom}.`;
    }
  }

  Course.experiments ??= {};
  Course.experiments.langevin = { Experiment, ENERGIES, CHAINS, TRACE };
})();
