"use strict";
// The easel: draw a digit, and an energy-based model says how likely it finds it, and which way is downhill.
globalThis.Course ??= {};

(() => {
  const { place, still } = Course.pictures;
  const { bitmap, counts, normalised, penFor, percentile, picture } = Course.maths.ink;
  const GRID = 32; // points of the drawing area, as in the data
  const PEN = 2; // radius of the pen in these points, on the board
  const SHAPE = [1, 8, 8];
  const EMPTY = new Float64Array(64).fill(-1);
  const isBlank = (x) => x.every((value) => value === -1);
  const SPREAD = 0.02; // for slopes by central differences
  const DOWN = 0.05; // one step downhill, as a share of σ²: D = x − σ²∇E would be the whole way
  const STEPS = 24; // of these at a press of the button,
  const PAUSE = 60; // each shown for so many milliseconds

  /**
   * The area to draw on: by mouse, finger or pen, and by keys. Calls onBegin() before a stroke begins, and onChange().
   * Where there are no strokes, it shows a picture of 8 × 8, and the outline of what it was before.
   */
  class Board {
    constructor(ui, onBegin, onChange) {
      Object.assign(this, { ui, onBegin, onChange, strokes: [], shown: null, outline: [] });
      Object.assign(this, { pen: [GRID / 2, GRID / 2], down: false, keyed: false });
      this.surface = ui.canvas({ width: 300, height: 300, label: "" });
      const { canvas } = this.surface;
      canvas.tabIndex = 0;
      canvas.setAttribute("role", "application");
      canvas.setAttribute("aria-label", "Drawing area. Draw with mouse or finger; or move the pen with the arrow keys, "
        + "and lower or lift it with the space bar.");
      canvas.classList.add("demo-board");
      this.listen(canvas);
      this.surface.redraw((context, width, height, colors) => this.paint(context, width, colors));
    }

    listen(canvas) {
      const point = (event) => {
        const box = canvas.getBoundingClientRect();
        return [((event.clientX - box.left) / box.width) * GRID, ((event.clientY - box.top) / box.height) * GRID];
      };
      canvas.addEventListener("pointerdown", (event) => {
        if (event.button) return;
        canvas.setPointerCapture(event.pointerId);
        this.keyed = false;
        this.begin([point(event)]);
        this.changed();
      });
      canvas.addEventListener("pointermove", (event) => {
        if (!canvas.hasPointerCapture(event.pointerId) || !this.strokes.length) return;
        for (const moved of event.getCoalescedEvents?.() ?? [event]) this.strokes.at(-1).push(point(moved));
        this.changed();
      });
      canvas.addEventListener("keydown", (event) => this.key(event));
      canvas.addEventListener("blur", () => { this.down = false; });
    }

    key(event) {
      const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      const move = moves[event.key];
      if (!move && event.key !== " ") return;
      event.preventDefault();
      this.keyed = true;
      if (move) {
        const far = event.shiftKey ? 4 : 1;
        this.pen = this.pen.map((value, i) => Math.min(GRID, Math.max(0, value + far * move[i])));
      } else {
        this.down = !this.down;
        if (this.down) this.begin([]);
        this.ui.say(this.down ? "pen down" : "pen up", "pen");
      }
      if (this.down) this.strokes.at(-1).push([...this.pen]);
      this.changed();
    }

    begin(stroke) {
      this.onBegin();
      Object.assign(this, { strokes: [...this.strokes, stroke], shown: null, outline: [] });
    }

    paint(context, width, colors) {
      const unit = width / GRID;
      context.fillStyle = colors.text;
      this.shown?.forEach((value, i) => {
        const edge = (k) => Math.round((k * width) / 8);
        const [column, row] = [i % 8, i >> 3];
        context.globalAlpha = Math.max(0, (value + 1) / 2);
        context.fillRect(edge(column), edge(row), edge(column + 1) - edge(column), edge(row + 1) - edge(row));
      });
      context.globalAlpha = 1;
      context.strokeStyle = colors.grid;
      context.lineWidth = 1;
      for (let k = 4; k < GRID; k += 4) {
        const at = Math.round(k * unit) + 0.5;
        context.beginPath();
        context.moveTo(at, 0);
        context.lineTo(at, width);
        context.moveTo(0, at);
        context.lineTo(width, at);
        context.stroke();
      }
      context.lineCap = context.lineJoin = "round";
      const draw = (strokes, color, wide) => {
        Object.assign(context, { strokeStyle: color, lineWidth: wide });
        for (const stroke of strokes) {
          context.beginPath();
          stroke.forEach(([x, y], k) => context[k ? "lineTo" : "moveTo"](x * unit, y * unit));
          if (stroke.length === 1) context.lineTo(stroke[0][0] * unit + 0.01, stroke[0][1] * unit);
          context.stroke();
        }
      };
      draw(this.strokes, colors.text, 2 * PEN * unit);
      draw(this.outline, colors.vermilion, 2);
      if (!this.strokes.length && !this.shown && !this.keyed) {
        context.fillStyle = colors.muted;
        context.textAlign = "center";
        context.font = this.ui.font(16);
        context.fillText("Draw a digit here", width / 2, width / 2);
      }
      if (this.keyed) {
        context.lineWidth = 2;
        context.strokeStyle = this.down ? colors.vermilion : colors.blue;
        context.beginPath();
        context.arc(this.pen[0] * unit, this.pen[1] * unit, 9, 0, 2 * Math.PI);
        context.stroke();
      }
    }

    changed() {
      this.surface.redraw();
      this.onChange();
    }

    /** What is on it, for putting it back. */
    get state() {
      return { strokes: this.strokes, shown: this.shown, outline: this.outline };
    }

    /** Show something else: strokes, a picture, an outline, or nothing. */
    show({ strokes = [], shown = null, outline = [] }) {
      Object.assign(this, { strokes, shown, outline, down: false });
      this.surface.redraw();
    }

    /** The drawing as the data would have it: brought to size and to that share of ink, counted in blocks. */
    picture(share) {
      const { drawn, radius } = this.standard(share);
      return picture(counts(bitmap(drawn, radius)));
    }

    /** The strokes brought to size, and the pen for them. */
    standard(share) {
      const strokes = this.strokes.filter((stroke) => stroke.length);
      const radius = penFor(strokes, share);
      return { drawn: normalised(strokes, radius), radius };
    }

    get isEmpty() {
      return !this.strokes.some((stroke) => stroke.length);
    }
  }

  class Easel {
    constructor(root, ui) {
      Object.assign(this, { root, ui, about: null, x: EMPTY, slope: null, energy: null, asked: 0 });
      Object.assign(this, { past: [], film: null });
      root.classList.add("demo-easel");
      this.build();
    }

    build() {
      const { ui } = this;
      this.board = new Board(ui, () => this.remember(), () => this.drawn());
      const choices = [["", "choose"], ...[..."0123456789"].map((k) => [k, k])];
      const label = "or take a held-out digit";
      this.example = ui.select({ label, options: choices, onInput: (k) => this.take(k, true) });
      const action = (label, change) => ui.button({ label, onClick: () => { change(); } });
      const turned = () => Float64Array.from(this.x, (_, i) => this.x[(7 - (i >> 3)) * 8 + (i & 7)]);
      const flip = action("Upside down", () => this.put(turned()));
      const negate = action("Negative", () => this.put(this.x.map((value) => -value)));
      const noise = action("Noise", () => {
        const next = Course.maths.noise.uniform(++this.asked, 7);
        this.put(Float64Array.from({ length: 64 }, () => 2 * next() - 1));
      });
      this.downhill = action("Downhill", () => (this.film ? this.endFilm() : this.descend()));
      this.downhill.element.classList.add("demo-primary");
      this.undo = action("Undo", () => this.goBack());
      this.undo.enable(false);
      const clear = action("Clear", () => this.put(EMPTY));
      this.sees = ui.canvas({ width: 220, height: 220, label: "What the model sees: empty" });
      this.wants = ui.canvas({ width: 220, height: 220, label: "What the model would change" });
      const panel = (canvas, text) =>
        ui.make("figure", { class: "demo-lens" }, canvas.element, ui.make("figcaption", {}, ...text));
      const mark = (name) =>
        ui.make("span", { class: "figure-mark demo-mark", style: `background: var(--figure-${name})` });
      const pair = (name, text) => ui.make("span", { class: "demo-pair" }, mark(name), text);
      const panels = ui.make("div", { class: "demo-lenses" }, panel(this.sees, ["What the model sees: 8 × 8 counts"]),
        panel(this.wants, ["−∇E: ", pair("blue", "more ink,"), " ", pair("orange", "less")]));
      this.value = ui.readout({ label: "energy E(x, σ)", quiet: true });
      this.share = ui.readout({ label: "held-out digits with lower energy", quiet: true });
      this.verdict = ui.make("p", { class: "demo-status", "data-readout": "verdict" });
      this.chart = ui.canvas({ width: 860, height: (width) => (width < 500 ? 190 : 170), label: "Energies" });
      const moves = [this.downhill, flip, negate, noise].map(({ element }) => element);
      const left = ui.make("div", { class: "demo-left" }, this.board.surface.element,
        ui.make("div", { class: "demo-actions" }, this.undo.element, clear.element), this.example.element);
      const right = ui.make("div", { class: "demo-why" }, panels, ui.readouts(this.value, this.share), this.verdict,
        ui.make("div", { class: "demo-actions demo-four" }, ...moves));
      this.root.append(ui.columns(left, right), this.chart.element);
      this.root.dataset.state = "loading";
      this.verdict.textContent = "Loading the model";
    }

    async load() {
      await Course.engine.first; // a studio on the same page goes before
      try {
        this.about = (await Course.engine.load("digits-energy")).about;
      } catch (error) {
        this.root.dataset.state = "error";
        this.verdict.textContent = `The model could not be started: ${error.message}`;
        return;
      }
      this.root.dataset.state = "ready";
      if (!this.board.isEmpty) this.drawn();
      else if (this.past.length) this.score();
      else this.take("3");
    }

    // --- what is on the board, and what was

    /** Keep what is there, for the button Undo. */
    remember() {
      this.endFilm();
      this.past.push({ board: this.board.state, x: this.x, example: this.example.value });
      this.undo.enable(true);
    }

    goBack() {
      this.endFilm();
      const { board, x, example } = this.past.pop();
      this.undo.enable(this.past.length > 0);
      this.board.show(board);
      this.example.set(example);
      this.x = x;
      this.score();
    }

    /** Strokes have changed. */
    drawn() {
      this.example.set("");
      if (!this.about) return;
      this.x = this.board.isEmpty ? EMPTY : this.board.picture(this.about.scale.ink);
      this.score();
    }

    /** A picture that does not come from strokes. */
    put(x) {
      this.remember();
      this.board.show({ shown: isBlank(x) ? null : x });
      this.example.set("");
      this.x = x;
      this.score();
    }

    /** A held-out digit of that class. */
    take(k, chosen = false) {
      if (k === "" || !this.about) return;
      if (chosen) this.remember();
      this.x = picture(this.about.scale.examples[k]);
      this.board.show({ shown: this.x });
      this.example.set(k);
      this.score();
    }

    // --- energies

    /** Energies of pictures at the model's noise level. */
    async energies(pictures) {
      const n = pictures.length;
      const all = new Float32Array(64 * n);
      pictures.forEach((x, k) => all.set(x, 64 * k));
      const { floats, run } = Course.engine;
      const feeds = { x: floats(all, [n, ...SHAPE]), t: floats(new Array(n).fill(this.about.scale.sigma), [n]) };
      return (await run("digits-energy", feeds)).data;
    }

    /** −∂E/∂x by central differences: 129 pictures in one call, the first of which is x itself. */
    async look(x) {
      const moved = [x];
      for (const sign of [1, -1]) {
        for (let i = 0; i < 64; i++) moved.push(x.map((value, j) => value + (i === j ? sign * SPREAD : 0)));
      }
      const found = await this.energies(moved);
      const slope = Float64Array.from({ length: 64 }, (_, i) => (found[65 + i] - found[1 + i]) / (2 * SPREAD));
      return { energy: found[0], slope };
    }

    async score() {
      if (!this.about) return;
      const x = this.x;
      const { energy, slope } = await this.look(x);
      if (x !== this.x) return; // the hand was faster
      Object.assign(this, { energy, slope });
      this.tell();
      this.draw();
    }

    /** A film of small steps along −∇E, whose last picture stays; with reduced motion, only that one is shown. */
    async descend() {
      if (!this.about) return;
      const outline = this.board.isEmpty ? this.board.outline : this.board.standard(this.about.scale.ink).drawn;
      this.remember();
      const film = {};
      this.film = film;
      this.root.dataset.state = "downhill";
      this.downhill.set("Stop");
      const pause = this.ui.prefersReducedMotion() ? 0 : PAUSE;
      const far = DOWN * this.about.scale.sigma ** 2;
      let { x, slope } = { x: this.x, slope: (await this.look(this.x)).slope };
      for (let k = 1; k <= STEPS && this.film === film; k++) {
        x = x.map((value, i) => Math.min(1, Math.max(-1, value + far * slope[i])));
        const [found] = await Promise.all([this.look(x), new Promise((resolve) => setTimeout(resolve, pause))]);
        if (this.film !== film) return;
        slope = found.slope;
        if (!pause && k < STEPS) continue;
        Object.assign(this, { x, ...found });
        this.board.show({ shown: x, outline });
        this.example.set("");
        this.tell(`Downhill, step ${k} of ${STEPS}.`);
        this.draw();
      }
      if (this.film === film) this.endFilm();
    }

    /** The film is over, or something else happens. */
    endFilm() {
      if (!this.film) return;
      this.film = null;
      this.root.dataset.state = "ready";
      this.downhill.set("Downhill");
      if (this.energy !== null) this.tell();
    }

    tell(before = "") {
      const { digits } = this.about.scale.quantiles;
      const share = percentile(digits, this.energy);
      this.root.dataset.energy = this.energy;
      this.root.dataset.percentile = share;
      this.value.set(this.energy.toFixed(1).replace("-", "−"));
      this.share.set(`${share.toFixed(0)} %`);
      const words = isBlank(this.x) ? "An empty page: no digit, says the energy."
        : this.energy > digits.at(-1) ? "Higher than the energy of every held-out digit: no digit, to this model."
        : share > 90 ? "An unusual digit, to this model."
        : this.energy < digits[0] ? "Lower than every held-out digit. But likely is not typical."
        : share < 10 ? "As likely as the smoothest held-out digits."
        : "Among the held-out digits: a digit, to this model.";
      this.verdict.textContent = before || words;
      if (!before) this.ui.say(`Energy ${this.energy.toFixed(1)}. ${words}`, "energy");
    }

    draw() {
      const seen = still(this.x, SHAPE);
      this.sees.redraw((context, width) => place(context, seen, 0, 0, width));
      this.sees.describe(`What the model sees: a picture of 8 by 8 grey pixels of energy ${this.energy.toFixed(1)}`);
      const most = Math.max(...this.slope.map(Math.abs));
      this.wants.redraw((context, width, height, colors) => {
        const parts = (hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16));
        const [more, less, ground] = [colors.blue, colors.orange, colors.raised].map(parts);
        const color = (v) => [0, 1, 2].map((c) => ground[c] + Math.abs(v) * ((v > 0 ? more : less)[c] - ground[c]));
        place(context, still(this.slope, SHAPE, { limit: most, color }), 0, 0, width);
      });
      this.wants.describe("Where more ink or less ink would lower the energy, pixel by pixel");
      this.chart.redraw((context, width, height, colors) => this.drawChart(context, width, height, colors));
      const number = this.energy.toFixed(1);
      this.chart.describe(`Energies of digits, of digits upside down and of noise, and of your picture: ${number}`);
    }

    drawChart(context, width, height, colors) {
      const { quantiles } = this.about.scale;
      const names = Object.keys(quantiles);
      const all = names.flatMap((name) => [quantiles[name][0], quantiles[name].at(-1)]);
      const [low, high] = [Math.min(...all) - 4, Math.max(...all) + 4];
      const left = width < 500 ? 84 : 108;
      const box = { x: left, y: 26, width: width - left - 14, height: height - 70 };
      const { axes } = this.ui;
      const xlabel = "energy at the model's noise level (low is likely)";
      const { x } = axes(context, box, { xlim: [low, high], ylim: [0, 3], xlabel, yticks: [] });
      names.forEach((name, row) => {
        const y = box.y + (box.height * (row + 0.5)) / names.length;
        const values = quantiles[name];
        context.fillStyle = [colors.blue, colors.orange, colors.grey][row];
        context.globalAlpha = 0.55;
        values.forEach((value, k) => {
          context.beginPath();
          context.arc(x(value), y + ((k * 7) % 11 - 5), 3, 0, 2 * Math.PI);
          context.fill();
        });
        context.globalAlpha = 1;
        context.fillStyle = colors.text;
        context.textAlign = "right";
        context.textBaseline = "middle";
        context.fillText(name, box.x - 10, y);
      });
      const here = Math.min(high, Math.max(low, this.energy));
      context.strokeStyle = colors.vermilion;
      context.lineWidth = 3;
      context.beginPath();
      context.moveTo(x(here), box.y - 4);
      context.lineTo(x(here), box.y + box.height);
      context.stroke();
      context.fillStyle = colors.text;
      const along = (x(here) - box.x) / box.width;
      context.textAlign = along > 0.75 ? "right" : along < 0.25 ? "left" : "center";
      context.textBaseline = "bottom";
      context.font = this.ui.font(13, 600);
      context.fillText(`your picture${here === this.energy ? "" : here === high ? " →" : " ←"}`, x(here), box.y - 6);
    }
  }

  Course.figures.register("digits-easel", {
    title: "How likely is your digit?",
    mount(root, ui) {
      if (Course.film.isNeeded(["digits-energy"])) {
        const names = ["Held-out digits of lowest energy", "Held-out digits of highest energy", "Digits upside down"];
        Course.film.mount(root, ui, root.parentElement.querySelector(".figure-fallback img"), { names });
        return;
      }
      const easel = new Easel(root, ui);
      (Course.studios ??= {})["digits-easel"] = easel;
      easel.load();
    },
  });
})();
