"use strict";
// Axes on a canvas: round ticks, a grid, labels, and the maps between values and pixels.
globalThis.Course ??= {};

(() => {
  const { colors, font } = Course.theme;

  /** Round numbers inside [low, high], about `count` of them: steps of 1, 2 or 5 times a power of ten. */
  function ticksBetween(from, to, count) {
    const [low, high] = [Math.min(from, to), Math.max(from, to)];
    const rough = (high - low) / Math.max(1, count);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * ([1, 2, 5].find((factor) => factor * power >= rough * 0.999) ?? 10);
    const first = Math.ceil(low / step - 1e-9);
    const last = Math.floor(high / step + 1e-9);
    return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) =>
      Number(((first + i) * step).toPrecision(12)),
    );
  }

  /** Powers of ten inside [low, high], at most about `count` of them. */
  function powersBetween(low, high, count) {
    const first = Math.ceil(Math.log10(low) - 1e-9);
    const last = Math.floor(Math.log10(high) + 1e-9);
    const stride = Math.max(1, Math.ceil((last - first + 1) / Math.max(1, count)));
    const powers = [];
    for (let power = Math.ceil(first / stride) * stride; power <= last; power += stride) powers.push(10 ** power);
    return powers;
  }

  const superscript = (number) =>
    String(number).replace(/[-\d]/g, (sign) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(sign)]);

  /** A number as people write it: a true minus, powers of ten for the very large and the very small. */
  function formatTick(value, log) {
    if (log && (value >= 1e4 || value < 0.01)) return `10${superscript(Math.round(Math.log10(value)))}`;
    return String(Number(value.toPrecision(6))).replace("-", "−");
  }

  /**
   * Draw axes with a grid around a box, and give the maps from values to pixels.
   * @param {CanvasRenderingContext2D} context
   * @param {{x: number, y: number, width: number, height: number}} box The area of the data; ticks and labels stand
   *   outside it: leave about 44 px on the left and 38 px below.
   * @param {{xlim, ylim, xlabel, ylabel, xticks, yticks, log, grid, lift}} options Limits [low, high]; labels; ticks,
   *   as numbers or pairs [number, text], chosen if not given; log: "x", "y", "xy" (true means "y"); grid: false for none;
   *   lift: how far above the box ylabel stands.
   * @returns {{x(value), y(value), xInverse(pixel), yInverse(pixel)}}
   */
  function axes(
    context,
    box,
    { xlim, ylim, xlabel = "", ylabel = "", xticks, yticks, log = "", grid = true, lift = 9 },
  ) {
    const palette = colors();
    const logs = { x: log === "x" || log === "xy", y: log === true || log === "y" || log === "xy" };
    const map = (limits, isLog, start, length) => {
      const value = isLog ? Math.log10 : Number;
      const [low, high] = limits.map(value);
      return {
        to: (v) => start + (length * (value(v) - low)) / (high - low),
        from: (pixel) => {
          const v = low + ((high - low) * (pixel - start)) / length;
          return isLog ? 10 ** v : v;
        },
      };
    };
    const x = map(xlim, logs.x, box.x, box.width);
    const y = map(ylim, logs.y, box.y + box.height, -box.height);
    const choose = (given, limits, isLog, count) =>
      (given ?? (isLog ? powersBetween : ticksBetween)(...limits, count)).map((tick) =>
        Array.isArray(tick) ? tick : [tick, formatTick(tick, isLog)],
      );
    const xs = choose(xticks, xlim, logs.x, Math.max(2, Math.floor(box.width / 80)));
    const ys = choose(yticks, ylim, logs.y, Math.max(2, Math.floor(box.height / 38)));

    context.save();
    context.font = font(12);
    context.lineWidth = 1;
    context.strokeStyle = palette.grid;
    context.fillStyle = palette.muted;
    const line = (x0, y0, x1, y1) => {
      context.beginPath();
      context.moveTo(Math.round(x0) + 0.5, Math.round(y0) + 0.5);
      context.lineTo(Math.round(x1) + 0.5, Math.round(y1) + 0.5);
      context.stroke();
    };
    const [bottom, right] = [box.y + box.height, box.x + box.width];
    if (grid) {
      for (const [v] of xs) line(x.to(v), box.y, x.to(v), bottom);
      for (const [v] of ys) line(box.x, y.to(v), right, y.to(v));
    }
    context.strokeStyle = palette.muted;
    line(box.x, bottom, right, bottom);
    line(box.x, box.y, box.x, bottom);
    context.textAlign = "center";
    context.textBaseline = "top";
    for (const [v, text] of xs) context.fillText(text, x.to(v), bottom + 5);
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const [v, text] of ys) context.fillText(text, box.x - 6, y.to(v));
    context.fillStyle = palette.text;
    if (xlabel) {
      context.textAlign = "center";
      context.textBaseline = "top";
      context.fillText(xlabel, box.x + box.width / 2, bottom + 21);
    }
    if (ylabel) {
      // above the axis, level: easier to read than turned text
      context.textAlign = "left";
      context.textBaseline = "bottom";
      context.fillText(ylabel, Math.max(2, box.x - 36), box.y - lift);
    }
    context.restore();
    return { x: x.to, y: y.to, xInverse: x.from, yInverse: y.from };
  }

  Course.axes = { axes, ticksBetween, powersBetween, formatTick };
})();
