"use strict";
// Particles that go from noise to data along the exact score of a 2-D density, by six samplers, beside the exact
// shares of modes and places.
globalThis.Course ??= {};

(() => {
  const STEPS = [1, 2, 3, 4, 5, 7, 10, 14, 20, 30, 40, 50, 70, 100, 140, 200];

  const percent = (share) => `${(100 * share).toFixed(1)} %`;

  /** The controls of the settings; each calls change({ name: value }). */
  function makeControls(ui, show, change) {
    const { DENSITIES, SAMPLERS } = Course.experiments.samplers;
    const density = ui.select({
      label: "Density of the data",
      options: Object.entries(DENSITIES),
      value: show.density,
      onInput: (value) => change({ density: value }),
    });
    const kind = ui.select({
      label: "Sampler",
      options: Object.entries(SAMPLERS).map(([key, { text }]) => [key, text]),
      value: show.kind,
      onInput: (value) => change({ kind: value }),
    });
    const steps = ui.slider({
      label: "Number of steps",
      min: 0,
      max: STEPS.length - 1,
      value: STEPS.indexOf(show.n),
      format: (index) => String(STEPS[index]),
      onInput: (index) => change({ n: STEPS[index] }),
    });
    const particles = ui.select({
      label: "Particles",
      options: [250, 1000, 2000].map((n) => [n, String(n)]),
      value: show.particles,
      onInput: (value) => change({ particles: Number(value) }),
    });
    particles.element.classList.add("figure-narrow");
    return ui.controls(density, kind, steps, particles);
  }

  const makeReadouts = (ui) => ({
    signal: ui.readout({ label: "Signal left, ᾱ", quiet: true }),
    calls: ui.readout({ label: "Network calls", quiet: true }),
    outOfPlace: ui.readout({ label: "Out of place" }),
    floor: ui.readout({ label: "Exact draws", quiet: true }),
  });

  /** Put the numbers of the moment into the readouts and, to the last digit, into the attributes for tests. */
  function tell(root, readouts, show) {
    const { stop, alphaBar, exact, outOfPlace, modes, calls } = show.compare();
    const shown = alphaBar > 0.9995 ? "1" : alphaBar.toFixed(3);
    readouts.signal.set(alphaBar < 0.001 ? "< 0.001" : shown);
    readouts.calls.set(String(calls));
    readouts.outOfPlace.set(percent(outOfPlace));
    readouts.floor.set(percent(exact.floor));
    Object.assign(root.dataset, { stop, stops: show.film.last, alphaBar, outOfPlace, floor: exact.floor, calls });
    root.dataset.modes = JSON.stringify(modes);
  }

  /** Say in words what the pictures show. */
  function describe(pictures, show) {
    const { DENSITIES, SAMPLERS } = Course.experiments.samplers;
    const { stop, alphaBar, exact, outOfPlace, modes } = show.compare();
    const shares = modes.map(({ label, share, exact }) => `${label} ${percent(share)} (exact ${percent(exact)})`);
    const runs = [...show.finished].map(([kind, found]) => {
      const results = [...found]
        .sort(([a], [b]) => a - b)
        .map(([calls, share]) => `${calls} ${calls === 1 ? "call" : "calls"} ${percent(share)}`);
      return `${SAMPLERS[kind]?.short ?? "Langevin at a noise level"}: ${results.join(", ")}`;
    });
    pictures.plane.describe(
      `${show.particles} particles of ${SAMPLERS[show.kind].text} after step ${stop} of ${show.film.last}, on the ` +
        `density ${DENSITIES[show.density]} at a signal of ${alphaBar.toFixed(3)}: ${percent(outOfPlace)} out of ` +
        `place, exact draws ${percent(exact.floor)}`,
    );
    pictures.marginal.describe("Histogram of the particles' first coordinate beside the exact density");
    pictures.shares.describe(`Share of each mode: ${shares.join(", ")}`);
    pictures.finished.describe(`Out of place against network calls. ${runs.join("; ") || "No run has finished yet"}`);
  }

  function makePictures(ui, show, shown) {
    const { drawPlane, drawMarginal, drawShares, drawFinished } = Course.pictures.samplers;
    const pictures = {
      plane: ui.canvas({ width: 500, height: (w) => w + 24, label: "Particles on the density" }),
      marginal: ui.canvas({ width: 340, height: 185, label: "Histogram of the first coordinate" }),
      shares: ui.canvas({ width: 340, height: 185, label: "Share of each mode" }),
      finished: ui.canvas({ width: 340, height: 220, label: "Finished runs" }),
    };
    pictures.plane.redraw((...drawing) => drawPlane(...drawing, show, shown));
    pictures.marginal.redraw((...drawing) => drawMarginal(...drawing, show));
    pictures.shares.redraw((...drawing) => drawShares(...drawing, show));
    pictures.finished.redraw((...drawing) => drawFinished(...drawing, show));
    return pictures;
  }

  function mount(root, ui) {
    const { Show } = Course.experiments.samplers;
    const still = ui.prefersReducedMotion();
    const show = new Show(ui.rng);
    const shown = { arrows: true, trails: true };
    const readouts = makeReadouts(ui);
    const pictures = makePictures(ui, show, shown);
    let comparedAt = 0;

    /** Draw everything anew; numbers at once or, in a running film, a few times a second. */
    function refresh(atOnce = true) {
      const now = performance.now();
      if (atOnce || now - comparedAt > 90) {
        comparedAt = now;
        tell(root, readouts, show);
        describe(pictures, show);
        for (const name of ["marginal", "shares", "finished"]) pictures[name].redraw();
      }
      pictures.plane.redraw();
      position.range(0, show.film.last);
      position.set(show.stop);
      level.set(Math.round(show.t));
      level.rename(show.isPlain ? "Noise level of the chain" : "Noise level of the arrows");
      play.set(playLabel());
      root.dataset.running = motion.running;
    }

    function playLabel() {
      if (still) return show.atEnd ? "Back to noise" : "Show the result";
      if (motion.running) return "Pause";
      return show.atEnd ? "Play again" : "Play";
    }

    const motion = ui.animate((seconds) => {
      const duration = Math.min(7, Math.max(2.5, 1.5 + 0.12 * show.film.last));
      show.move(show.position + (seconds * show.film.last) / duration);
      if (show.atEnd) motion.stop();
      refresh(show.atEnd);
      return !show.atEnd;
    });
    /** What a control does, with the film at rest. */
    const resting = (act) => (value) => {
      motion.stop();
      act(value);
      refresh();
    };

    const settings = makeControls(ui, show, (values) => {
      show.change(values);
      refresh();
    });
    const position = ui.slider({
      label: "Step of the run",
      min: 0,
      max: show.film.last,
      value: show.stop,
      format: (k) => `${k} of ${show.film.last}`,
      onInput: resting((k) => show.move(k)),
    });
    const level = ui.slider({
      label: "Noise level of the arrows",
      min: -1,
      max: 999,
      value: -1,
      format: (t) => (t < 0 ? "clean data" : `t = ${t}`),
      onInput: resting((t) => show.setTime(t)),
    });
    const play = ui.button({
      label: "Play",
      onClick: () => {
        if (motion.running) return resting(() => {})();
        if (show.atEnd) show.move(0);
        else if (still) show.move(show.film.last); // the result at once
        if (!still) motion.start();
        refresh();
      },
    });
    const next = ui.button({
      label: "One step",
      onClick: resting(() => show.move(show.atEnd ? 0 : show.stop + 1)),
    });
    const again = ui.button({ label: "Other noise", onClick: resting(() => show.change({ seed: show.seed + 1 })) });
    const option = (label, name) =>
      ui.toggle({
        label,
        value: shown[name],
        onInput: (value) => {
          shown[name] = value;
          pictures.plane.redraw();
        },
      });

    const buttons = ui.make("div", {}, play.element, next.element, again.element);
    const options = ui.make("div", {}, option("Score arrows", "arrows").element, option("Trails", "trails").element);
    const numbers = ui.readouts(...Object.values(readouts));
    const { plane, marginal, shares, finished } = pictures;
    const left = ui.make("div", {}, plane.element, buttons, position.element, level.element, options);
    const right = ui.make("div", {}, numbers, marginal.element, shares.element, finished.element);
    const columns = ui.columns(left, right);
    columns.style.setProperty("--columns", "3fr 2fr");
    numbers.style.gridTemplateColumns = "repeat(2, 1fr)";
    for (const column of [left, right]) Object.assign(column.style, { display: "grid", gap: "0.75rem" });
    for (const row of [buttons, options]) {
      Object.assign(row.style, { display: "flex", flexWrap: "wrap", gap: "0.25rem 0.75rem", alignItems: "center" });
    }
    Course.plots.emphasise(play.element);
    root.append(settings, columns);
    refresh();
    return { destroy: () => motion.stop() };
  }

  Course.figures.register("samplers", { title: "Score field and samplers in two dimensions", mount });
})();
