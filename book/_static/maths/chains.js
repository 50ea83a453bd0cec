"use strict";
// A crowd of Langevin chains on an energy of one variable, and what can be said of it: moments now, averages over time
// with their standard errors, what was accepted, who has run away.
globalThis.Course ??= {};
Course.maths ??= {};

(() => {
  const LOST = 1e6; // beyond this a chain is stopped, long before numbers overflow

  /** Mean and standard error of independent numbers. */
  function meanAndError(values) {
    const n = values.length;
    const mean = values.reduce((sum, v) => sum + v, 0) / n;
    const variance = values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (n - 1);
    return { mean, error: Math.sqrt(variance / n) };
  }

  class Chains {
    /**
     * @param {Float64Array} start Where each chain starts.
     * @param {{energy, stepSize, temperature, adjusted, centre, burnIn}} settings `adjusted`: with the accept step
     *   (MALA). `centre`: what spread is measured around. `burnIn`: steps before averages begin.
     * @param {{uniform(): number, normal(): number}} rng
     */
    constructor(start, settings, rng) {
      this.x = Float64Array.from(start);
      this.rng = rng;
      this.steps = 0;
      this.change(settings);
    }

    /** Go on from here with other settings; averages begin anew. */
    change(settings) {
      Object.assign(this, settings);
      this.sinceChange = 0;
      this.averaged = 0;
      this.squares = new Float64Array(this.x.length); // of each chain, Σ (x − centre)² over time
      this.moves = new Float64Array(this.x.length); // of each chain, accepted proposals
    }

    /** One step of all chains that are not lost. */
    step() {
      const { energy, stepSize, temperature, rng } = this;
      const before = this.x;
      const noise = before.map(() => rng.normal());
      const { langevinStep, malaStep } = Course.maths.langevin;
      const after = this.adjusted
        ? malaStep(
            energy,
            before,
            stepSize,
            temperature,
            noise,
            before.map(() => rng.uniform()),
          ).x
        : langevinStep(before, before.map(energy.gradient), stepSize, temperature, noise);
      this.x = after.map((v, i) => {
        if (Math.abs(before[i]) >= LOST) return before[i];
        return Math.abs(v) < LOST ? v : Math.sign(v || before[i]) * LOST;
      });
      this.steps++;
      if (++this.sinceChange <= this.burnIn) return;
      this.averaged++;
      for (let i = 0; i < this.x.length; i++) {
        this.squares[i] += (this.x[i] - this.centre) ** 2;
        if (this.x[i] !== before[i]) this.moves[i]++;
      }
    }

    /** How many chains have been stopped far outside. */
    get lost() {
      return this.x.reduce((count, v) => count + (Math.abs(v) >= LOST), 0);
    }

    /** The share of the chains left of a point, now. */
    below(limit) {
      return this.x.reduce((count, v) => count + (v < limit), 0) / this.x.length;
    }

    /** Mean of (x − centre)² over all chains, now. */
    spread() {
      return this.x.reduce((sum, v) => sum + (v - this.centre) ** 2, 0) / this.x.length;
    }

    /** Mean of x over all chains, now. */
    mean() {
      return this.x.reduce((sum, v) => sum + v, 0) / this.x.length;
    }

    /**
     * { mean, error } of (x − centre)² over chains and over the steps since the burn-in, or null before its end. States
     * of one chain are correlated, chains are independent: so the error comes from the spread of the chains' averages.
     */
    averageSpread() {
      return this.averaged ? meanAndError(this.squares.map((s) => s / this.averaged)) : null;
    }

    /** { mean, error } of the share of accepted proposals since the burn-in, or null. */
    acceptance() {
      return this.averaged ? meanAndError(this.moves.map((m) => m / this.averaged)) : null;
    }
  }

  Course.maths.chains = { Chains, LOST, meanAndError };
})();
