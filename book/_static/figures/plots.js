"use strict";
// Small drawing helpers that several figures share: lines, clipping, legends, and a panel with axes.
globalThis.Course ??= {};

(() => {
  /** A line through points [x, y] in pixels. */
  function line(context, points) {
    context.beginPath();
    for (const [x, y] of points) context.lineTo(x, y);
    context.stroke();
  }

  /** Draw something inside a box only. */
  function clipped(context, box, draw) {
    context.save();
    context.beginPath();
    context.rect(box.x, box.y, box.width, box.height);
    context.clip();
    draw();
    context.restore();
  }

  /** Words with a colour sample before each, in one row that ends at x = right. `entries`: pairs [text, colour]. */
  function legend(context, right, y, entries, colors) {
    context.textBaseline = "middle";
    context.textAlign = "right";
    context.font = Course.figures.font(12);
    for (const [text, color] of entries.toReversed()) {
      context.fillStyle = colors.text;
      context.fillText(text, right, y);
      right -= context.measureText(text).width + 16;
      context.fillStyle = color;
      context.fillRect(right, y - 2, 11, 4);
      right -= 10;
    }
  }

  /** Axes that fill a small canvas, with room for a legend above: { box, x, y }. Options are those of axes. */
  function panel(context, width, height, options) {
    const box = { x: 42, y: 24, width: width - 60, height: height - 24 - (options.xlabel ? 40 : 22) };
    return { box, ...Course.figures.axes(context, box, options) };
  }

  /** Bars of equal width over a box, of these heights on the scale y. */
  function bars(context, box, y, heights) {
    const width = box.width / heights.length;
    heights.forEach((h, i) => context.fillRect(box.x + width * i + 0.5, y(h), width - 1, y(0) - y(h)));
  }

  /** The look of the button that matters most. */
  function emphasise(button) {
    const blue = "var(--figure-blue)";
    Object.assign(button.style, {
      background: blue,
      borderColor: blue,
      color: "var(--figure-ground)",
      minWidth: "6.5rem",
    });
  }

  const PERCENT_TICKS = [0, 0.5, 1].map((share) => [share, share ? `${100 * share} %` : "0"]);

  Course.plots = { line, clipped, legend, panel, bars, emphasise, PERCENT_TICKS };
})();
