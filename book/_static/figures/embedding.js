"use strict";
// The time-embedding explorer: a heat map of all embeddings, the vector at one time, its clock hands, and how alike two
// times look to the layers behind.
globalThis.Course ??= {};

(() => {
  const { frequencies, placesOf, sinusoidalEmbedding, similarity } = Course.maths.embedding;
  const STEPS = 1000;
  const HANDS = 8;
  const fixed = (value) => value.toFixed(3).replace("-", "−");

  /** From low (−1) over the middle (0) to high (+1): the course's red and blue, on the theme's ground. */
  const ANCHORS = {
    light: [
      [33, 102, 172],
      [103, 169, 207],
      [247, 247, 247],
      [239, 138, 98],
      [178, 24, 43],
    ],
    dark: [
      [120, 190, 245],
      [44, 108, 168],
      [24, 30, 38],
      [178, 78, 50],
      [246, 150, 112],
    ],
  };

  /** A table of 256 colours. */
  function colourTable(dark) {
    const anchors = ANCHORS[dark ? "dark" : "light"];
    return Array.from({ length: 256 }, (_, i) => {
      const place = (i / 255) * (anchors.length - 1);
      const left = Math.min(Math.floor(place), anchors.length - 2);
      return anchors[left].map((low, channel) => Math.round(low + (place - left) * (anchors[left + 1][channel] - low)));
    });
  }

  const css = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;
  const indexOf = (value) => Math.max(0, Math.min(255, Math.round((value + 1) * 127.5)));

  function mount(root, ui) {
    const state = { d: 32, period: 10_000, layout: "halves", t: 120, other: 180 };
    let values = []; // the embeddings of all times
    let heat = null; // their picture
    let curve = null; // similarity of time t to every time
    let table = colourTable(false);
    const embed = (t) => sinusoidalEmbedding(t, state.d, state.period, state.layout);

    const layout = ui.choice({
      label: "layout",
      options: [
        ["halves", "halves"],
        ["interleaved", "interleaved"],
      ],
      value: state.layout,
      onInput: (name) => {
        state.layout = name;
        rebuild();
      },
    });
    const dimensions = ui.slider({
      label: "dimensions d",
      min: 2,
      max: 128,
      step: 2,
      value: state.d,
      onInput: (d) => {
        state.d = d;
        rebuild();
      },
    });
    const period = ui.slider({
      label: "max_period P",
      min: 1,
      max: 8,
      step: 0.25,
      value: Math.log10(state.period),
      format: (power) =>
        Math.round(10 ** power)
          .toLocaleString("en")
          .replace(/,/g, "\u202f"),
      onInput: (power) => {
        state.period = 10 ** power;
        rebuild();
      },
    });
    const time = ui.slider({
      label: "time t",
      min: 0,
      max: STEPS - 1,
      value: state.t,
      onInput: (t) => {
        state.t = t;
        update();
      },
    });
    const second = ui.slider({
      label: "second time s",
      min: 0,
      max: STEPS - 1,
      value: state.other,
      onInput: (t) => {
        state.other = t;
        update();
      },
    });
    time.element.classList.add("embedding-first");
    second.element.classList.add("embedding-second");
    const setTime = (t) => {
      state.t = Math.max(0, Math.min(STEPS - 1, Math.round(t)));
      time.set(state.t);
      update();
    };

    const readouts = {
      similarity: ui.readout({ label: "similarity of t and s" }),
      distance: ui.readout({ label: "distance of t and s" }),
      slowest: ui.readout({ label: "slowest hand, steps a turn", quiet: true }),
      idle: ui.readout({ label: "idle hands (below 1/10 turn)", quiet: true }),
    };
    const map = ui.canvas({ width: 860, height: (w) => (w < 480 ? 320 : 346), label: "heat map" });
    const dials = ui.canvas({
      width: 860,
      height: (w) => (w < 480 ? 2 : 1) * dialSize(w) + (w < 480 ? 74 : 46),
      label: "clock hands",
    });
    const plot = ui.canvas({ width: 860, height: (w) => (w < 480 ? 190 : 210), label: "similarity" });

    function rebuild() {
      values = Array.from({ length: STEPS }, (_, t) => embed(t));
      heat = null;
      update();
    }

    /** The heat map with this many columns; where there are fewer than times, a column is the mean of several. */
    function heatMap(columns) {
      if (heat?.width === columns && heat.height === state.d) return heat;
      heat = Object.assign(document.createElement("canvas"), { width: columns, height: state.d });
      const context = heat.getContext("2d");
      const image = context.createImageData(columns, state.d);
      for (let column = 0; column < columns; column += 1) {
        const first = Math.floor((column * STEPS) / columns);
        const last = Math.max(first + 1, Math.floor(((column + 1) * STEPS) / columns));
        for (let j = 0; j < state.d; j += 1) {
          let sum = 0;
          for (let t = first; t < last; t += 1) sum += values[t][j];
          image.data.set([...table[indexOf(sum / (last - first))], 255], 4 * (j * columns + column));
        }
      }
      context.putImageData(image, 0, 0);
      return heat;
    }

    /** Bars to the right of the map share its rows. */
    function mapLayout(width, height) {
      const side = width < 480 ? 84 : 150;
      const [left, top, bottom, gap] = [40, 46, 42, width < 480 ? 12 : 34];
      return {
        map: { x: left, y: top, width: width - left - gap - side - 10, height: height - top - bottom },
        bars: { x: width - side - 8, y: top, width: side, height: height - top - bottom },
      };
    }

    function drawMap(context, width, height, colors) {
      const { map: box, bars } = mapLayout(width, height);
      const axes = ui.axes(context, box, {
        xlim: [0, STEPS],
        ylim: [state.d, 0],
        xlabel: "time t",
        ylabel: "dimension j of the embedding",
        grid: false,
        lift: 28,
        yticks: state.d > 8 ? undefined : Array.from({ length: state.d }, (_, j) => [j + 0.5, String(j)]),
        xticks: width < 480 ? [0, 500] : [0, 200, 400, 600, 800, [STEPS, "1000"]],
      });
      map.axes = axes;
      context.imageSmoothingEnabled = false;
      context.drawImage(
        heatMap(Math.min(STEPS, Math.round(box.width * (globalThis.devicePixelRatio || 1)))),
        box.x,
        box.y,
        box.width,
        box.height,
      );
      for (const [t, color, text] of [
        [state.other, colors.orange, "s"],
        [state.t, colors.green, "t"],
      ]) {
        const x = axes.x(t + 0.5);
        context.lineWidth = 4;
        context.strokeStyle = colors.ground;
        context.beginPath();
        context.moveTo(x, box.y);
        context.lineTo(x, box.y + box.height);
        context.stroke();
        context.lineWidth = 2;
        context.strokeStyle = color;
        context.stroke();
        context.fillStyle = color;
        context.beginPath();
        context.moveTo(x, box.y + 1);
        context.lineTo(x - 5, box.y - 7);
        context.lineTo(x + 5, box.y - 7);
        context.fill();
        context.font = ui.font(12, 600);
        context.textAlign = "center";
        context.textBaseline = "bottom";
        context.fillStyle = colors.text; // colours alone are too pale for letters
        if (Math.abs(axes.x(state.t) - axes.x(state.other)) > 9 || text === "t") context.fillText(text, x, box.y - 8);
      }
      const barAxes = ui.axes(context, bars, {
        xlim: [-1, 1],
        ylim: [state.d, 0],
        yticks: [],
        xticks: [[-1, "−1"], 0, 1],
        xlabel: width < 480 ? "" : "value at t",
      });
      const row = bars.height / state.d;
      values[state.t].forEach((value, j) => {
        const [zero, end] = [barAxes.x(0), barAxes.x(value)];
        context.fillStyle = css(table[indexOf(value)]);
        context.strokeStyle = colors.muted;
        context.lineWidth = 0.75;
        context.beginPath();
        const thick = Math.max(1, row * 0.8);
        context.rect(Math.min(zero, end), barAxes.y(j + 0.5) - thick / 2, Math.abs(end - zero), thick);
        context.fill();
        if (row > 4) context.stroke();
      });
    }

    /** Which pairs get a dial: all, or eight spread from the fastest to the slowest. */
    function shown() {
      const half = state.d / 2;
      const count = Math.min(HANDS, half);
      return Array.from({ length: count }, (_, i) => (count === 1 ? 0 : Math.round((i * (half - 1)) / (count - 1))));
    }

    function dialSize(width) {
      return Math.min(86, (width - 8) / (width < 480 ? 4 : HANDS));
    }

    function drawDials(context, width, height, colors) {
      const pairs = shown();
      const size = dialSize(width);
      const perRow = width < 480 ? 4 : HANDS;
      const omega = frequencies(state.d, state.period);
      const step = width < 480 ? size : Math.min(width / HANDS, 110);
      context.font = ui.font(12);
      context.fillStyle = colors.text;
      context.textAlign = "left";
      context.textBaseline = "top";
      context.fillText(
        width < 480
          ? "The pairs as clock hands, at t and at s"
          : "The pairs (sin ωₖt, cos ωₖt) as clock hands, from the fastest to the slowest, at t and at s",
        0,
        0,
      );
      pairs.forEach((k, i) => {
        const x = ((i % perRow) + 0.5) * step;
        const y = 24 + size / 2 + Math.floor(i / perRow) * (size + 24);
        const radius = size / 2 - 6;
        context.lineWidth = 1;
        context.strokeStyle = colors.muted;
        context.beginPath();
        context.arc(x, y, radius, 0, 2 * Math.PI);
        context.stroke();
        for (const [t, color, wide] of [
          [state.other, colors.orange, 2.5],
          [state.t, colors.green, 3.5],
        ]) {
          const angle = omega[k] * t;
          const tip = [x + radius * Math.cos(angle), y - radius * Math.sin(angle)];
          context.lineWidth = wide;
          context.strokeStyle = color;
          context.fillStyle = color;
          context.beginPath();
          context.moveTo(x, y);
          context.lineTo(...tip);
          context.stroke();
          context.beginPath();
          context.arc(...tip, wide + 0.5, 0, 2 * Math.PI);
          context.fill();
        }
        context.fillStyle = colors.muted;
        context.textAlign = "center";
        context.textBaseline = "top";
        context.fillText(`k = ${k}`, x, y + size / 2 - 2);
      });
    }

    function drawPlot(context, width, height, colors) {
      const box = { x: 40, y: 30, width: width - 60, height: height - 72 };
      const low = Math.min(-0.25, ...curve);
      const axes = ui.axes(context, box, {
        xlim: [0, STEPS],
        ylim: [Math.max(-1, Math.floor(low * 4) / 4), 1],
        xlabel: "time s",
        ylabel: "similarity of t to every time s (cosine of the angle)",
        yticks: low < -0.5 ? [-1, -0.5, 0, 0.5, 1] : [0, 0.5, 1],
        xticks: width < 480 ? [0, 500, [STEPS, "1000"]] : [0, 200, 400, 600, 800, [STEPS, "1000"]],
      });
      plot.axes = axes;
      context.strokeStyle = colors.text;
      context.lineWidth = 1.75;
      context.beginPath();
      curve.forEach((value, t) => context.lineTo(axes.x(t + 0.5), axes.y(value)));
      context.stroke();
      for (const [t, color] of [
        [state.t, colors.green],
        [state.other, colors.orange],
      ]) {
        context.fillStyle = color;
        context.strokeStyle = colors.ground;
        context.lineWidth = 2;
        context.beginPath();
        context.arc(axes.x(t + 0.5), axes.y(curve[t]), 6, 0, 2 * Math.PI);
        context.fill();
        context.stroke();
      }
    }

    function update() {
      const [here, there] = [values[state.t], values[state.other]];
      curve = Float64Array.from({ length: STEPS }, (_, s) => similarity(here, values[s]));
      const omega = frequencies(state.d, state.period);
      const alike = similarity(here, there);
      const distance = Math.hypot(...here.map((value, j) => value - there[j]));
      const turn = (2 * Math.PI) / omega[omega.length - 1];
      const idle = omega.filter((w) => w * (STEPS - 1) < (2 * Math.PI) / 10).length;
      readouts.similarity.set(fixed(alike));
      readouts.distance.set(fixed(distance));
      readouts.slowest.set(Math.round(turn).toLocaleString("en").replace(/,/g, "\u202f"));
      readouts.idle.set(`${idle} of ${omega.length}`);
      Object.assign(root.dataset, {
        d: state.d,
        period: state.period,
        layout: state.layout,
        t: state.t,
        other: state.other,
        similarity: alike,
        distance,
        slowest: turn,
        idle,
        vector: JSON.stringify([...here]),
      });
      map.describe(
        `Heat map of the embeddings of times 0 to ${STEPS - 1} in ${state.d} dimensions, layout ${state.layout}; ` +
          `the vector at time ${state.t} beside it`,
      );
      const places = placesOf(0, state.d, state.layout);
      dials.describe(
        `Clock hands, pairs shown: ${shown().length}; the fastest stands at angle ` +
          `${fixed((omega[0] * state.t) % (2 * Math.PI))}, ` +
          `its sine is dimension ${places.sine} and its cosine dimension ${places.cosine}`,
      );
      plot.describe(`Similarity of time ${state.t} to all times: 1 at ${state.t}, ${fixed(alike)} at ${state.other}`);
      for (const drawing of [map, dials, plot]) drawing.redraw();
    }

    map.redraw(drawMap);
    dials.redraw(drawDials);
    plot.redraw(drawPlot);
    ui.drag(map, ({ x }) => setTime(map.axes.xInverse(x) - 0.5));
    ui.drag(plot, ({ x }) => {
      state.other = Math.max(0, Math.min(STEPS - 1, Math.round(plot.axes.xInverse(x) - 0.5)));
      second.set(state.other);
      update();
    });
    root.append(
      ui.controls(dimensions, period, layout),
      map.element,
      ui.controls(time, second),
      dials.element,
      plot.element,
      ui.readouts(...Object.values(readouts)),
    );
    ui.themed((colors) => {
      table = colourTable(colors.ground !== "#ffffff");
      rebuild();
    });
  }

  Course.figures.register("embedding", { title: "Time-embedding explorer", mount });
})();
