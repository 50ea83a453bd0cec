"use strict";
// The shape tracer: every tensor's shape on its way through SimpleUNet, and where a picture of the wrong size gets
// stuck.
globalThis.Course ??= {};

(() => {
  const { trace, halvings, product, convSize, transposedSize } = Course.maths.unet;
  const COLUMN = 150; // sizes in the drawing's own units
  const GAP = 30;
  const BOX = 38;
  const ROW = 46;
  const TOP = 58;
  // Where each stage stands: column and row; bands gather the rows of one resolution.
  const PLACES = {
    x: [0, 0],
    init_conv: [0, 1],
    down1: [0, 3],
    downsample1: [0, 5],
    down2: [0, 6],
    downsample2: [0, 8],
    mid1: [0, 9],
    mid_attn: [1, 9],
    mid2: [1, 8],
    upsample1: [1, 7],
    cat1: [1, 6],
    up1: [1, 5],
    upsample2: [1, 4],
    cat2: [1, 3],
    up2: [1, 2],
    final_norm: [1, 1],
    final_conv: [1, 0],
  };
  const BANDS = [
    { rows: [0, 4], of: "init_conv" },
    { rows: [5, 7], of: "downsample1" },
    { rows: [8, 9], of: "downsample2" },
  ];
  const SKIPS = [
    ["down1", "cat2"],
    ["down2", "cat1"],
  ];
  const KINDS = {
    Sequential: ["grey", "time embedding"],
    Conv2d: ["blue", "convolution"],
    ResidualBlock: ["sky", "residual block"],
    AttentionBlock: ["purple", "attention"],
    ConvTranspose2d: ["vermilion", "transposed convolution"],
    cat: ["green", "concatenation"],
    GroupNorm: ["grey", "norm"],
  };
  const WHAT = {
    time_embed:
      "The time t becomes waves (lesson 1), and two linear layers make of them what the blocks want to know. " +
      "It does not depend on the picture's size.",
    init_conv: "The first convolution: from colours to features, at full size.",
    down1: "A residual block at full size; it widens to 2c channels. Its output is kept for the way up.",
    downsample1: "A convolution with stride 2 halves the sides, rounding up.",
    down2: "A residual block at half size; it widens to 4c channels. Its output, too, is kept.",
    downsample2: "Stride 2 again: a quarter of the sides, a sixteenth of the positions.",
    mid1: "The bottleneck: few positions, many channels.",
    mid_attn:
      "Every position looks at every other. The table of weights has (H/4 · W/4)² entries: that is why attention " +
      "stands here, where there are few positions.",
    mid2: "The second block of the bottleneck.",
    upsample1: "A transposed convolution doubles the sides exactly: kernel 4, stride 2, padding 1.",
    cat1: "The features kept at half size are laid beside those that came up.",
    up1: "A residual block mixes the two and narrows to 2c channels.",
    upsample2: "Doubled again: full size.",
    cat2: "The features kept at full size join: the fine grain that the noise is made of.",
    up2: "The last residual block: back to c channels.",
    final_norm: "Normalise, then ReLU.",
    final_conv: "Back to colours: the noise that was guessed, one number for every number of the input.",
  };

  const ARROW = "\u2009→\u2009"; // between thin spaces
  const shapeText = (shape) => shape.join("×");

  /** 1234567 → 1.23 M. */
  function compact(value) {
    for (const [unit, size] of [
      ["G", 1e9],
      ["M", 1e6],
      ["k", 1e3],
    ]) {
      if (value >= size) return `${(value / size).toPrecision(3)} ${unit}`;
    }
    return String(value);
  }

  const grouped = (value) => value.toLocaleString("en");

  /** The sizes of a layer that changes them, as a formula. */
  function formula(layer) {
    const { kernel, stride, padding, kind, input, shape } = layer;
    const size = input[1];
    if (kind === "Conv2d") {
      return `⌊(${size} + 2·${padding} − ${kernel})/${stride}⌋ + 1 = ${convSize(size, kernel, stride, padding)}`;
    }
    if (kind === "ConvTranspose2d") {
      return `(${size} − 1)·${stride} − 2·${padding} + ${kernel} = ${transposedSize(size, kernel, stride, padding)}`;
    }
    if (kind === "cat") return `${input[0]} + ${layer.skip[0]} = ${shape[0]} channels`;
    return "";
  }

  /** Why a concatenation fails, in words: the side that was rounded up on the way down. */
  function reason(stage, stages) {
    const axis = stage.input[1] !== stage.skip[1] ? 1 : 2;
    const side = ["", "height", "width"][axis];
    const [came, kept] = [stage.input[axis], stage.skip[axis]];
    const shrunk = stage.name === "cat1" ? "downsample2" : "downsample1";
    const half = stages.find(({ name }) => name === shrunk).shape[axis];
    return (
      `At ${stage.name} the way up brings ${shapeText(stage.input)}, and the skip holds ${shapeText(stage.skip)}: ` +
      `on the way down the ${side} ${kept} was odd and was rounded up to ${half}, and ${half} doubles to ${came}.`
    );
  }

  function mount(root, ui) {
    const state = {
      height: 32,
      width: 32,
      square: true,
      c: 64,
      emb: 128,
      channels: 3,
      stage: "downsample1",
      shade: "none",
    };
    let traced = null;

    const size = (label, key, other) =>
      ui.slider({
        label,
        min: 4,
        max: 128,
        value: state[key],
        onInput: (value) => {
          state[key] = value;
          if (state.square) {
            state[other] = value;
            sliders[other].set(value);
          }
          update();
        },
      });
    const sliders = { height: size("height H", "height", "width"), width: size("width W", "width", "height") };
    const square = ui.toggle({
      label: "square",
      value: true,
      onInput: (yes) => {
        state.square = yes;
        if (yes) {
          state.width = state.height;
          sliders.width.set(state.width);
        }
        update();
      },
    });
    const base = ui.slider({
      label: "base channels c",
      min: 8,
      max: 128,
      step: 8,
      value: state.c,
      onInput: (c) => {
        state.c = c;
        update();
      },
    });
    const picture = ui.choice({
      label: "picture",
      options: [
        [1, "grey"],
        [3, "colour"],
      ],
      value: state.channels,
      onInput: (channels) => {
        state.channels = Number(channels);
        update();
      },
    });
    const emb = ui.select({
      label: "time_emb_dim",
      options: [32, 64, 128, 256].map((d) => [d, String(d)]),
      value: state.emb,
      onInput: (d) => {
        state.emb = Number(d);
        update();
      },
    });
    const shade = ui.choice({
      label: "bars show",
      value: state.shade,
      options: [
        ["none", "nothing"],
        ["parameters", "parameters"],
        ["multiplications", "multiplications"],
      ],
      onInput: (what) => {
        state.shade = what;
        update();
      },
    });
    emb.element.classList.add("figure-narrow");

    const step = ui.slider({
      label: "step of the forward pass",
      min: 1,
      max: 17,
      value: 1,
      format: (i) => `${i}: ${traced?.stages[i - 1]?.name ?? ""}`,
      onInput: (i) => go(i - 1),
    });
    const back = ui.button({ label: "Back", onClick: () => go(index() - 1) });
    const next = ui.button({ label: "Next", onClick: () => go(index() + 1) });
    let waited = 0;
    const run = ui.animate((seconds) => {
      waited += seconds;
      if (waited < 0.7 && !ui.prefersReducedMotion()) return true;
      waited = 0;
      go(index() + 1);
      if (index() < traced.stages.length - 1) return true;
      play.set("Run");
      return false;
    });
    const play = ui.button({
      label: "Run",
      onClick: () => {
        if (run.running) {
          run.stop();
          play.set("Run");
          return;
        }
        if (index() === traced.stages.length - 1) go(0);
        run.start();
        if (run.running) play.set("Pause");
      },
    });

    const readouts = {
      parameters: ui.readout({ label: "parameters" }),
      multiplications: ui.readout({ label: "multiplications a picture" }),
      largest: ui.readout({ label: "numbers in the largest map" }),
      sides: ui.readout({ label: "H in this net: two halvings" }),
      halvings: ui.readout({ label: "H in the net of Q4: three halvings" }),
    };
    const drawing = ui.svg({ viewBox: `0 0 ${2 * COLUMN + GAP + 4} ${TOP + 10 * ROW - 4}`, label: "the U-Net" });
    const trouble = ui.make("p", { class: "unet-trouble", role: "status" });
    const details = ui.make("div", { class: "unet-details" });

    const index = () => traced.stages.findIndex(({ name }) => name === state.stage);

    function go(to) {
      state.stage = traced.stages[Math.max(0, Math.min(traced.stages.length - 1, to))].name;
      update();
    }

    // --- the drawing

    const place = (name) => {
      const [column, row] = PLACES[name];
      return { x: 2 + column * (COLUMN + GAP), y: TOP + row * ROW };
    };

    function arrow(x0, y0, x1, y1, cls) {
      drawing.add("path", { d: `M${x0} ${y0}L${x1} ${y1}`, class: `unet-arrow ${cls}` });
      const angle = Math.atan2(y1 - y0, x1 - x0);
      const tip = (turn) => `${x1 - 6 * Math.cos(angle + turn)} ${y1 - 6 * Math.sin(angle + turn)}`;
      drawing.add("path", { d: `M${tip(0.45)}L${x1} ${y1}L${tip(-0.45)}`, class: `unet-arrow ${cls}` });
    }

    /** From box to box: straight up or down in a column, or across. */
    function connect(from, to, cls) {
      const [a, b] = [place(from), place(to)];
      if (a.x === b.x) {
        const down = b.y > a.y;
        arrow(a.x + 20, down ? a.y + BOX : a.y, b.x + 20, down ? b.y - 1 : b.y + BOX + 1, cls);
      } else arrow(a.x + COLUMN, a.y + BOX / 2, b.x - 1, b.y + BOX / 2, cls);
    }

    /** A block of features: its front grows with the map, its depth with the channels, both by logarithms. */
    function cuboid(x, y, shape, parent) {
      const [channels, height, width] = shape;
      const side = (n) => 2 + 3.2 * Math.log2(Math.max(1, n));
      const [w, h, d] = [side(width), side(height), Math.max(1, 1.1 * Math.log2(channels) - 2)];
      const [left, top] = [x - (w + d) / 2, y - (h - d) / 2];
      drawing.add("path", { d: `M${left} ${top}l${d} ${-d}h${w}v${h}l${-d} ${d}z`, class: "unet-depth" }, parent);
      drawing.add("rect", { x: left, y: top, width: w, height: h, class: "unet-front" }, parent);
    }

    function drawBox(stage, { x, y }, wide, order, most) {
      const chosen = stage.name === state.stage;
      const group = drawing.add("g", {
        class: ["unet-box", chosen && "unet-chosen", stage.error && "unet-wrong", stage.missing && "unet-missing"]
          .filter(Boolean)
          .join(" "),
      });
      drawing.add("rect", { x, y, width: wide, height: BOX, rx: 5, class: "unet-frame" }, group);
      const share = state.shade === "none" || stage.missing ? 0 : stage[state.shade] / most;
      if (share > 0)
        drawing.add(
          "rect",
          { x, y: y + BOX - 5, width: Math.max(2, share * wide), height: 5, rx: 2, class: "unet-bar" },
          group,
        );
      const [color] = KINDS[stage.kind] ?? ["grey"];
      drawing.add("rect", { x, y, width: 4, height: BOX, rx: 2, fill: `var(--figure-${color})` }, group);
      drawing.add("text", { x: x + 11, y: y + 14.5, class: "unet-name", text: stage.title ?? stage.name }, group);
      const text = stage.missing
        ? "not reached"
        : stage.error
          ? `${shapeText(stage.input.slice(1))} ≠ ${shapeText(stage.skip.slice(1))}`
          : shapeText(stage.shape);
      drawing.add("text", { x: x + 11, y: y + 29, class: "unet-shape", text }, group);
      if (stage.shape.length === 3 && !stage.missing && !stage.error)
        cuboid(x + wide - 21, y + BOX / 2 - (share > 0 ? 2 : 0), stage.shape, group);
      if (stage.kind === "ResidualBlock")
        drawing.add("circle", { cx: x + 2, cy: y + BOX / 2, r: 3.5, class: "unet-time" }, group);
      if (order >= 0) {
        group.addEventListener("click", () => go(order));
        group.classList.add("unet-live");
      }
    }

    function draw() {
      drawing.svg.replaceChildren();
      const { stages } = traced;
      const byName = Object.fromEntries(stages.map((stage) => [stage.name, stage]));
      const reached = index();
      const order = (name) => stages.findIndex((stage) => stage.name === name);
      for (const { rows, of } of BANDS) {
        const y = TOP + rows[0] * ROW - 5;
        drawing.add("rect", {
          x: 0,
          y,
          width: 2 * COLUMN + GAP + 4,
          height: (rows[1] - rows[0] + 1) * ROW - 2,
          rx: 6,
          class: "unet-band",
        });
        drawing.add("text", {
          x: 4 + COLUMN + GAP / 2 - 2,
          y: y + 14,
          class: "unet-size",
          "text-anchor": "middle",
          text: byName[of].shape[1],
        });
      }
      const path = ["x", ...Object.keys(PLACES).slice(1)];
      for (let i = 1; i < path.length; i += 1) {
        const at = order(path[i]);
        connect(path[i - 1], path[i], at >= 0 && at <= reached ? "unet-travelled" : at < 0 ? "unet-faint" : "");
      }
      for (const [from, to] of SKIPS) {
        const at = order(to);
        connect(from, to, `unet-skip ${at >= 0 && at <= reached ? "unet-travelled" : ""}`);
      }
      const most = Math.max(...stages.map((stage) => stage[state.shade] ?? 0));
      drawBox(byName.time_embed, { x: 2, y: 4 }, 2 * COLUMN + GAP, 0, most);
      drawing.add("circle", { cx: COLUMN - 32, cy: 4 + BOX / 2, r: 3.5, class: "unet-time" });
      drawing.add("text", {
        x: COLUMN - 23,
        y: 8 + BOX / 2,
        class: "unet-shape",
        text: "goes into every residual block",
      });
      const input = {
        name: "x",
        title: "picture x_t".replace("_t", "ₜ"),
        kind: "",
        shape: [state.channels, state.height, state.width],
        parameters: 0,
        multiplications: 0,
      };
      drawBox(input, place("x"), COLUMN, -1, most);
      for (const name of path.slice(1)) {
        const stage = byName[name] ?? { name, kind: "", shape: [], missing: true };
        drawBox(stage, place(name), COLUMN, order(name), most);
      }
    }

    // --- the words

    function row(layer, inside) {
      const shape = layer.error ? `${shapeText(layer.input)} | ${shapeText(layer.skip)}` : shapeText(layer.shape);
      return ui.make(
        "tr",
        inside ? {} : { class: "unet-total" },
        ui.make("th", { scope: "row", text: layer.name }),
        ui.make("td", { text: shape, "data-shape": layer.name }),
        ui.make("td", { text: compact(layer.parameters) }),
        ui.make("td", { text: compact(layer.multiplications) }),
      );
    }

    function describe() {
      const stage = traced.stages[index()];
      const head = ui.make(
        "div",
        { class: "unet-head" },
        ui.make("strong", { text: stage.name }),
        ` ${KINDS[stage.kind][1]}, `,
        stage.kind === "Sequential" ? "" : `${shapeText(stage.input)} → `,
        stage.error ? "does not fit" : shapeText(stage.shape),
      );
      const parts = [head, ui.make("p", { class: "figure-note", text: WHAT[stage.name] })];
      const sum = formula(stage);
      if (sum) parts.push(ui.make("p", { class: "unet-formula", text: sum }));
      const columns = ["layer", "shape", "param.", "mult."];
      const table = ui.make(
        "table",
        { class: "unet-table" },
        ui.make("thead", {}, ui.make("tr", {}, ...columns.map((text) => ui.make("th", { scope: "col", text })))),
        ui.make("tbody", {}, ...(stage.layers ?? []).map((layer) => row(layer, true)), row(stage, false)),
      );
      details.replaceChildren(...parts, table);
    }

    function update() {
      traced = trace({
        inChannels: state.channels,
        timeEmbDim: state.emb,
        baseChannels: state.c,
        height: state.height,
        width: state.width,
      });
      if (index() < 0) state.stage = traced.stages.at(-1).name;
      step.range(1, traced.stages.length);
      step.set(index() + 1);
      back.enable(index() > 0);
      next.enable(index() < traced.stages.length - 1);
      sliders.width.enable(!state.square);
      const wrong = traced.stages.find((stage) => stage.error);
      const said = wrong ? `SimpleUNet refuses this picture: ${traced.error}. ${reason(wrong, traced.stages)}` : "";
      if (trouble.textContent !== said) trouble.textContent = said;
      trouble.hidden = !wrong;
      const largest = Math.max(
        ...traced.stages
          .flatMap((stage) => [stage, ...(stage.layers ?? [])])
          .filter((layer) => layer.kind !== "weights")
          .map((layer) => product(layer.shape)),
      );
      readouts.parameters.set(traced.complete ? grouped(traced.parameters) : "–");
      readouts.multiplications.set(traced.complete ? compact(traced.multiplications) : "–");
      readouts.largest.set(grouped(largest));
      readouts.sides.set(halvings(state.height, 2).join(ARROW));
      readouts.halvings.set(halvings(state.height, 3).join(ARROW));
      const stage = traced.stages[index()];
      Object.assign(root.dataset, {
        height: state.height,
        width: state.width,
        c: state.c,
        stage: stage.name,
        shape: shapeText(stage.shape),
        parameters: traced.parameters,
        multiplications: traced.multiplications,
        complete: traced.complete,
        trouble: said,
        largest,
      });
      drawing.svg.setAttribute(
        "aria-label",
        `SimpleUNet as a U of ${traced.stages.length} steps; chosen: ${stage.name}, ` +
          (stage.error ? "where the sizes do not fit" : `which gives ${shapeText(stage.shape)}`),
      );
      ui.say(`${stage.name}: ${stage.error ? "does not fit" : shapeText(stage.shape)}`, "stage");
      draw();
      describe();
    }

    const legend = ui.make(
      "p",
      { class: "unet-legend" },
      ...Object.entries(KINDS)
        .filter(([kind]) => !["Sequential", "GroupNorm"].includes(kind))
        .map(([, [color, text]]) =>
          ui.make(
            "span",
            {},
            ui.make("span", { class: "figure-mark", style: `background: var(--figure-${color})` }),
            text,
          ),
        ),
    );
    const walk = ui.make(
      "div",
      { class: "unet-walk" },
      step.element,
      ui.make("div", { class: "unet-buttons" }, back.element, next.element, play.element),
    );
    const numbers = ui.readouts(...Object.values(readouts));
    numbers.style.gridTemplateColumns = "repeat(auto-fit, minmax(11rem, 1fr))"; // room for four sizes in a row
    const columns = ui.columns(
      ui.make("div", {}, drawing.svg, legend),
      ui.make("div", { class: "unet-side" }, walk, details, shade.element),
    );
    columns.style.setProperty("--columns", "minmax(0, 1.15fr) minmax(0, 1fr)");
    root.append(
      ui.controls(sliders.height, sliders.width, square),
      ui.controls(base, picture, emb),
      trouble,
      columns,
      numbers,
    );
    update();
  }

  Course.figures.register("unet", { title: "U-Net shape tracer", mount });
})();
