"use strict";
// Points counted in cells beside the exact shares of the cells: how far a set of points is from a density, and how far
// as many exact draws would be.
globalThis.Course ??= {};
Course.maths ??= {};

(() => {
  // Gauss–Legendre's three nodes and weights on [−1, 1]: exact for polynomials up to degree five.
  const NODES = [-Math.sqrt(3 / 5), 0, Math.sqrt(3 / 5)];
  const WEIGHTS = [5 / 9, 8 / 9, 5 / 9];

  /** A grid of n × n cells over [−extent, extent]². Everything outside of it is one more cell, the last. */
  class Cells {
    constructor(extent, n) {
      Object.assign(this, { extent, n, width: (2 * extent) / n });
    }

    /** The share of the points in each cell, length n² + 1; a point that is not finite is outside. */
    shares(points) {
      const { n, extent, width } = this;
      const shares = new Float64Array(n * n + 1);
      for (let i = 0; i < points.length; i += 2) {
        const [column, row] = [Math.floor((points[i] + extent) / width), Math.floor((points[i + 1] + extent) / width)];
        const inside = column >= 0 && column < n && row >= 0 && row < n;
        shares[inside ? row * n + column : n * n] += 2 / points.length;
      }
      return shares;
    }

    /** The exact share of each cell, by quadrature in `parts`² pieces of it. @param mixture has logProb(points). */
    probabilities(mixture, parts = 2) {
      const { n, extent, width } = this;
      const nodes = [];
      for (let part = 0; part < parts; part++) {
        NODES.forEach((node, j) => nodes.push([(part + (node + 1) / 2) / parts, WEIGHTS[j] / (2 * parts)]));
      }
      const points = new Float64Array(2 * nodes.length ** 2);
      const shares = new Float64Array(n * n + 1);
      let inside = 0;
      for (let cell = 0; cell < n * n; cell++) {
        const [left, bottom] = [-extent + width * (cell % n), -extent + width * Math.floor(cell / n)];
        let at = 0;
        for (const [v] of nodes)
          for (const [u] of nodes) {
            points[at++] = left + width * u;
            points[at++] = bottom + width * v;
          }
        const logs = mixture.logProb(points);
        at = 0;
        for (const [, b] of nodes)
          for (const [, a] of nodes) shares[cell] += a * b * Math.exp(logs[at++]) * width * width;
        inside += shares[cell];
      }
      shares[n * n] = Math.max(0, 1 - inside);
      return shares;
    }
  }

  /** ½ Σ |p − q|: the share that would have to be moved to make one distribution into the other. */
  function totalVariation(p, q) {
    let sum = 0;
    for (let i = 0; i < p.length; i++) sum += Math.abs(p[i] - q[i]) / 2;
    return sum;
  }

  /**
   * The expected total variation between the shares of n independent exact draws and their probabilities: what chance
   * alone makes. The mean absolute deviation of a binomial is E|X − np| = 2m C(n, m) p^m (1 − p)^(n − m + 1) with
   * m = ⌊np⌋ + 1 (de Moivre 1730; Diaconis & Zabell 1991, doi:10.1214/ss/1177011699).
   */
  function samplingFloor(probabilities, n) {
    const logFactorial = new Float64Array(n + 1);
    for (let k = 1; k <= n; k++) logFactorial[k] = logFactorial[k - 1] + Math.log(k);
    let sum = 0;
    for (const p of probabilities) {
      const m = Math.floor(n * p) + 1;
      if (p <= 0 || m > n) continue;
      const choose = logFactorial[n] - logFactorial[m] - logFactorial[n - m];
      sum += Math.exp(Math.log(m / n) + choose + m * Math.log(p) + (n - m + 1) * Math.log1p(-p));
    }
    return sum;
  }

  /** Counts of `values` (every `stride`-th from `first` on) in `n` equal bins over [low, high], as a density. */
  function density(values, low, high, n, { first = 0, stride = 1 } = {}) {
    const heights = new Float64Array(n);
    const width = (high - low) / n;
    const count = Math.ceil((values.length - first) / stride);
    for (let i = first; i < values.length; i += stride) {
      const bin = Math.floor((values[i] - low) / width);
      if (bin >= 0 && bin < n) heights[bin] += 1 / (count * width);
    }
    return heights;
  }

  Course.maths.histograms = { Cells, totalVariation, samplingFloor, density };
})();
