"use strict";
// The noise-schedule explorer: a digit drowns, and the clocks ᾱ_t, SNR_t and σ_t tell how far it has come.
globalThis.Course ??= {};

(() => {
  const { alphaBar, noised, sigmaFromAlphaBar, snr } = Course.maths.schedules;
  const STEPS = 1000;
  const SIDE = 16;
  const SCHEDULES = [
    ["linear", "linear", "blue"],
    ["cosine", "cosine", "vermilion"],
    ["karras", "EDM (Karras)", "green"],
  ];
  const SNR_LIMITS = [1e-9, 1e6];
  // Below an SNR of 1/d a white picture of d numbers can hardly be told from a black one: for these, d is drawn.
  const SIZES = [
    [SIDE * SIDE, `1/d, ${SIDE} × ${SIDE}`],
    [3 * 128 * 128, "1/d, 3 × 128 × 128"],
  ];

  const colorOf = (schedule) => SCHEDULES.find(([name]) => name === schedule)[2];

  /** Numbers from 10⁻⁹ to 10⁶, at a glance. */
  function short(value) {
    if (value >= 0.01 && value < 1e4) return value.toPrecision(3).replace(/\.$/, "");
    const power = Math.floor(Math.log10(value));
    const digits = String(power).replace(/[-\d]/g, (sign) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(sign)]);
    return `${(value / 10 ** power).toFixed(1)} · 10${digits}`;
  }

  /** 24800 → 24 800. */
  const grouped = (value) => value.toLocaleString("en").replace(/,/g, "\u202f");

  /** A 16 × 16 picture, black at −reach and white at reach, on a small canvas to be drawn enlarged. */
  function picture(values, reach) {
    const canvas = Object.assign(document.createElement("canvas"), { width: SIDE, height: SIDE });
    const context = canvas.getContext("2d");
    const image = context.createImageData(SIDE, SIDE);
    values.forEach((value, i) => {
      const grey = Math.round(255 * Math.min(1, Math.max(0, (value + reach) / (2 * reach))));
      image.data.set([grey, grey, grey, 255], 4 * i);
    });
    context.putImageData(image, 0, 0);
    return canvas;
  }

  function mount(root, ui) {
    const curves = Object.fromEntries(SCHEDULES.map(([name]) => [name, alphaBar(name, STEPS)]));
    const state = { schedule: "cosine", t: 300, digit: 3, seed: 1, x0: null, eps: null };

    const choose = ui.choice({
      label: "schedule",
      options: SCHEDULES,
      value: state.schedule,
      onInput: (name) => {
        state.schedule = name;
        update();
      },
    });
    const digit = ui.select({
      label: "digit",
      options: Array.from({ length: 10 }, (_, label) => [label, String(label)]),
      value: state.digit,
      onInput: (label) => {
        state.digit = Number(label);
        load();
      },
    });
    digit.element.classList.add("figure-narrow");
    const fresh = ui.button({
      label: "Other noise",
      onClick: () => {
        state.seed += 1;
        load();
      },
    });
    const time = ui.slider({
      label: "time step t, from data to noise",
      min: 0,
      max: STEPS - 1,
      value: state.t,
      onInput: (t) => {
        state.t = t;
        update();
      },
    });
    time.element.classList.add("figure-wide");
    const setTime = (t) => {
      state.t = Math.min(STEPS - 1, Math.max(0, Math.round(t)));
      time.set(state.t);
      update();
    };

    const readouts = {
      alphaBar: ui.readout({ label: "ᾱ_t" }),
      snr: ui.readout({ label: "SNR_t" }),
      sigma: ui.readout({ label: "σ_t" }),
      signal: ui.readout({ label: "√ᾱ_t" }),
      noise: ui.readout({ label: "√(1 − ᾱ_t)" }),
      end: ui.readout({ label: "ends in noise if\u00a0d\u00a0<", quiet: true }),
    };
    const noisy = ui.canvas({ width: 260, height: 260, label: "the digit with noise" });
    const plots = ui.canvas({ width: 640, height: (w) => (w < 420 ? 350 : 330), label: "the schedules" });
    const strips = ui.canvas({ width: 860, height: (w) => stripLayout(w).height, label: "the digit over time" });

    function load() {
      const random = ui.rng(state.seed);
      state.x0 = Float64Array.from(Course.data.digits[state.digit], (v) => v / 128 - 1);
      state.eps = Float64Array.from(state.x0, () => random.normal());
      update();
    }

    /** x_t of a schedule at a time, ready to be drawn; the grey scale widens with the noise, so that little is cut. */
    function frame(name, t) {
      const share = curves[name][t];
      return picture(noised(state.x0, state.eps, share), 1 + 0.7 * Math.sqrt(1 - share));
    }

    function drawPlots(context, width, height, colors) {
      const [left, right, gap] = [46, 12, 50];
      const tall = (height - 24 - gap - 40) / 2;
      const panels = [
        {
          y: 24,
          ylim: [0, 1],
          ylabel: "ᾱ, the share of the variance that is signal",
          value: (share) => share,
          log: "",
        },
        {
          y: 24 + tall + gap,
          ylim: SNR_LIMITS,
          ylabel: "SNR, signal to noise (logarithmic)",
          value: snr,
          log: "y",
          xlabel: "time step t",
        },
      ];
      for (const { y, ylim, ylabel, value, log, xlabel } of panels) {
        const box = { x: left, y, width: width - left - right, height: tall };
        const axes = ui.axes(context, box, {
          xlim: [0, STEPS - 1],
          ylim,
          ylabel,
          xlabel,
          log,
          xticks: [0, 250, 500, 750, 999],
          yticks: log ? [1e-8, 1e-4, [1, "1"], 1e4] : [0, 0.5, 1],
        });
        plots.axes = { ...axes, box };
        context.save();
        context.beginPath();
        context.rect(box.x, box.y - 2, box.width, box.height + 4);
        context.clip();
        const ordered = [...SCHEDULES].sort((a, b) => (a[0] === state.schedule) - (b[0] === state.schedule));
        for (const [name, , color] of ordered) {
          const chosen = name === state.schedule;
          context.globalAlpha = chosen ? 1 : 0.45;
          context.strokeStyle = colors[color];
          context.lineWidth = chosen ? 3 : 1.5;
          context.beginPath();
          curves[name].forEach((share, t) => context.lineTo(axes.x(t), axes.y(value(share))));
          context.stroke();
        }
        context.restore();
        if (log) drawSizes(context, box, axes, colors);
        const x = axes.x(state.t);
        context.strokeStyle = colors[colorOf(state.schedule)];
        context.lineWidth = 1.5;
        context.beginPath();
        context.moveTo(x, box.y);
        context.lineTo(x, box.y + box.height);
        context.stroke();
        for (const [name, , color] of ordered) {
          const chosen = name === state.schedule;
          const at = value(curves[name][state.t]);
          if (at < ylim[0] || at > ylim[1]) continue;
          context.fillStyle = chosen ? colors[color] : colors.ground;
          context.strokeStyle = chosen ? colors.ground : colors[color];
          context.lineWidth = chosen ? 2 : 1.5;
          context.beginPath();
          context.arc(x, axes.y(at), chosen ? 6.5 : 3.5, 0, 2 * Math.PI);
          context.fill();
          context.stroke();
        }
      }
    }

    /** The lines below which a picture of some size is gone. */
    function drawSizes(context, box, axes, colors) {
      context.strokeStyle = context.fillStyle = colors.muted;
      context.font = ui.font(11);
      context.textAlign = "left";
      context.textBaseline = "top";
      context.lineWidth = 1;
      for (const [d, text] of SIZES) {
        const y = Math.round(axes.y(1 / d)) + 0.5;
        context.setLineDash([4, 3]);
        context.beginPath();
        context.moveTo(box.x, y);
        context.lineTo(box.x + box.width, y);
        context.stroke();
        context.setLineDash([]);
        context.fillText(text, box.x + 6, y + 2);
      }
    }

    function stripLayout(width) {
      const label = width < 520 ? 0 : 104;
      const count = width < 520 ? 8 : 12;
      const gap = 3;
      const side = (width - label - gap * (count - 1)) / count;
      const row = side + (label ? 8 : 26);
      return { label, count, gap, side, row, top: label ? 22 : 18, height: (label ? 22 : 18) + 3 * row };
    }

    const stripTime = (column, count) => Math.round((column * (STEPS - 1)) / (count - 1));

    function drawStrips(context, width, height, colors) {
      const { label, count, gap, side, row, top } = stripLayout(width);
      context.imageSmoothingEnabled = false;
      context.font = ui.font(12);
      context.fillStyle = colors.muted;
      context.textBaseline = "top";
      for (let column = 0; column < count; column += 1) {
        const t = stripTime(column, count);
        const x = label + column * (side + gap);
        context.textAlign = column === 0 ? "left" : column === count - 1 ? "right" : "center";
        const at = column === 0 ? x : column === count - 1 ? x + side : x + side / 2;
        if (label || column === count - 1 || (column % 2 === 0 && column < count - 2))
          context.fillText(column === 0 ? `t = ${t}` : String(t), at, 0);
      }
      SCHEDULES.forEach(([name, text, color], line) => {
        const y = top + line * row + (label ? 0 : 18);
        const chosen = name === state.schedule;
        context.font = ui.font(13, chosen ? 600 : 400);
        context.fillStyle = chosen ? colors.text : colors.muted;
        context.textAlign = "left";
        context.textBaseline = label ? "middle" : "bottom";
        const [labelX, labelY] = label ? [14, y + side / 2] : [14, y - 2];
        context.fillText(text, labelX, labelY);
        context.fillStyle = colors[color];
        context.fillRect(0, labelY - (label ? 7 : 14), 4, 14);
        for (let column = 0; column < count; column += 1) {
          context.drawImage(frame(name, stripTime(column, count)), label + column * (side + gap), y, side, side);
        }
        if (chosen) {
          // where t stands, between the frames
          const x = label + side / 2 + (state.t / (STEPS - 1)) * (count - 1) * (side + gap);
          context.fillStyle = colors[color];
          context.fillRect(label, y + side + 2, width - label, 2);
          context.beginPath();
          context.arc(x, y + side + 3, 5, 0, 2 * Math.PI);
          context.fill();
        }
      });
    }

    function update() {
      const share = curves[state.schedule][state.t];
      readouts.alphaBar.set(short(share));
      readouts.snr.set(short(snr(share)));
      readouts.sigma.set(short(sigmaFromAlphaBar(share)));
      readouts.signal.set(short(Math.sqrt(share)));
      readouts.noise.set(short(Math.sqrt(1 - share)));
      const hides = 1 / snr(curves[state.schedule].at(-1));
      readouts.end.set(hides < 1e6 ? grouped(Number(hides.toPrecision(3))) : short(hides));
      const color = colorOf(state.schedule);
      if (color === "blue") time.element.style.removeProperty("--figure-blue");
      else time.element.style.setProperty("--figure-blue", `var(--figure-${color})`);
      Object.assign(root.dataset, {
        t: state.t,
        schedule: state.schedule,
        digit: state.digit,
        seed: state.seed,
        alphaBar: share,
        snr: snr(share),
        sigma: sigmaFromAlphaBar(share),
        hides,
      });
      noisy.describe(
        `The digit ${state.digit} with noise at step ${state.t} of the ${state.schedule} schedule: ` +
          `${Math.round(100 * share)} % of the variance is signal`,
      );
      plots.describe(
        `ᾱ and SNR of the three schedules over time; at step ${state.t} the ${state.schedule} schedule has ` +
          `ᾱ = ${short(share)} and SNR = ${short(snr(share))}`,
      );
      strips.describe(`The digit ${state.digit} from step 0 to step ${STEPS - 1}, one row for each schedule`);
      for (const drawing of [noisy, plots, strips]) drawing.redraw();
    }

    noisy.redraw((context, width, height) => {
      context.imageSmoothingEnabled = false;
      context.drawImage(frame(state.schedule, state.t), 0, 0, width, height);
    });
    plots.redraw(drawPlots);
    strips.redraw(drawStrips);
    ui.drag(plots, ({ x }) => setTime(plots.axes.xInverse(x)));
    ui.drag(strips, ({ x, y }) => {
      const { label, count, gap, side, row, top } = stripLayout(strips.width);
      const line = Math.floor((y - top) / row);
      if (SCHEDULES[line]) {
        state.schedule = SCHEDULES[line][0];
        choose.set(state.schedule);
      }
      setTime(((x - label - side / 2) / ((count - 1) * (side + gap))) * (STEPS - 1));
    });

    const numbers = ui.readouts(...Object.values(readouts));
    // All numbers on one line, however long their labels are.
    Object.assign(numbers.style, { alignItems: "end", columnGap: "0.75rem" });
    const scene = ui.make("div", { class: "schedules-scene" }, noisy.element, plots.element, numbers);
    root.append(ui.controls(choose, digit, fresh, time), scene, strips.element);
    load();
  }

  Course.figures.register("schedules", { title: "Noise-schedule explorer", mount });
})();
