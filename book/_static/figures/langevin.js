"use strict";
// A thousand Langevin chains on an energy of one variable: where they are on the landscape, their histogram beside the
// exact Gibbs density, and their spread beside the exact formulas, with and without the accept step of MALA.
globalThis.Course ??= {};

(() => {
  const STEP_SIZES = [
    0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 0.85, 1, 1.25, 1.5, 2, 2.5, 3, 3.5, 3.8, 4,
    4.2, 4.5, 5, 6, 8, 10,
  ];
  const TEMPERATURES = [0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.2, 1.5, 2];

  /** The controls of the settings; each calls change({ name: value }). */
  function makeControls(ui, experiment, change) {
    const { ENERGIES } = Course.experiments.langevin;
    const among = (label, name, values) =>
      ui.slider({
        label,
        min: 0,
        max: values.length - 1,
        value: values.indexOf(experiment[name]),
        format: (index) => String(values[index]),
        onInput: (index) => change({ [name]: values[index] }),
      });
    const stepSize = among("Step size ε", "stepSize", STEP_SIZES);
    const temperature = among("Temperature T", "temperature", TEMPERATURES);
    const std = ui.slider({
      label: "Width σ",
      min: 0.5,
      max: 1.5,
      step: 0.05,
      value: experiment.std,
      format: (value) => value.toFixed(2),
      onInput: (value) => change({ std: value }),
    });
    const energy = ui.select({
      label: "Energy",
      options: Object.entries(ENERGIES).map(([key, { text }]) => [key, text]),
      value: experiment.energy,
      onInput: (value) => {
        stepSize.set(STEP_SIZES.indexOf(ENERGIES[value].stepSize));
        std.element.hidden = value !== "gaussian";
        change({ energy: value, stepSize: ENERGIES[value].stepSize });
      },
    });
    const adjusted = ui.toggle({
      label: "Accept step (MALA)",
      value: experiment.adjusted,
      onInput: (value) => change({ adjusted: value }),
    });
    const settings = [energy, stepSize, temperature, std];
    for (const { element } of settings) element.style.flexBasis = "10rem"; // four in a row
    return { settings: ui.controls(...settings), adjusted, stepSize };
  }

  const makeReadouts = (ui) => ({
    left: ui.readout({ label: "Left well, now" }),
    leftExact: ui.readout({ label: "… exact", quiet: true }),
    variance: ui.readout({ label: "Variance, measured" }),
    formula: ui.readout({ label: "… by formula", quiet: true }),
    wanted: ui.readout({ label: "… wanted", quiet: true }),
    accepted: ui.readout({ label: "Accepted", quiet: true }),
  });

  /** Put the numbers of the moment into the readouts; returns what has been measured. */
  function tell(readouts, experiment) {
    const { exact, unstable, adjusted, chains } = experiment;
    const { variance, acceptance } = experiment.measure();
    const away = unstable || chains.lost > 0;
    const settled = variance ? `${variance.mean.toFixed(3)} ± ${variance.error.toFixed(3)}` : "settling …";
    const rate = acceptance ? `${(100 * acceptance.mean).toFixed(1)} %` : "settling …";
    const share = experiment.watched();
    const error = Math.sqrt((share * (1 - share)) / chains.x.length);
    const hasWells = exact.left !== null;
    readouts.variance.set(away ? "runs away" : settled);
    readouts.formula.set(unstable ? "none" : exact.formula.toFixed(3));
    readouts.wanted.set(exact.gibbs.variance.toFixed(3));
    readouts.accepted.set(adjusted ? rate : "no accept step");
    readouts.left.set(hasWells ? `${(100 * share).toFixed(1)} ± ${(100 * error).toFixed(1)} %` : "");
    readouts.leftExact.set(hasWells ? `${(100 * exact.left).toFixed(1)} %` : "");
    for (const name of ["left", "leftExact"]) readouts[name].element.hidden = !hasWells;
    readouts.formula.element.hidden = hasWells;
    return { variance, acceptance };
  }

  /** The same numbers, to the last digit, for tests. */
  function expose(root, experiment, { variance, acceptance }) {
    const { exact, chains, limit, unstable } = experiment;
    Object.assign(root.dataset, {
      step: chains.steps,
      lost: chains.lost,
      zoom: experiment.zoom,
      outAfter: experiment.outAfter ?? "",
      spread: exact.left === null ? experiment.watched() : "",
      spreadExact: exact.left === null && !experiment.adjusted ? experiment.predictedSpread(chains.sinceChange) : "",
      limit,
      unstable,
      formula: exact.formula,
      wanted: exact.gibbs.variance,
      variance: variance?.mean ?? "",
      varianceError: variance?.error ?? "",
      acceptance: acceptance?.mean ?? "",
      acceptanceError: acceptance?.error ?? "",
      acceptanceExact: exact.acceptance ?? "",
      left: exact.left === null ? "" : experiment.watched(),
      leftExact: exact.left ?? "",
    });
  }

  /** Say in words what the pictures show. */
  function describe(pictures, experiment, spoken, explanation) {
    const { found, exact, chains, shape } = experiment;
    const number = experiment.watched();
    const [results, watched] = [[...found], number < 1e4 ? number.toFixed(3) : number.toExponential(1)];
    const variances = results.map(([key, { mean }]) => `${key}: ${mean.toFixed(3)}`).join("; ");
    const rates = results.filter(([, { rate }]) => rate !== undefined);
    const wanted = `wanted ${exact.gibbs.variance.toFixed(3)}`;
    pictures.main.describe(
      `${chains.x.length} chains on ${shape.text} after ${chains.steps} steps. ` +
        `Variance ${spoken}, ${wanted}. ${explanation}`,
    );
    pictures.bias.describe(`Variance against step size, ${wanted}. ${variances || "Nothing has settled yet"}`);
    pictures.accepted.describe(
      "Share of accepted steps against step size: exact curve; measured " +
        (rates.map(([, { stepSize, rate }]) => `${stepSize}: ${rate.toFixed(3)}`).join("; ") || "nothing yet"),
    );
    pictures.history.describe(
      exact.left === null
        ? `Mean of x squared over the steps since the last change; now ${watched}`
        : `Share of the chains in the left well over time: now ${watched}, exact ${exact.left.toFixed(3)}`,
    );
  }

  function makePictures(ui, experiment) {
    const { drawMain, drawBias, drawAcceptance, drawHistory } = Course.pictures.langevin;
    const lift = ui.rng(99);
    // How high above the landscape each chain is drawn.
    const heights = Array.from(experiment.chains.x, () => lift.uniform());
    const tall = (w) => Math.max(450, 1.09 * w);
    const pictures = {
      main: ui.canvas({ width: 500, height: tall, label: "Chains on the landscape" }),
      bias: ui.canvas({ width: 340, height: 200, label: "Variance against step size" }),
      accepted: ui.canvas({ width: 340, height: 170, label: "Acceptance against step size" }),
      history: ui.canvas({ width: 340, height: 196, label: "Over time" }),
    };
    pictures.main.redraw((...drawing) => drawMain(...drawing, experiment, heights));
    pictures.bias.redraw((...drawing) => drawBias(...drawing, experiment));
    pictures.accepted.redraw((...drawing) => drawAcceptance(...drawing, experiment));
    pictures.history.redraw((...drawing) => drawHistory(...drawing, experiment));
    return pictures;
  }

  function mount(root, ui) {
    const { Experiment } = Course.experiments.langevin;
    const still = ui.prefersReducedMotion();
    const experiment = new Experiment(ui.rng);
    const readouts = makeReadouts(ui);
    const note = ui.make("p", { class: "figure-note", "data-readout": "note" });
    const pictures = makePictures(ui, experiment);
    let frames = 0;

    /** Draw everything anew; in motion, numbers and small plots at every fourth frame only. */
    function refresh(atOnce) {
      pictures.main.redraw();
      cross.set(`${experiment.unstable ? "Back to" : "Try"} ε = ${otherStep()}`);
      cross.element.hidden = !experiment.isGaussian || experiment.adjusted;
      play.set(motion.running ? "Pause" : "Play");
      root.dataset.running = motion.running;
      if (!atOnce && frames++ % 4) return;
      const measured = tell(readouts, experiment);
      const explanation = experiment.explanation();
      if (note.textContent && note.textContent !== explanation) ui.say(explanation, "note");
      note.textContent = explanation;
      expose(root, experiment, measured);
      describe(pictures, experiment, readouts.variance.element.lastChild.textContent, explanation);
      for (const name of ["bias", "accepted", "history"]) pictures[name].redraw();
    }

    function change(values) {
      experiment.change(values);
      // Without motion, the result at once; of a flight, its beginning.
      if (still) experiment.advance(experiment.unstable ? 40 : Math.min(experiment.chains.burnIn + 300, 1500));
      refresh(true);
    }

    const { settings, adjusted, stepSize } = makeControls(ui, experiment, change);
    const act = (label, onClick) =>
      ui.button({
        label,
        onClick: () => {
          onClick();
          refresh(true);
        },
      });
    const restart = () => {
      experiment.seed += 1;
      experiment.restart();
    };
    /** Where no chain is left that could move, the next step is the first of new chains. */
    const go = (steps) => {
      if (experiment.over) restart();
      experiment.advance(steps);
    };
    const play = act("Play", () => {
      if (motion.running) return motion.stop();
      go(0);
      motion.start();
    });
    play.element.hidden = still;
    const one = act("One step", () => {
      motion.stop();
      go(1);
    });
    const many = act("500 steps", () => go(500));
    const again = act("Start again", restart);
    // Just past the limit chains leave slowly enough to be watched; from there, back to a step that is safe.
    const otherStep = () => {
      const { unstable, limit } = experiment;
      return unstable ? STEP_SIZES.findLast((v) => v <= limit / 4) : STEP_SIZES.find((v) => v > limit);
    };
    const cross = ui.button({
      label: "Try",
      onClick: () => {
        const value = otherStep();
        stepSize.set(STEP_SIZES.indexOf(value));
        change({ stepSize: value });
        motion.start();
        refresh(true);
      },
    });

    // About a second to forget the start; never so fast that single long steps cannot be seen.
    const scale = () => (experiment.isGaussian ? 2 * experiment.std ** 2 : 6);
    const slowest = () => (experiment.unstable ? 8 : 6);
    const stepsPerSecond = () => Math.min(500, Math.max(slowest(), scale() / experiment.stepSize));
    let owed = 0;
    const motion = ui.animate((seconds) => {
      owed += seconds * stepsPerSecond();
      const steps = Math.floor(owed);
      owed -= steps;
      if (!steps) return true;
      experiment.advance(steps);
      if (experiment.over) motion.stop();
      refresh(!motion.running);
      return motion.running;
    });

    const buttons = ui.make("div", {}, ...[play, one, many, again].map(({ element }) => element));
    const left = ui.make("div", {}, pictures.main.element, buttons);
    const right = ui.make("div", {}, pictures.bias.element, pictures.accepted.element, pictures.history.element);
    const columns = ui.columns(left, right);
    const what = ui.make("div", {}, adjusted.element, note, cross.element);
    columns.style.setProperty("--columns", "3fr 2fr");
    for (const column of [left, right]) Object.assign(column.style, { display: "grid", gap: "0.75rem" });
    for (const row of [buttons, what]) {
      Object.assign(row.style, { display: "flex", flexWrap: "wrap", gap: "0.25rem 0.75rem", alignItems: "center" });
    }
    Object.assign(note.style, { flex: "1 1 20rem", minHeight: "4.2em", display: "flex", alignItems: "center" });
    Course.plots.emphasise(play.element);
    root.append(settings, what, ui.readouts(...Object.values(readouts)), columns);
    experiment.advance(120);
    refresh(true);
    return { destroy: () => motion.stop() };
  }

  Course.figures.register("langevin", { title: "Langevin dynamics on an energy landscape", mount });
})();
