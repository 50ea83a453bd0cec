"use strict";
// What happens in the figure "samplers", without its looks: particles on their way through a run, stop by stop, and
// how far they are from the exact density.
globalThis.Course ??= {};

(() => {
  const EXTENT = 3.2; // the picture shows [−3.2, 3.2]²
  const CELLS = 16; // a side, for counting

  const DENSITIES = {
    pinwheel: "Pinwheel",
    twoMoons: "Two moons",
    eightGaussians: "Eight Gaussians",
    unequalModes: "Three unequal modes",
  };
  const SAMPLERS = {
    ddpm: { text: "DDPM (ancestral)", short: "DDPM", color: "vermilion", marker: "circle" },
    ddim: { text: "DDIM", short: "DDIM", color: "blue", marker: "square" },
    euler: { text: "ODE, Euler", short: "Euler", color: "green", marker: "triangle" },
    heun: { text: "ODE, Heun", short: "Heun", color: "purple", marker: "diamond" },
    annealed: { text: "Langevin, annealed", short: "annealed", color: "orange", marker: "cross" },
    langevin: { text: "Langevin, one level", short: "Langevin", color: "grey", marker: "plus" },
  };
  /** How the last run is drawn that ended at a noise level. */
  const NOISY = { short: "… with noise", color: "grey", marker: "ring" };

  /** The time t of the linear schedule as a continuous clock: t = −1 is clean, log SNR is linear between steps. */
  class Clock {
    constructor() {
      this.alphaBars = [...Course.maths.schedules.alphaBar("linear")];
      this.logSnr = this.alphaBars.map((a) => Math.log(a / (1 - a)));
    }

    /** ᾱ at time t in [−1, T − 1]. */
    alphaBar(t) {
      if (t <= 0) return t <= -1 ? 1 : 1 + (t + 1) * (this.alphaBars[0] - 1);
      if (Number.isInteger(t)) return this.alphaBars[t];
      const below = Math.floor(t);
      const logSnr = this.logSnr[below] + (t - below) * (this.logSnr[below + 1] - this.logSnr[below]);
      return 1 / (1 + Math.exp(-logSnr));
    }

    /** The time at which ᾱ has this value; the last one if it is smaller than there. */
    time(alphaBar) {
      if (alphaBar >= this.alphaBars[0]) return (1 - alphaBar) / (1 - this.alphaBars[0]) - 1;
      const logSnr = Math.log(alphaBar / (1 - alphaBar));
      let [low, high] = [0, this.logSnr.length - 1];
      if (logSnr <= this.logSnr[high]) return high;
      while (high - low > 1) {
        const middle = (low + high) >> 1;
        if (this.logSnr[middle] >= logSnr) low = middle;
        else high = middle;
      }
      return low + (this.logSnr[low] - logSnr) / (this.logSnr[low] - this.logSnr[high]);
    }
  }

  /** One run, computed stop by stop when it is asked for, always with the same noise. */
  class Film {
    constructor(run, particles, rng) {
      Object.assign(this, { run, rng, stops: run.stops, last: run.stops.length - 1 });
      this.states = [Float64Array.from({ length: 2 * particles }, () => rng.normal())];
    }

    /** The particles at stop k. */
    state(k) {
      while (this.states.length <= k) {
        const x = this.states.at(-1);
        const noise = this.run.stochastic ? x.map(() => this.rng.normal()) : null;
        this.states.push(this.run.step(this.states.length - 1, x, noise));
      }
      return this.states[k];
    }

    /** Where particles are drawn at a position between stops: on the straight line. */
    between(position) {
      const k = Math.min(Math.floor(position), this.last);
      const [from, part] = [this.state(k), position - k];
      if (part < 1e-6) return from;
      const to = this.state(k + 1);
      return from.map((v, i) => v + part * (to[i] - v));
    }

    /** Network calls up to stop k. */
    calls(k) {
      return k === this.last ? this.run.evaluations : Math.round((this.run.evaluations / this.last) * k);
    }
  }

  /** The settings, the film that belongs to them, the position in it, and the numbers of what is seen. */
  class Show {
    /** @param {(seed: number) => {uniform(): number, normal(): number}} rng */
    constructor(rng) {
      Object.assign(this, { rng, seed: 1, density: "pinwheel", kind: "ddim", n: 20, particles: 1000, t: -1 });
      this.clock = new Clock();
      this.cells = new Course.maths.histograms.Cells(EXTENT, CELLS);
      this.#forget();
      this.#restart();
      this.move(this.film.last); // a finished run
    }

    get mixture() {
      return (this.made ??= Course.maths.mixtures[this.density]());
    }

    /** Plain Langevin dynamics stays at one noise level, which the reader chooses. */
    get isPlain() {
      return this.kind === "langevin";
    }

    get stop() {
      return Math.min(Math.floor(this.position + 1e-9), this.film.last);
    }

    get atEnd() {
      return this.position >= this.film.last;
    }

    /** ᾱ of the density and of the arrows that are drawn. */
    get alphaBar() {
      return this.clock.alphaBar(this.t);
    }

    /**
     * Other settings: a new film with the same noise, at the same place; at its end for another sampler or density.
     * @param {object} settings Some of density, kind, n, particles, seed.
     */
    change(settings) {
      const [atEnd, share] = [this.atEnd, this.position / this.film.last];
      Object.assign(this, settings);
      if ("density" in settings || "particles" in settings) this.#forget();
      if (settings.kind === "langevin") this.t = -1;
      this.#restart();
      const other = "kind" in settings || "density" in settings;
      this.move(atEnd || other ? this.film.last : Math.floor(share * this.film.last));
    }

    /** Go to a position in the film; the noise level follows. */
    move(position) {
      this.position = Math.min(position, this.film.last);
      if (this.isPlain) return;
      const k = this.stop;
      const [from, to] = [k, Math.min(k + 1, this.film.last)].map((at) => this.clock.time(this.film.stops[at]));
      this.t = from + Math.max(0, this.position - k) * (to - from);
    }

    /** Go to a noise level; the film follows: to the last stop at this noise or more, and on towards the next. */
    setTime(t) {
      this.t = t;
      if (this.isPlain) {
        this.#restart();
        return;
      }
      const times = this.film.stops.map((alphaBar) => this.clock.time(alphaBar));
      let k = 0;
      while (k < this.film.last && times[k + 1] >= t) k++;
      const part = k === this.film.last ? 0 : (times[k] - t) / (times[k] - times[k + 1]);
      this.position = k + Math.min(0.999, Math.max(0, part));
    }

    #restart() {
      const run = Course.maths.samplers.makeRun(this.kind, this.mixture, this.clock.alphaBars, this.n, this.alphaBar);
      this.film = new Film(run, this.particles, this.rng(this.seed));
      this.compared = null;
    }

    #forget() {
      this.made = null;
      this.truths = new Map(); // ᾱ → what is exact there
      this.finished = new Map(); // sampler → network calls → share out of place, of finished runs
    }

    /** What is exact at a noise level: { noised, probabilities, floor, marginal }. */
    truth(alphaBar) {
      if (!this.truths.has(alphaBar)) {
        const noised = this.mixture.noised(alphaBar);
        const probabilities = this.cells.probabilities(noised);
        const floor = Course.maths.histograms.samplingFloor(probabilities, this.particles);
        if (this.truths.size > 250) this.truths.clear();
        this.truths.set(alphaBar, { noised, probabilities, floor, marginal: noised.marginal(0) });
      }
      return this.truths.get(alphaBar);
    }

    /** A finished run; of those that end at a noise level, which only plain Langevin dynamics does, the last one. */
    #remember(alphaBar, calls, outOfPlace) {
      const name = alphaBar === 1 ? this.kind : "noisy";
      if (name === "noisy") this.finished.set(name, new Map());
      if (!this.finished.has(name)) this.finished.set(name, new Map());
      this.finished.get(name).set(calls, outOfPlace);
    }

    /** The numbers of the stop that was reached last; a finished run is remembered. */
    compare() {
      const { stop, film } = this;
      if (this.compared?.stop === stop) return this.compared;
      const { totalVariation, density } = Course.maths.histograms;
      const [alphaBar, x] = [film.stops[stop], film.state(stop)];
      const exact = this.truth(alphaBar);
      const outOfPlace = totalVariation(this.cells.shares(x), exact.probabilities);
      const heights = density(x, -EXTENT, EXTENT, 2 * CELLS, { stride: 2 });
      const modes = exact.noised.modeShares(x);
      this.compared = { stop, alphaBar, exact, outOfPlace, heights, modes, calls: film.calls(stop) };
      if (stop === film.last) this.#remember(alphaBar, this.compared.calls, outOfPlace);
      return this.compared;
    }
  }

  Course.experiments ??= {};
  Course.experiments.samplers = { Show, DENSITIES, SAMPLERS, NOISY, EXTENT };
})();
