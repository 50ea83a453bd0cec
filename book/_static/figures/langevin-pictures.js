"use strict";
// How the figure "langevin" draws its experiment.
globalThis.Course ??= {};

(() => {
  const BINS = 50;
  const SPAN = [0.008, 10]; // step sizes on the axes
  const SMOOTH = Array.from({ length: 121 }, (_, i) => SPAN[0] * (SPAN[1] / SPAN[0]) ** (i / 120));
  const SIZES = { xlim: SPAN, log: "x", xticks: [0.01, 0.1, 1, 10] };

  /** Large numbers as a power of ten: 200000 → 2·10⁵. */
  function large(value) {
    if (Math.abs(value) < 1e4) return Course.figures.formatTick(value);
    const power = Math.floor(Math.log10(Math.abs(value)) + 1e-9);
    const digit = Number((value / 10 ** power).toPrecision(2));
    const ten = Course.figures.formatTick(10 ** power, true);
    return Math.abs(digit) === 1 ? `${digit < 0 ? "−" : ""}${ten}` : `${String(digit).replace("-", "−")}·${ten}`;
  }

  /** Ticks at each factor times the last round number before the end of an axis, if that is at `from` or beyond. */
  function sparseTicks(end, from, factors, round = [1, 2, 5]) {
    if (end < from) return undefined;
    const power = 10 ** Math.floor(Math.log10(0.9 * end));
    const last = power * round.findLast((digit) => digit * power <= 0.9 * end);
    return factors.map((factor) => [factor * last, large(factor * last)]);
  }

  const hasPrediction = (experiment) => experiment.isGaussian && !experiment.adjusted && !experiment.unstable;

  /** Chains above the landscape; below it their histogram, and below that the last states of two of them. */
  function drawMain(context, width, height, colors, experiment, heights) {
    const box = { x: 44, width: width - 56 };
    const top = { ...box, y: 24, height: 0.33 * height };
    const middle = { ...box, y: top.y + top.height + 34, height: 0.22 * height };
    const y = middle.y + middle.height + 34;
    const [low, high] = experiment.xlim;
    const grid = Array.from({ length: 241 }, (_, i) => low + ((high - low) * i) / 240);
    drawLandscape(context, top, colors, experiment, grid, heights);
    drawHistogram(context, middle, colors, experiment, grid);
    drawPaths(context, { ...box, y, height: height - y - 40 }, colors, experiment);
  }

  function drawLandscape(context, box, colors, experiment, grid, heights) {
    const { xlim, elim, zoom } = experiment;
    const { energy } = experiment.exact;
    const { x: states, lost } = experiment.chains;
    const yticks = sparseTicks(elim[1], 1e4, [0, 1], [1]);
    const labels = { ylabel: "energy, and the chains above it", xticks: [], yticks, grid: false };
    const { x, y } = Course.figures.axes(context, box, { xlim, ylim: elim, ...labels });
    const ground = grid.map((v) => [x(v), y(energy.value(v))]);
    Course.plots.clipped(context, box, () => {
      context.fillStyle = colors.raised;
      context.beginPath();
      context.moveTo(box.x, box.y + box.height);
      for (const point of ground) context.lineTo(...point);
      context.lineTo(box.x + box.width, box.y + box.height);
      context.fill();
      context.strokeStyle = colors.muted;
      context.lineWidth = 1.5;
      Course.plots.line(context, ground);
      context.fillStyle = colors.vermilion;
      context.globalAlpha = 0.7;
      context.beginPath();
      states.forEach((v, i) => {
        if (v < xlim[0] || v > xlim[1]) return;
        const [px, py] = [x(v), y(energy.value(v)) - 4 - 46 * heights[i]];
        context.moveTo(px + 1.7, py);
        context.arc(px, py, 1.7, 0, 2 * Math.PI);
      });
      context.fill();
    });
    context.font = Course.figures.font(12, 600);
    context.textBaseline = "middle";
    const out = states.filter((v) => v < xlim[0] || v > xlim[1] || energy.value(v) > elim[1]);
    const left = out.filter((v) => v < 0).length;
    const words = [];
    if (zoom > 1) words.push([`zoomed out ${large(zoom)} ×`, colors.muted]);
    if (out.length) words.push([`← ${left}  further out  ${out.length - left} →`, colors.text]);
    if (lost && experiment.isGaussian) words.push([`${lost} stopped beyond |x| = 10⁶`, colors.text]);
    context.textAlign = "center";
    context.strokeStyle = colors.ground;
    context.lineWidth = 4;
    context.lineJoin = "round";
    words.forEach(([text, color], i) => {
      const place = [text, box.x + box.width / 2, box.y + 12 + 18 * i];
      context.strokeText(...place);
      context.fillStyle = color;
      context.fillText(...place);
    });
  }

  function drawHistogram(context, box, colors, experiment, grid) {
    const { line, clipped, legend, bars } = Course.plots;
    const { energy, gibbs, formula } = experiment.exact;
    const { xlim, zoom } = experiment;
    const exact = grid.map((v) => Math.exp(-energy.value(v) / experiment.temperature - gibbs.logZ));
    const heights = Course.maths.histograms.density(experiment.chains.x, ...xlim, BINS);
    // From far away the exact density is a needle: there the bars set the scale.
    const highest = zoom < 4 ? Math.max(...exact) : Math.max(...heights, 1e-9);
    const labels = { ylabel: "density", xticks: [], yticks: zoom < 4 ? undefined : [0], grid: false };
    const { x, y } = Course.figures.axes(context, box, { xlim, ylim: [0, 1.3 * highest], ...labels });
    const predicted = (v) => Math.exp((-v * v) / (2 * formula)) / Math.sqrt(2 * Math.PI * formula);
    clipped(context, box, () => {
      context.globalAlpha = 0.55;
      context.fillStyle = colors.vermilion;
      bars(context, box, y, heights);
      context.globalAlpha = 1;
      context.strokeStyle = colors.blue;
      context.lineWidth = 2;
      line(
        context,
        exact.map((p, i) => [x(grid[i]), y(p)]),
      );
      if (!hasPrediction(experiment)) return;
      context.strokeStyle = colors.text;
      context.lineWidth = 1.5;
      context.setLineDash([4, 4]);
      line(
        context,
        grid.map((v) => [x(v), y(predicted(v))]),
      );
    });
    const words = [
      ["chains", colors.vermilion],
      ["exact", colors.blue],
    ];
    if (hasPrediction(experiment)) words.push(["predicted", colors.text]);
    legend(context, box.x + box.width, box.y - 11, words, colors);
  }

  function drawPaths(context, box, colors, experiment) {
    const right = box.x + box.width;
    const { xlim } = experiment;
    const { x, y } = Course.figures.axes(context, box, {
      xlim,
      ylim: [Course.experiments.langevin.TRACE - 1, 0],
      xticks: sparseTicks(xlim[1], 250, [-1, 0, 1]),
      xlabel: "x",
      ylabel: "paths of two chains, newest on top",
      yticks: [],
      grid: false,
    });
    const newestFirst = experiment.trace.toReversed();
    const inReach = (pixel) => Math.max(box.x - 50, Math.min(right + 50, pixel));
    Course.plots.clipped(context, box, () => {
      [colors.vermilion, colors.green].forEach((color, k) => {
        context.strokeStyle = context.fillStyle = color;
        context.lineWidth = 1.2;
        const path = newestFirst.map((states, age) => [inReach(x(states[k])), y(age) + 4]);
        Course.plots.line(context, path);
        for (const [px, py] of path) context.fillRect(px - 1.25, py - 1.25, 2.5, 2.5);
        context.beginPath();
        context.arc(...path[0], 4, 0, 2 * Math.PI);
        context.fill();
      });
    });
    context.font = Course.figures.font(12);
    context.fillStyle = colors.muted;
    context.textAlign = "right";
    context.textBaseline = "bottom";
    context.fillText(`step ${experiment.chains.steps}`, right, box.y - 6);
  }

  /** A result: a dot for ULA, a square for MALA, with a bar of two standard errors; a ring around that of now. */
  function mark(context, px, py, isMala, bar, colors, now) {
    context.fillStyle = context.strokeStyle = isMala ? colors.green : colors.vermilion;
    context.lineWidth = 1.5;
    if (bar)
      Course.plots.line(context, [
        [px, py - bar],
        [px, py + bar],
      ]);
    context.beginPath();
    if (isMala) context.rect(px - 3.5, py - 3.5, 7, 7);
    else context.arc(px, py, 3.8, 0, 2 * Math.PI);
    context.fill();
    if (!now) return;
    context.strokeStyle = colors.text;
    context.beginPath();
    context.arc(px, py, 7.5, 0, 2 * Math.PI);
    context.stroke();
  }

  /** A small triangle on the axis: the step size of now. */
  function pointer(context, box, at, colors) {
    const bottom = box.y + box.height;
    context.fillStyle = colors.text;
    context.beginPath();
    context.moveTo(at, bottom - 7);
    context.lineTo(at - 5, bottom);
    context.lineTo(at + 5, bottom);
    context.fill();
  }

  /** An arrow out of the top of a plot: here there is no variance to be drawn. */
  function noEnd(context, box, at, colors) {
    context.fillStyle = context.strokeStyle = colors.vermilion;
    context.lineWidth = 2;
    Course.plots.line(context, [
      [at, box.y + 30],
      [at, box.y + 6],
    ]);
    context.beginPath();
    context.moveTo(at, box.y);
    context.lineTo(at - 5, box.y + 9);
    context.lineTo(at + 5, box.y + 9);
    context.fill();
    context.font = Course.figures.font(17, 600);
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText("∞", at + (at > box.x + box.width - 16 ? -13 : 13), box.y + 22);
  }

  /** Measured variances over the wanted one, against the step size, with the formula where there is one. */
  function drawBias(context, width, height, colors, experiment) {
    const { line, clipped, panel, legend } = Course.plots;
    const { isGaussian, limit, std, stepSize, adjusted } = experiment;
    const wanted = experiment.exact.gibbs.variance;
    // On a Gaussian the variance grows without end towards the limit: a logarithmic axis holds all that is measured.
    const [low, top] = isGaussian ? [0.7, 50] : [0, 2.3];
    const yticks = [0, 1, 2, 5, 20].filter((v) => v >= low && v < top).map((v) => [v, v ? `${v} ×` : "0"]);
    const labels = { ylabel: "variance", xlabel: "step size ε", log: isGaussian ? "xy" : "x" };
    const { x, y, box } = panel(context, width, height, { ...SIZES, ylim: [low, top], yticks, ...labels });
    const level = (variance) => y(Math.min(Math.max(variance, low / 2), 3 * top));
    context.lineWidth = 1.5;
    context.strokeStyle = colors.blue;
    line(context, [
      [box.x, y(1)],
      [box.x + box.width, y(1)],
    ]);
    pointer(context, box, x(stepSize), colors);
    clipped(context, box, () => {
      context.setLineDash([2, 3]);
      context.strokeStyle = colors.muted;
      line(context, [
        [x(limit), box.y],
        [x(limit), box.y + box.height],
      ]);
      context.setLineDash([5, 4]);
      context.strokeStyle = colors.text;
      const stable = isGaussian ? SMOOTH.filter((eps) => eps < limit) : [];
      line(
        context,
        stable.map((eps) => [x(eps), level(Course.maths.langevin.ulaVariance(std, eps) / std ** 2)]),
      );
      context.setLineDash([]);
      for (const result of experiment.found.values()) {
        const now = result.stepSize === stepSize && result.adjusted === adjusted;
        const [mean, error] = [result.mean / wanted, result.error / wanted];
        const [middle, bar] = [level(mean), (level(mean - 2 * error) - level(mean + 2 * error)) / 2];
        mark(context, x(result.stepSize), Math.max(box.y + 4, middle), result.adjusted, bar, colors, now);
      }
    });
    if (experiment.unstable || experiment.chains.lost > 0) noEnd(context, box, x(stepSize), colors);
    const words = [["wanted", colors.blue]];
    if (isGaussian) words.push(["ULA, formula", colors.text]);
    legend(context, width - 12, 14, words, colors);
  }

  const curves = new Map(); // energy, width and temperature → acceptance against step size

  function acceptanceCurve({ energy, std, temperature, exact }) {
    const key = `${energy} ${std} ${temperature}`;
    if (!curves.has(key)) {
      const accuracy = { n: 801, nodes: 49 }; // enough for a line
      const rate = (eps) => Course.maths.langevin.malaAcceptance(exact.energy, eps, temperature, accuracy);
      curves.set(
        key,
        SMOOTH.filter((_, i) => i % 5 === 0).map((eps) => [eps, rate(eps)]),
      );
    }
    return curves.get(key);
  }

  /** The share of accepted steps against the step size: exact, and as measured. */
  function drawAcceptance(context, width, height, colors, experiment) {
    const { line, panel, legend, PERCENT_TICKS: yticks } = Course.plots;
    const labels = { ylabel: "accepted by MALA" };
    const { x, y, box } = panel(context, width, height, { ...SIZES, ylim: [0, 1.05], yticks, ...labels });
    context.strokeStyle = colors.blue;
    context.lineWidth = 1.5;
    line(
      context,
      acceptanceCurve(experiment).map(([eps, rate]) => [x(eps), y(rate)]),
    );
    pointer(context, box, x(experiment.stepSize), colors);
    for (const { rate, stepSize } of experiment.found.values()) {
      if (rate === undefined) continue;
      mark(context, x(stepSize), y(rate), true, 0, colors, experiment.adjusted && stepSize === experiment.stepSize);
    }
    legend(context, width - 12, 14, [["exact", colors.blue]], colors);
    if (experiment.adjusted) return;
    context.fillStyle = colors.muted;
    context.textAlign = "left";
    context.fillText("switched off", box.x + 10, box.y + box.height - 14);
  }

  /** The mean square, or the share in the left well, over the steps since the last change. */
  function drawHistory(context, width, height, colors, experiment) {
    const { line, clipped, panel, legend, PERCENT_TICKS } = Course.plots;
    const { exact, history, chains, adjusted, explodes } = experiment;
    const [share, wanted] = [exact.left !== null, exact.gibbs.variance];
    const end = Math.max(40, chains.sinceChange);
    const expected = Number.isFinite(exact.formula) ? exact.formula / wanted : 3;
    const usual = wanted * Math.max(2.2, 1.5 * expected);
    const reached = Math.max(...history.map(([, value]) => value));
    const top = share ? 1 : explodes ? 10 ** Math.ceil(Math.log10(reached) + 0.3) : usual;
    const { x, y, box } = panel(context, width, height, {
      xlim: [0, end],
      ylim: [explodes ? wanted / 10 : 0, top],
      yticks: share ? PERCENT_TICKS : undefined,
      log: explodes ? "y" : "",
      xlabel: "steps since the last change",
      ylabel: share ? "share left of the barrier" : explodes ? "mean of x², powers of ten" : "mean of x²",
    });
    const level = (value) => y(Math.min(Math.max(value, explodes ? wanted / 100 : 0), 3 * top));
    clipped(context, { ...box, y: box.y - 2, height: box.height + 4 }, () => {
      context.strokeStyle = colors.vermilion;
      context.lineWidth = 1.5;
      line(
        context,
        history.map(([k, value]) => [x(k), level(value)]),
      );
      context.strokeStyle = share ? colors.blue : colors.text;
      if (share) {
        line(context, [
          [box.x, y(exact.left)],
          [box.x + box.width, y(exact.left)],
        ]);
      } else if (!adjusted) {
        context.setLineDash([5, 4]);
        const n = Math.min(end, 200);
        const times = Array.from({ length: n + 1 }, (_, i) => (end * i) / n);
        line(
          context,
          times.map((k) => [x(k), level(experiment.predictedSpread(k))]),
        );
      }
    });
    const words = share ? [["exact", colors.blue]] : adjusted ? [] : [["formula", colors.text]];
    legend(context, width - 12, 14, words, colors);
  }

  Course.pictures ??= {};
  Course.pictures.langevin = { drawMain, drawBias, drawAcceptance, drawHistory };
})();
