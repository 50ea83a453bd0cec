"use strict";
// The studio: a diffusion model that runs in this browser, its film while pictures form, and one step under the lens.
globalThis.Course ??= {};

Course.studio = (() => {
  const { cell, place, save, still } = Course.pictures;
  const NOISE_LIMIT = 2.5; // ε̂ is drawn so that ±2.5 is black and white

  const FRAMES = 11;
  const STRIP_GAP = 3;

  const stripSide = (width) => (width - STRIP_GAP * (FRAMES - 1)) / FRAMES;

  const digits = (value) => {
    const size = Math.abs(value);
    if (size === 0) return "0";
    if (size < 0.1) return value.toPrecision(2);
    return value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : 3);
  };
  const times = (factor, what) => `${digits(factor)} ${what}`;

  const LAST_SEED = 9999;
  const PICTURE_STRENGTH = 0.6; // a usual standard deviation of pictures in [−1, 1]

  /** A time in words: rough, since it is an estimate. */
  function roughly(seconds) {
    if (seconds < 1) return "less than a second";
    if (seconds < 9.5) return `about ${Math.round(seconds)} s`;
    const tidy = 5 * Math.round(seconds / 5);
    const [minutes, rest] = [Math.floor(tidy / 60), tidy % 60];
    return `about ${[minutes && `${minutes} min`, rest && `${rest} s`].filter(Boolean).join(" ")}`;
  }

  /** What the step does, with its numbers: two lines. */
  function arithmetic(about, { level, nextLevel, tNext }, sampler) {
    if (about.kind === "discrete") {
      const [signal, noise] = [Math.sqrt(level.alphaBar), Math.sqrt(1 - level.alphaBar)];
      const [keep, rest] = [Math.sqrt(nextLevel.alphaBar), Math.sqrt(1 - nextLevel.alphaBar)];
      const guess = `x̂₀ = (xₜ − √(1−ᾱ) ε̂)/√ᾱ = (xₜ − ${times(noise, "ε̂")})/${digits(signal)}, clipped to [−1, 1]`;
      if (tNext < 0) return [guess, "Last step: keep x̂₀."];
      if (sampler === "ddpm") return [guess, `Then t → ${tNext}: the mean of what x̂₀ and xₜ allow, and fresh noise.`];
      const mixed = `${times(keep, "x̂₀")} + ${times(rest, "ε̂")}`;
      return [guess, `Then t → ${tNext}: ${mixed}, the same guess with less noise.`];
    }
    const [sigma, next] = [level.sigma, nextLevel.sigma];
    const guess = `x̂₀ = D(x; σ) = x − σ ε̂ = x − ${times(sigma, "ε̂")}`;
    if (next === 0) return [guess, "Last step: keep x̂₀."];
    const bent = {
      euler: "straight on",
      heun: "with the mean of the slopes here and there",
      dpmpp2m: "with x̂₀ extrapolated from the step before",
      ipndm: "with the slopes of up to four steps",
    };
    const straight = `x̂₀ + ${digits(next / sigma)} (x − x̂₀)`;
    return [guess, `Then σ → ${digits(next)}, ${bent[sampler]}: ${straight} is the straight way.`];
  }

  /** The studio in one figure. */
  class Studio {
    constructor(root, ui, options) {
      Object.assign(this, { root, ui, options, about: null, moments: [], work: null, chosen: 0, runs: 0, each: 0 });
      this.root.classList.add("demo-studio");
      this.build();
      const megabytes = () => (Course.packs.sizeOf(["runtime", options.model]) / 1e6).toFixed(0);
      const first = () => `Nothing is loaded yet; the model has ${megabytes()} MB.`;
      this.state("empty", options.auto ? "Loading the model" : first());
    }

    // --- what is on the page

    build() {
      const { ui, options } = this;
      this.sampler = ui.select({ label: "sampler", options: options.samplers, onInput: () => this.changed() });
      this.steps = ui.slider({ label: "steps", ...options.steps, onInput: () => this.changed() });
      this.count = ui.choice({
        label: "pictures", options: options.counts.map((n) => [n, String(n)]), value: options.count,
        onInput: () => this.changed(),
      });
      const id = `seed-${options.model}`;
      const range = { min: 1, max: LAST_SEED, step: 1, value: 1 };
      this.seed = ui.make("input", { type: "number", id, inputmode: "numeric", ...range });
      this.seed.addEventListener("change", () => this.changed());
      const name = ui.make("label", { for: id, text: "seed of the noise" });
      const seed = ui.make("div", { class: "figure-control demo-seed" }, name, this.seed);
      const other = ui.button({ label: "Other noise", onClick: () => {
        this.seed.value = 1 + (this.seedValue() % LAST_SEED);
        this.changed(true);
      } });
      this.classes = options.classes
        ? ui.select({ label: "class", options: this.menu(), onInput: () => this.changed() }) : null;
      this.guidance = options.classes ? ui.slider({
        label: "guidance w", min: 0, max: 4, step: 0.25, value: 3,
        format: (w) => ({ 0: "0 (no class)", 1: "1 (none)" })[w] ?? String(w),
        onInput: () => this.changed(),
      }) : null;
      this.go = ui.button({ label: options.auto ? "Generate" : options.invitation, onClick: () => this.generate() });
      this.go.element.classList.add("demo-primary");
      this.stop = ui.button({ label: "Cancel", onClick: () => this.work?.abort() });
      this.keep = ui.button({ label: "Save picture", onClick: () => this.save() });
      this.progress = ui.make("progress", { max: 1, value: 0, "aria-label": "progress" });
      this.status = ui.make("p", { class: "demo-status", "data-readout": "status" });
      const scale = this.guidance ? [this.classes, this.guidance] : [];
      this.form = ui.controls(...scale, this.sampler, this.steps, seed, this.count);
      const buttons = [this.go, other, this.stop, this.keep].map(({ element }) => element);
      this.estimate = ui.make("span", { class: "demo-estimate", "data-readout": "estimate" });
      const actions = ui.make("div", { class: "demo-actions" }, ...buttons, this.estimate);

      this.show = ui.choice({
        label: "show", options: [["x", "noisy xₜ"], ["x0", "guess x̂₀"]], value: "x", onInput: () => this.draw(),
      });
      this.screen = ui.canvas({ width: 420, height: 420, label: "The pictures, still empty" });
      this.screen.canvas.addEventListener("click", (event) => this.pick(event));
      this.moment = ui.slider({
        label: "step", min: 0, max: 1, value: 0, format: (k) => this.momentText(k), onInput: () => this.draw(),
      });
      this.which = ui.slider({
        label: "picture under the lens", min: 1, max: 2, value: 1, onInput: (k) => this.choose(k - 1),
      });
      this.strip = ui.canvas({
        width: 860, height: (width) => 2 * stripSide(width) + STRIP_GAP, label: "Film strip, still empty",
      });
      this.strip.canvas.addEventListener("click", (event) => this.jump(event));

      const lens = (symbol, label) => {
        const canvas = ui.canvas({ width: 150, height: 150, label });
        const caption = ui.make("figcaption", { text: symbol });
        return { canvas, figure: ui.make("figure", { class: "demo-lens" }, canvas.element, caption) };
      };
      this.lenses = {
        x: lens("xₜ, what it sees", "noisy picture"),
        eps: lens("ε̂, the noise it sees in it", "guessed noise"),
        x0: lens("x̂₀, what is left", "guess of the clean picture"),
      };
      const numbers = { t: "t", sigma: "σ", alphaBar: "ᾱ", noise: "noise’s share √(1−ᾱ)" };
      if (!options.discrete) delete numbers.t;
      const readouts = Object.entries(numbers).map(([key, label]) => [key, ui.readout({ label, quiet: true })]);
      this.numbers = Object.fromEntries(readouts);
      this.title = ui.make("div", { class: "demo-title", "data-readout": "lens" });
      this.lines = [0, 1].map((k) => ui.make("p", { class: "demo-formula", "data-readout": `formula ${k}` }));
      const why = ui.make("div", { class: "demo-why" },
        this.title,
        ui.make("div", { class: "demo-lenses" }, ...Object.values(this.lenses).map(({ figure }) => figure)),
        ui.readouts(...Object.values(this.numbers)), ...this.lines);
      const left = ui.make("div", { class: "demo-left" }, this.screen.element, this.which.element, this.show.element);
      const below = [this.moment.element, this.strip.element];
      this.result = ui.make("div", { class: "demo-result" }, ui.columns(left, why), ...below);
      this.root.append(this.form, actions, this.progress, this.status, this.result);
    }

    /** Where things stand: for tests, for the buttons, and in words. */
    state(name, text) {
      this.root.dataset.state = name;
      this.status.textContent = text;
      const busy = name === "loading" || name === "running";
      this.progress.hidden = !busy;
      this.stop.element.hidden = name !== "running";
      this.go.enable(!busy);
      this.keep.enable(this.moments.length > 0 && !busy);
      this.result.classList.toggle("demo-empty", !this.moments.length);
      this.foretell();
      if (text && name !== "running") this.ui.say(text, "status");
    }

    // --- the model

    async load() {
      const { options } = this;
      this.state("loading", "Loading the model");
      try {
        const { about, provider } = await Course.engine.load(options.model, {
          gpu: options.gpu, probe: options.probe?.(),
          onProgress: (share, text) => {
            this.progress.value = share;
            this.status.textContent = text;
          },
        });
        Object.assign(this, { about, provider });
      } catch (error) {
        this.state("error", `The model could not be started: ${error.message}. Any recent browser should do.`);
        return false;
      }
      this.go.set("Generate");
      if (!this.options.auto) this.each = await Course.runs.measure(this.about);
      this.state("ready", "The model is ready.");
      return true;
    }

    /** Choices of the class: each, all of them in turn, or none. */
    menu() {
      const { classes } = this.options;
      return [["turn", "all in turn"], ...classes.map((name, k) => [k, name]), [classes.length, "no class"]];
    }

    /** Beside the button of a model that waits for it: how long a run would take, from what was measured here. */
    foretell() {
      const busy = ["loading", "running"].includes(this.root.dataset.state);
      const known = this.about && this.each && !this.options.auto && !busy;
      const how = known ? this.how() : null;
      const asked = known ? Course.runs.evaluations(this.about, how).reduce((sum, n) => sum + n, 0) : 0;
      this.estimate.textContent = known ? `takes ${roughly((asked * how.count * this.each) / 1000)} here` : "";
    }

    seedValue() {
      const value = Math.floor(Number(this.seed.value));
      const seed = Number.isFinite(value) ? Math.min(LAST_SEED, Math.max(1, value)) : 1;
      this.seed.value = seed;
      return seed;
    }

    how() {
      const count = Number(this.count.value);
      const chosen = this.classes?.value;
      const classes = this.about.classes;
      const labelOf = (k) => (chosen === "turn" ? k % classes : Number(chosen));
      const labels = classes ? Array.from({ length: count }, (_, k) => labelOf(k)) : undefined;
      return {
        count, labels, seed: this.seedValue(), steps: this.steps.value, sampler: this.sampler.value,
        guidance: this.guidance?.value ?? 1,
      };
    }

    /** A control has moved: small models answer at once, large ones wait for the button. */
    changed(now = false) {
      this.foretell();
      if (!this.about || !(this.options.auto || now)) return;
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.generate(), now ? 0 : 250);
    }

    async generate() {
      if (!this.about && !(await this.load())) return;
      this.work?.abort();
      const work = new AbortController();
      this.work = work;
      const how = this.how();
      this.made = how;
      this.moments = [];
      this.pictures = null;
      if (this.chosen >= how.count) this.chosen = 0;
      this.which.range(1, Math.max(2, how.count));
      this.which.set(this.chosen + 1);
      this.which.element.hidden = how.count === 1;
      this.moment.range(0, how.steps);
      this.progress.value = 0;
      const costs = Course.runs.evaluations(this.about, how).map((n) => n * how.count);
      const after = (k) => costs.slice(k).reduce((sum, n) => sum + n, 0);
      const left = (seconds) => (seconds ? `, ${roughly(seconds)} left` : "");
      this.state("running", `Generating${left((after(0) * this.each) / 1000)}`);
      const begin = performance.now();
      try {
        const run = await Course.runs.start(this.about, how, {
          signal: work.signal,
          onStep: (moment) => {
            if (this.work !== work) return;
            this.moments.push(moment);
            this.pictures = moment.next;
            const [done, rest] = [this.moments.length, after(this.moments.length)];
            const pace = (performance.now() - begin) / (after(0) - rest);
            this.progress.value = 1 - rest / after(0);
            this.status.textContent = `Step ${done} of ${how.steps}${left((rest * pace) / 1000)}`;
            this.result.classList.remove("demo-empty");
            this.moment.set(this.moments.length);
            this.draw();
          },
        });
        if (this.work !== work) return;
        const seconds = (performance.now() - begin) / 1000;
        this.root.dataset.seconds = seconds.toFixed(3);
        this.root.dataset.runs = ++this.runs;
        const each = run.milliseconds / run.evaluations;
        this.each = (1000 * seconds) / run.evaluations;
        const on = this.provider === "webgpu" ? "on your graphics processor" : "on one core of your processor";
        this.work = null;
        const asked = run.evaluations / how.count;
        const parameters = this.about.parameters.toLocaleString("en");
        const twice = asked > this.moments.length ? " (some steps ask twice)" : "";
        this.state("done", `${asked} evaluation${asked === 1 ? "" : "s"}${twice} of ${parameters} parameters a picture, `
          + `${each.toFixed(0)} ms each ${on}: ${seconds.toFixed(1)} s.`);
      } catch (error) {
        if (this.work !== work) return;
        this.work = null;
        if (error instanceof Course.runs.Cancelled) {
          this.state("cancelled", `Cancelled after ${this.moments.length} steps.`);
        } else this.state("error", `The run failed: ${error.message}`);
      }
      this.draw();
    }

    // --- what is shown

    /** Values, and how they are scaled, at the moment that the slider shows; the last one is the result. */
    at(k) {
      const moment = this.moments[Math.min(k, this.moments.length - 1)];
      const ended = k >= this.moments.length;
      return { moment, ended };
    }

    momentText(k) {
      if (!this.moments.length) return "none yet";
      if (k >= this.moments.length) return `after step ${this.moments.length}`;
      return `before step ${k + 1} of ${this.made.steps}`;
    }

    stillOf(k, picture, what) {
      const { moment, ended } = this.at(k);
      const offset = picture * Course.runs.sizeOf(this.about.shape);
      if (what === "eps") return still(moment.eps, this.about.shape, { offset, limit: NOISE_LIMIT });
      if (what === "x0" && !ended) return still(moment.x0, this.about.shape, { offset });
      const [values, level] = ended ? [moment.next, moment.nextLevel] : [moment.x, moment.level];
      return still(values, this.about.shape, { offset, limit: 1 / level.scale });
    }

    draw() {
      if (!this.moments.length) return;
      const k = this.moment.value;
      this.moment.set(Math.min(k, this.moments.length));
      const n = this.made.count;
      const what = this.show.value;
      const stills = Array.from({ length: n }, (_, i) => this.stillOf(k, i, what));
      this.screen.redraw((context, width, height, colors) => {
        stills.forEach((picture, i) => {
          const { x, y, size } = cell(i, n, width);
          place(context, picture, x, y, size);
          if (n > 1 && i === this.chosen) {
            context.lineWidth = 3;
            context.strokeStyle = colors.orange;
            context.strokeRect(x + 1.5, y + 1.5, size - 3, size - 3);
          }
        });
      });
      this.screen.describe(`${n === 1 ? "A picture" : `${n} pictures`} ${this.momentText(k)}`);
      const lens = this.lensStep(k);
      this.drawStrip(k, lens);
      this.drawLens(lens);
    }

    /**
     * The step under the lens. After the last one there is none: then, unless the run goes on, the one in the middle of
     * the run whose noise is nearest to the picture in strength (not the last, which only ends it).
     */
    lensStep(k) {
      const last = this.moments.length - 1;
      if (k <= last || this.work) return Math.min(k, last);
      const far = ({ level }) => Math.abs(Math.log(level.sigma / PICTURE_STRENGTH));
      const inner = this.moments.slice(0, Math.max(1, last));
      return inner.reduce((best, moment, i) => (far(moment) < far(inner[best]) ? i : best), 0);
    }

    /** Which steps the film shows. */
    frames() {
      const total = this.made.steps;
      const n = Math.min(FRAMES, total + 1);
      return Array.from({ length: n }, (_, i) => Math.round((total * i) / (n - 1)));
    }

    drawStrip(k, lens) {
      const frames = this.frames();
      const rows = ["x", "x0"];
      const stills = frames.map((frame) => frame > this.moments.length ? null
        : rows.map((what) => this.stillOf(frame, this.chosen, what)));
      this.strip.redraw((context, width, height, colors) => {
        const size = stripSide(width);
        const nearest = (step) =>
          frames.reduce((best, frame, i) => (Math.abs(frame - step) < Math.abs(frames[best] - step) ? i : best), 0);
        stills.forEach((pair, i) => rows.forEach((_, row) => {
          const [x, y] = [i * (size + STRIP_GAP), row * (size + STRIP_GAP)];
          context.fillStyle = colors.raised;
          if (pair) place(context, pair[row], x, y, size);
          else context.fillRect(x, y, size, size);
        }));
        context.lineWidth = 2;
        for (const [color, step] of [[colors.sky, lens], [colors.orange, k]]) {
          context.strokeStyle = color;
          context.strokeRect(nearest(step) * (size + STRIP_GAP) + 1, 1, size - 2, 2 * size + STRIP_GAP - 2);
        }
      });
      const shown = this.momentText(k);
      this.strip.describe(`Film strip from noise to picture: noisy states above, guesses below; shown: ${shown}`);
    }

    drawLens(k) {
      const moment = this.moments[k];
      for (const [what, { canvas }] of Object.entries(this.lenses)) {
        const picture = this.stillOf(k, this.chosen, what);
        canvas.redraw((context, width) => place(context, picture, 0, 0, width));
      }
      const { alphaBar, sigma } = moment.level;
      const more = this.moment.value > k + 1 && !this.work ? "; drag “step” for the others" : "";
      this.title.textContent = `Why this step: ${k + 1} of ${this.made.steps}${more}`;
      this.numbers.t?.set(moment.t);
      this.numbers.sigma.set(digits(sigma));
      this.numbers.alphaBar.set(digits(alphaBar));
      this.numbers.noise.set(digits(Math.sqrt(1 - alphaBar)));
      arithmetic(this.about, moment, this.made.sampler).forEach((text, i) => { this.lines[i].textContent = text; });
    }

    choose(k) {
      this.chosen = k;
      this.which.set(k + 1);
      this.draw();
    }

    pick(event) {
      if (!this.moments.length) return;
      const box = this.screen.canvas.getBoundingClientRect();
      const n = this.made.count;
      for (let k = 0; k < n; k++) {
        const { x, y, size } = cell(k, n, box.width);
        const [dx, dy] = [event.clientX - box.left - x, event.clientY - box.top - y];
        if (dx >= 0 && dy >= 0 && dx < size && dy < size) this.choose(k);
      }
    }

    jump(event) {
      if (!this.moments.length) return;
      const box = this.strip.canvas.getBoundingClientRect();
      const frame = this.frames()[Math.floor(((event.clientX - box.left) / box.width) * FRAMES)];
      if (frame === undefined) return;
      this.moment.set(Math.min(frame, this.moments.length));
      this.draw();
    }

    save() {
      const { value } = this.moment;
      const stills = Array.from({ length: this.made.count }, (_, i) => this.stillOf(value, i, this.show.value));
      save(stills, `${this.options.model}-seed-${this.made.seed}.png`, 256 / this.about.shape[2]);
    }
  }

  /** Make a studio known as a figure. */
  function register(name, options) {
    Course.figures.register(name, {
      title: options.title,
      mount(root, ui) {
        const picture = root.parentElement.querySelector(".figure-fallback img");
        if (Course.film.isNeeded([options.model])) {
          Course.film.mount(root, ui, picture);
          return;
        }
        const studio = new Studio(root, ui, options);
        (Course.studios ??= {})[name] = studio;
        if (options.auto) Course.engine.first = studio.generate();
      },
    });
  }

  register("digits-studio", {
    title: "Digits out of noise",
    model: "digits-ddpm",
    discrete: true,
    auto: true,
    samplers: [["ddim", "DDIM (no new noise)"], ["ddpm", "DDPM (new noise)"]],
    steps: { min: 1, max: 100, value: 20 },
    counts: [1, 4, 16],
    count: 4,
  });

  register("cifar10-studio", {
    title: "Colour pictures out of noise",
    model: "cifar10-edm",
    classes: [
      "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    ],
    gpu: true,
    invitation: "Load the model and generate",
    samplers: [
      ["dpmpp2m", "DPM-Solver++(2M)"],
      ["heun", "Heun (asks twice a step)"],
      ["ipndm", "iPNDM"],
      ["euler", "Euler (DDIM)"],
    ],
    steps: { min: 1, max: 40, value: 10 },
    counts: [1, 4, 16],
    count: 1,
    probe: () => ({
      x: Course.engine.floats(Course.maths.noise.normals(3072, 1), [1, 3, 32, 32]),
      t: Course.engine.floats([0], [1]),
      label: Course.engine.integers([0]),
    }),
  });

  return { register };
})();
