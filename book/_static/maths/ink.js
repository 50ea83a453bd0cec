"use strict";
// From strokes to a picture like those of the digits data (Alpaydin & Kaynak 1998): a bitmap of 32 × 32 points, brought
// to a standard size, whose blocks of 4 × 4 are counted, which gives 8 × 8 numbers from 0 to 16. The digits of the
// data are 32 points high, most are about 20 wide, and a 1 has as much ink as an 8. And where an energy lies among others.
globalThis.Course ??= {};
Course.maths ??= {};

(() => {
  const SIZE = 32;
  const BLOCK = 4;
  const WIDTH = 20;
  const [THIN, THICK] = [1.6, 5]; // radii of pens

  /**
   * Strokes (lists of [x, y]) scaled so that, drawn with that pen, they fill the bitmap's height, centred. A drawing
   * that would be wider than `width` is made narrower, by half at most: a flat one stays flat.
   */
  function normalised(strokes, radius, { size = SIZE, width = WIDTH } = {}) {
    const points = strokes.flat();
    if (!points.length) return strokes;
    const [xs, ys] = [points.map((p) => p[0]), points.map((p) => p[1])];
    const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const high = bottom > top ? (size - 2 * radius) / (bottom - top) : Infinity;
    const wide = Math.min(high, right > left ? (width - 2 * radius) / (right - left) : Infinity);
    const [sx, sy] = wide < Infinity ? [wide, Math.min(high, 2 * wide)] : [1, 1]; // a dot keeps its size
    const [cx, cy] = [(left + right) / 2, (top + bottom) / 2];
    return strokes.map((stroke) => stroke.map(([x, y]) => [size / 2 + sx * (x - cx), size / 2 + sy * (y - cy)]));
  }

  /** The square of the distance of a point to the segment from a to b. */
  function distance2(x, y, a, b) {
    const [dx, dy] = [b[0] - a[0], b[1] - a[1]];
    const along = dx || dy ? ((x - a[0]) * dx + (y - a[1]) * dy) / (dx * dx + dy * dy) : 0;
    const share = Math.min(1, Math.max(0, along));
    return (x - a[0] - share * dx) ** 2 + (y - a[1] - share * dy) ** 2;
  }

  /** Which of size × size points are within `radius` of a stroke: ones and zeros, by rows. */
  function bitmap(strokes, radius, size = SIZE) {
    const points = new Uint8Array(size * size);
    for (const stroke of strokes) {
      for (let k = 0; k < stroke.length; k++) {
        const [a, b] = [stroke[Math.max(0, k - 1)], stroke[k]];
        const low = (i) => Math.max(0, Math.floor(Math.min(a[i], b[i]) - radius));
        const high = (i) => Math.min(size - 1, Math.ceil(Math.max(a[i], b[i]) + radius));
        for (let y = low(1); y <= high(1); y++) {
          for (let x = low(0); x <= high(0); x++) {
            if (distance2(x + 0.5, y + 0.5, a, b) <= radius * radius) points[y * size + x] = 1;
          }
        }
      }
    }
    return points;
  }

  /** Radius of the pen with which a drawing, brought to size, inks that share of the bitmap, if a sensible one does. */
  function penFor(strokes, share) {
    let [low, high] = [THIN, THICK];
    for (let k = 0; k < 8; k++) {
      const radius = (low + high) / 2;
      const inked = bitmap(normalised(strokes, radius), radius).reduce((sum, set) => sum + set, 0);
      if (inked < share * SIZE * SIZE) low = radius;
      else high = radius;
    }
    return (low + high) / 2;
  }

  /** How many points of each block are set: (size/4)² numbers from 0 to 16. */
  function counts(points, size = SIZE) {
    const side = size / BLOCK;
    const found = new Float64Array(side * side);
    points.forEach((set, i) => {
      found[Math.floor(Math.floor(i / size) / BLOCK) * side + Math.floor((i % size) / BLOCK)] += set;
    });
    return found;
  }

  /** Counts as a picture in [−1, 1]. */
  const picture = (numbers) => Float64Array.from(numbers, (count) => count / 8 - 1);

  /** Per cent of energies below one, from sorted energies at evenly spaced shares (as helpers.serving.percentile). */
  function percentile(quantiles, energy) {
    const last = quantiles.length - 1;
    if (energy <= quantiles[0]) return 0;
    if (energy > quantiles[last]) return 100;
    const right = quantiles.findIndex((knot) => knot >= energy);
    return (100 * (right - 1 + (energy - quantiles[right - 1]) / (quantiles[right] - quantiles[right - 1]))) / last;
  }

  Course.maths.ink = { bitmap, counts, normalised, penFor, percentile, picture };
})();
