"use strict";
// What every live figure is made of: the register of figures, and what a mounted figure works with: the controls, axes
// and random numbers of the files beside this one, and drawings that follow the theme and the size of the page,
// readouts, dragging and animation. A figure is a file that registers itself:
//
//     Course.figures.register("name", { title: "…", mount(root, ui) { root.append(ui.slider({…}).element); } });
//
// and a page shows it in <div class="course-figure" data-figure="name">static picture and caption</div>. `root` is a
// new <div class="figure-stage"> in front of the caption; the picture is hidden once the figure stands.
globalThis.Course ??= {};

(() => {
  const { colors, font, prefersReducedMotion } = Course.theme;
  const { make } = Course.controls;
  const { axes, ticksBetween, powersBetween, formatTick } = Course.axes;
  const { rng } = Course.maths.random;

  const definitions = new Map();
  const mounted = new Map(); // stage → { ui, destroy }

  /** A label whose "_t" becomes a subscript. */
  const lowered = (text) => text.split(/_(\w)/).map((part, i) => (i % 2 ? make("sub", { text: part }) : part));

  const elementOf = (widget) => widget.element ?? widget;

  /** What one mounted figure works with. */
  class Ui {
    #stage;
    #live;
    #said = new Map();
    #timer = 0;
    #themed = new Set();
    #endings = [];

    constructor(stage, live) {
      this.#stage = stage;
      this.#live = live;
      Object.assign(this, { ...Course.controls, rng, colors, font, axes, prefersReducedMotion });
    }

    /** A row of controls: widgets or elements. */
    controls(...widgets) {
      return make("div", { class: "figure-controls" }, ...widgets.map(elementOf));
    }

    /** A row of readouts. */
    readouts(...widgets) {
      return make("div", { class: "figure-readouts" }, ...widgets.map(elementOf));
    }

    /** Things side by side, below each other where it is narrow. */
    columns(...widgets) {
      return make("div", { class: "figure-columns" }, ...widgets.map(elementOf));
    }

    /**
     * A number under its label, marked data-readout=label for tests. Screen readers hear what has changed once it has
     * rested for a moment; with `quiet`, never. Returns { element, set(text) }.
     */
    readout({ label, quiet = false }) {
      const value = make("span", { class: "figure-number", "data-readout": label });
      const element = make(
        "div",
        { class: "figure-readout" },
        make("span", { class: "figure-label" }, ...lowered(label)),
        value,
      );
      return {
        element,
        set: (text) => {
          if (value.textContent === String(text)) return;
          const first = value.textContent === "";
          value.textContent = text;
          if (!quiet && !first) this.say(`${label}: ${text}`, label);
        },
      };
    }

    /** Tell screen readers, politely, once things have rested for a moment; of a key only the last text is told. */
    say(text, key = text) {
      this.#said.set(key, text);
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => {
        this.#live.textContent = [...this.#said.values()].join("; ");
        this.#said.clear();
      }, 700);
    }

    /** Call `fn` now, and again whenever the theme changes. */
    themed(fn) {
      this.#themed.add(fn);
      fn(colors());
    }

    /**
     * A drawing that is as wide as its container and sharp on every screen.
     * @param {{width: number, height: number | ((width: number) => number), label: string}} options Natural width
     *   and height in CSS pixels, whose ratio is kept; a function chooses the height for a width.
     * @returns {{element, canvas, context, width, height, redraw(fn?), describe(text)}} redraw(fn) keeps and calls
     *   fn(context, width, height, colors) in the next frame, and again when size or theme change; redraw() repeats it.
     */
    canvas({ width, height, label }) {
      const canvas = make("canvas", { class: "figure-canvas", role: "img", "aria-label": label });
      const context = canvas.getContext("2d");
      const size = { width, height: typeof height === "function" ? height(width) : height };
      let draw = null;
      let due = 0;
      const paint = () => {
        due = 0;
        if (!draw || size.width < 1) return;
        const ratio = Math.max(1, globalThis.devicePixelRatio || 1);
        const [columns, rows] = [Math.round(size.width * ratio), Math.round(size.height * ratio)];
        if (canvas.width !== columns || canvas.height !== rows) Object.assign(canvas, { width: columns, height: rows });
        context.setTransform(ratio, 0, 0, ratio, 0, 0);
        context.clearRect(0, 0, size.width, size.height);
        context.font = font(13);
        draw(context, size.width, size.height, colors());
      };
      const later = () => {
        due ||= requestAnimationFrame(paint);
      };
      const fit = () => {
        const wide = canvas.clientWidth;
        if (!wide) return;
        size.width = wide;
        size.height = typeof height === "function" ? height(wide) : (wide * height) / width;
        canvas.style.height = `${size.height}px`;
        paint();
      };
      const watcher = new ResizeObserver(fit);
      watcher.observe(canvas);
      canvas.style.maxWidth = `${width}px`;
      this.#themed.add(later);
      this.#endings.push(() => {
        watcher.disconnect();
        cancelAnimationFrame(due);
      });
      return {
        element: canvas,
        canvas,
        context,
        get width() {
          return size.width;
        },
        get height() {
          return size.height;
        },
        redraw(fn) {
          if (fn) draw = fn;
          later();
        },
        describe(text) {
          canvas.setAttribute("aria-label", text);
        },
      };
    }

    /** An SVG drawing. Returns { element, svg, add(tag, attributes, parent?) → node }; `text` is a node's content. */
    svg({ viewBox, label }) {
      const space = "http://www.w3.org/2000/svg";
      const add = (tag, attributes = {}, parent = svg) => {
        const node = document.createElementNS(space, tag);
        for (const [name, value] of Object.entries(attributes)) {
          if (name === "text") node.textContent = value;
          else node.setAttribute(name, value);
        }
        parent?.append(node);
        return node;
      };
      const svg = add("svg", { viewBox, class: "figure-svg", role: "img", "aria-label": label }, null);
      return { element: svg, svg, add };
    }

    /**
     * Call onMove({ x, y }) in CSS pixels while a pointer is held down on a canvas; a finger may still scroll the page
     * up and down, unless `both`, when it draws in both directions.
     */
    drag(canvas, onMove, { both = false } = {}) {
      const target = elementOf(canvas);
      target.style.touchAction = both ? "none" : "pan-y";
      target.classList.add("figure-draggable");
      const tell = (event) => {
        const box = target.getBoundingClientRect();
        onMove({ x: event.clientX - box.left, y: event.clientY - box.top });
      };
      target.addEventListener("pointerdown", (event) => {
        if (event.button) return;
        target.setPointerCapture(event.pointerId);
        tell(event);
      });
      target.addEventListener("pointermove", (event) => {
        if (target.hasPointerCapture(event.pointerId)) tell(event);
      });
    }

    /**
     * Call step(seconds since the last frame) once a frame, until stop(), or until step returns false. For readers who
     * prefer reduced motion, start() does one step and rests. Returns { start(), stop(), running }.
     */
    animate(step) {
      let frame = 0;
      let last = 0;
      const stop = () => {
        cancelAnimationFrame(frame);
        frame = 0;
      };
      const tick = (now) => {
        const seconds = Math.max(0, Math.min((now - last) / 1000, 0.1));
        last = now;
        frame = requestAnimationFrame(tick);
        if (step(seconds) === false) stop();
      };
      this.#endings.push(stop);
      return {
        start() {
          if (frame) return;
          if (prefersReducedMotion()) {
            step(1 / 60);
            return;
          }
          last = performance.now();
          frame = requestAnimationFrame(tick);
        },
        stop,
        get running() {
          return frame !== 0;
        },
      };
    }

    /** Used by the register: the theme has changed. */
    retheme() {
      const palette = colors();
      for (const [name, value] of Object.entries(palette)) this.#stage.style.setProperty(`--figure-${name}`, value);
      for (const fn of this.#themed) fn(palette);
    }

    /** Used by the register: end timers and observers. */
    end() {
      clearTimeout(this.#timer);
      for (const ending of this.#endings) ending();
    }
  }

  /**
   * Make a figure known.
   * @param {string} name As in data-figure.
   * @param {{title: string, mount(root: HTMLElement, ui: Ui): ({destroy?: () => void} | void)}} definition
   */
  function register(name, definition) {
    if (definitions.has(name)) throw new Error(`a figure named ${name} is registered already`);
    definitions.set(name, definition);
  }

  /** Put the live figure into one element; the picture inside is hidden, or shown again if the figure fails. */
  function mount(element) {
    const definition = definitions.get(element.dataset.figure);
    if (!definition || element.dataset.mounted) return;
    const live = make("div", { class: "figure-live-region", "aria-live": "polite" });
    const stage = make("div", { class: "figure-stage", role: "group", "aria-label": definition.title });
    const pictures = element.querySelectorAll(":scope > :is(img, svg, picture, .figure-fallback)");
    const ui = new Ui(stage, live);
    element.dataset.mounted = "true";
    element.prepend(stage, live);
    for (const picture of pictures) picture.hidden = true;
    try {
      ui.retheme();
      const made = definition.mount(stage, ui);
      mounted.set(stage, { ui, destroy: made?.destroy });
    } catch (error) {
      stage.remove();
      live.remove();
      delete element.dataset.mounted;
      for (const picture of pictures) picture.hidden = false;
      throw error;
    }
  }

  /** Put live figures into all elements of class course-figure that have none yet. */
  function mountAll(root = document) {
    for (const element of root.querySelectorAll(".course-figure[data-figure]")) {
      try {
        mount(element);
      } catch (error) {
        // one broken figure leaves the others alone
        console.error(`figure ${element.dataset.figure}:`, error);
      }
    }
  }

  /** Take a live figure away again: its timers end and its picture comes back. */
  function unmount(element) {
    const stage = element.querySelector(":scope > .figure-stage");
    const entry = mounted.get(stage);
    if (!entry) return;
    entry.destroy?.();
    entry.ui.end();
    mounted.delete(stage);
    stage.remove();
    element.querySelector(":scope > .figure-live-region")?.remove();
    for (const picture of element.querySelectorAll(":scope > [hidden]")) picture.hidden = false;
    delete element.dataset.mounted;
  }

  const retheme = () => {
    for (const { ui } of mounted.values()) ui.retheme();
  };
  new MutationObserver(retheme).observe(document.documentElement, {
    attributes: true,
    attributeFilter: ["data-theme"],
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", retheme);

  Course.figures = {
    register,
    mount,
    mountAll,
    unmount,
    colors,
    font,
    axes,
    rng,
    ticksBetween,
    powersBetween,
    formatTick,
  };

  // Deferred scripts have all run by then; the second event is for a page that adds these scripts late.
  document.addEventListener("DOMContentLoaded", () => mountAll());
  addEventListener("load", () => mountAll());
})();
