"use strict";
// How the figure "samplers" draws what it shows.
globalThis.Course ??= {};

(() => {
  const TRAILS = 40; // particles whose paths are drawn

  /** Centres of side × side cells over the picture, row by row from the bottom. */
  function cellCentres(side) {
    const { EXTENT } = Course.experiments.samplers;
    return Float64Array.from({ length: 2 * side * side }, (_, i) => {
      const cell = i >> 1;
      return EXTENT * ((2 * (i % 2 ? Math.floor(cell / side) : cell % side) + 1) / side - 1);
    });
  }

  /** A density as a cloud of one colour, the square root of its height as opacity. */
  function drawDensity(context, box, mixture, color, strength) {
    const side = 72;
    const logs = mixture.logProb(cellCentres(side));
    const highest = logs.reduce((a, b) => Math.max(a, b));
    const image = new ImageData(side, side);
    const rgb = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
    logs.forEach((log, i) => {
      const pixel = (side - 1 - Math.floor(i / side)) * side + (i % side);
      image.data.set([...rgb, strength * Math.exp((log - highest) / 2)], 4 * pixel);
    });
    const small = document.createElement("canvas");
    small.width = small.height = side;
    small.getContext("2d").putImageData(image, 0, 0);
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = "high";
    context.drawImage(small, box.x, box.y, box.width, box.height);
  }

  /** Arrows along the score; lengths m become m/(m + 2) of a cell, so that weak and strong ones both show. */
  function drawArrows(context, box, x, y, mixture) {
    const side = box.width < 330 ? 13 : 17;
    const points = cellCentres(side);
    const score = mixture.score(points);
    context.lineWidth = 1;
    context.beginPath();
    for (let i = 0; i < points.length; i += 2) {
      const size = Math.hypot(score[i], score[i + 1]);
      if (size < 1e-9) continue;
      const length = (0.92 * (box.width / side) * size) / (size + 2);
      const head = Math.min(4.5, 0.45 * length);
      const [ux, uy] = [score[i] / size, -score[i + 1] / size];
      const [tipX, tipY] = [x(points[i]) + (ux * length) / 2, y(points[i + 1]) + (uy * length) / 2];
      context.moveTo(tipX - ux * length, tipY - uy * length);
      context.lineTo(tipX, tipY);
      context.moveTo(tipX - head * (ux + 0.55 * uy), tipY - head * (uy - 0.55 * ux));
      context.lineTo(tipX, tipY);
      context.lineTo(tipX - head * (ux - 0.55 * uy), tipY - head * (uy + 0.55 * ux));
    }
    context.stroke();
  }

  function drawParticles(context, points, x, y, radius) {
    context.beginPath();
    for (let i = 0; i < points.length; i += 2) {
      const [px, py] = [x(points[i]), y(points[i + 1])];
      context.moveTo(px + radius, py);
      context.arc(px, py, radius, 0, 2 * Math.PI);
    }
    context.fill();
  }

  /** The paths of a few particles: whole where they are smooth, the last stops where each step is a new chance. */
  function drawTrails(context, film, position, here, x, y) {
    const now = Math.floor(position);
    const first = film.run.stochastic ? Math.max(0, now - 5) : 0;
    context.lineWidth = 1.3;
    for (let k = first; k <= now; k++) {
      const [from, to] = [film.states[k], k < now ? film.states[k + 1] : here];
      context.globalAlpha = 0.15 + 0.6 * ((k - first + 1) / (now - first + 1)) ** 2; // fainter the longer ago
      context.beginPath();
      for (let i = 0; i < 2 * TRAILS; i += 2) {
        context.moveTo(x(from[i]), y(from[i + 1]));
        context.lineTo(x(to[i]), y(to[i + 1]));
      }
      context.stroke();
    }
  }

  /** Density, arrows, trails and particles. @param {{arrows: boolean, trails: boolean}} shown */
  function drawPlane(context, width, height, colors, show, shown) {
    const { EXTENT } = Course.experiments.samplers;
    const box = { x: 30, y: 20, width: width - 38, height: width - 38 };
    const noised = show.mixture.noised(show.alphaBar);
    const here = show.film.between(show.position);
    drawDensity(context, box, noised, colors.blue, colors.ground < "#8" ? 150 : 120); // stronger on a dark ground
    const limits = { xlim: [-EXTENT, EXTENT], ylim: [-EXTENT, EXTENT], xticks: [-2, 0, 2], yticks: [-2, 0, 2] };
    const { x, y } = Course.figures.axes(context, box, { ...limits, grid: false, xlabel: "x₁", ylabel: "x₂" });
    Course.plots.clipped(context, box, () => {
      context.strokeStyle = colors.muted;
      context.globalAlpha = 0.6;
      if (shown.arrows) drawArrows(context, box, x, y, noised);
      context.strokeStyle = context.fillStyle = colors.vermilion;
      if (shown.trails) drawTrails(context, show.film, show.position, here, x, y);
      context.globalAlpha = 0.8;
      drawParticles(context, here, x, y, (show.particles > 1500 ? 1.3 : 1.7) * Math.min(1, width / 420));
    });
  }

  /** The histogram of x₁ beside the exact marginal density. */
  function drawMarginal(context, width, height, colors, show) {
    const { EXTENT } = Course.experiments.samplers;
    const { heights, exact } = show.compare();
    const curve = Array.from({ length: 161 }, (_, i) => EXTENT * (i / 80 - 1)).map((v) => [v, exact.marginal(v)]);
    const { x, y, box } = Course.plots.panel(context, width, height, {
      xlim: [-EXTENT, EXTENT],
      ylim: [0, 1.25 * Math.max(...curve.map(([, p]) => p))],
      ylabel: "density of x₁",
      xticks: [-2, 0, 2],
    });
    Course.plots.clipped(context, box, () => {
      context.globalAlpha = 0.55;
      context.fillStyle = colors.vermilion;
      Course.plots.bars(context, box, y, heights);
      context.globalAlpha = 1;
      context.strokeStyle = colors.blue;
      context.lineWidth = 2;
      const line = curve.map(([v, p]) => [x(v), y(p)]);
      Course.plots.line(context, line);
    });
    const words = Object.entries({ particles: colors.vermilion, exact: colors.blue });
    Course.plots.legend(context, width - 12, 14, words, colors);
  }

  /** The share of each mode as a bar, its exact share as a line with a band of two standard errors. */
  function drawShares(context, width, height, colors, show) {
    const { modes } = show.compare();
    const { y, box } = Course.plots.panel(context, width, height, {
      xlim: [0, modes.length],
      ylim: [0, 1.35 * Math.max(...modes.flatMap(({ share, exact }) => [share, exact]))],
      ylabel: "share of each mode",
      xticks: modes.map(({ label }, k) => [k + 0.5, label]),
    });
    const wide = box.width / modes.length;
    modes.forEach(({ share, exact, standardError }, k) => {
      const left = box.x + wide * (k + 0.1);
      context.globalAlpha = 0.55;
      context.fillStyle = colors.vermilion;
      context.fillRect(left + 0.1 * wide, y(share), 0.6 * wide, y(0) - y(share));
      context.globalAlpha = 0.3;
      context.fillStyle = colors.blue;
      const [high, low] = [y(exact + 2 * standardError), y(Math.max(0, exact - 2 * standardError))];
      context.fillRect(left, high, 0.8 * wide, low - high);
      context.globalAlpha = 1;
      context.fillRect(left, y(exact) - 1, 0.8 * wide, 2);
    });
  }

  // Corners of shapes of radius one; y points down.
  const SHAPES = {
    square: [
      [-0.9, -0.9],
      [0.9, -0.9],
      [0.9, 0.9],
      [-0.9, 0.9],
    ],
    triangle: [
      [0, -1.25],
      [1.2, 1],
      [-1.2, 1],
    ],
    diamond: [
      [0, -1.25],
      [1.2, 0],
      [0, 1.25],
      [-1.2, 0],
    ],
    cross: [
      [-1, -1],
      [1, 1],
      [0, 0],
      [1, -1],
      [-1, 1],
      [0, 0],
    ],
    plus: [
      [-1.3, 0],
      [1.3, 0],
      [0, 0],
      [0, -1.3],
      [0, 1.3],
      [0, 0],
    ],
  };

  /** A dot of a shape of its own for each sampler, so that colour is not needed to tell them apart. */
  function drawMarker(context, shape, x, y, radius, color) {
    context.fillStyle = context.strokeStyle = color;
    context.lineWidth = 2;
    context.beginPath();
    if (shape === "circle" || shape === "ring") context.arc(x, y, radius, 0, 2 * Math.PI);
    else for (const [dx, dy] of SHAPES[shape]) context.lineTo(x + radius * dx, y + radius * dy);
    context.closePath();
    if (["cross", "plus", "ring"].includes(shape)) context.stroke();
    else context.fill();
  }

  /** Out of place against network calls: a dot for each run that has been finished. */
  function drawFinished(context, width, height, colors, show) {
    const { line, panel, PERCENT_TICKS: yticks } = Course.plots;
    const { SAMPLERS, NOISY } = Course.experiments.samplers;
    const limits = { xlim: [0.85, 500], ylim: [0, 1], log: "x", xticks: [1, 10, 100], yticks };
    const labels = { ylabel: "out of place, each finished run", xlabel: "network calls" };
    const { x, y, box } = panel(context, width, height, { ...limits, ...labels });
    const floor = y(show.truth(1).floor);
    const right = box.x + box.width;
    context.strokeStyle = colors.blue;
    context.setLineDash([5, 4]);
    line(context, [
      [box.x, floor],
      [right, floor],
    ]);
    context.setLineDash([]);
    context.font = Course.figures.font(12);
    context.textBaseline = "bottom";
    context.fillStyle = colors.blue;
    context.fillText("exact draws", box.x + 6, floor - 3);
    context.textBaseline = "middle";
    context.textAlign = "center";
    context.fillStyle = colors.muted;
    if (!show.finished.size) context.fillText("press Play to add the first dot", (box.x + right) / 2, y(0.5));
    const wide = show.finished.has("noisy") ? 84 : 66;
    [...show.finished].forEach(([kind, runs], row) => {
      const { color, marker, short } = SAMPLERS[kind] ?? NOISY;
      const top = box.y + 8 + 14 * row;
      for (const [calls, share] of runs) drawMarker(context, marker, x(calls), y(share), 4, colors[color]);
      drawMarker(context, marker, right - wide, top, 3.5, colors[color]);
      context.fillStyle = colors.text;
      context.textAlign = "left";
      context.fillText(short, right - wide + 10, top);
    });
  }

  Course.pictures ??= {};
  Course.pictures.samplers = { drawPlane, drawMarginal, drawShares, drawFinished };
})();
