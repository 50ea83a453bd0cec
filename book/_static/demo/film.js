"use strict";
// What a demo shows where the book was built without the runtime: the recorded film, to be played or moved by hand.
globalThis.Course ??= {};

Course.film = (() => {
  const SIDE = 96; // pixels of a picture in the film, as book/_ext/browser_packs.py records it
  const GAP = 8; // between pictures, on the page
  const LINE = 24; // for the name of a row
  const PACE = 0.25; // seconds a moment

  const NOTE = "This copy of the book was built without a connection, so the model itself is not in it. You see what "
    + "it answered elsewhere, recorded with PyTorch. Build the book again with npm at hand, and the page comes alive.";

  /** Whether the models of a demo are in this copy of the book. */
  const isNeeded = (names) => !["runtime", ...names].every((name) => name in Course.manifest.packs);

  /** Columns and rows of pictures in the file. */
  const sizeOf = (film) => [Math.round(film.naturalWidth / SIDE), Math.round(film.naturalHeight / SIDE)];

  /** Put the picture at a column and a row of the film on the page. */
  function place(context, film, column, row, x, y, side) {
    context.imageSmoothingEnabled = false;
    context.drawImage(film, column * SIDE, row * SIDE, SIDE, SIDE, x, y, side, side);
  }

  /** The film as it is: rows of pictures, each under its name. */
  function rowsOf(ui, film, names) {
    const sideIn = (width) => (width - 2 * (film.columns - 1)) / film.columns;
    const high = (width) => names.length * (LINE + sideIn(width) + GAP) - GAP;
    const screen = ui.canvas({ width: 860, height: high, label: film.picture.alt });
    screen.redraw((context, width, height, colors) => {
      const side = sideIn(width);
      context.textBaseline = "middle";
      names.forEach((name, row) => {
        const y = row * (LINE + side + GAP);
        context.fillStyle = colors.text;
        context.fillText(name, 0, y + LINE / 2);
        for (let k = 0; k < film.columns; k++) place(context, film.image, k, row, k * (side + 2), y + LINE, side);
      });
    });
    return [screen.element];
  }

  /** A player: all pictures at one moment. */
  function player(ui, film) {
    const last = film.columns - 1;
    const across = (width) => (width < 480 ? Math.ceil(film.rows / 2) : film.rows);
    const sideIn = (width) => (width - GAP * (across(width) - 1)) / across(width);
    const high = (width) => Math.ceil(film.rows / across(width)) * (sideIn(width) + GAP) - GAP;
    const screen = ui.canvas({ width: 860, height: high, label: film.picture.alt });
    const name = (k) => `${k + 1} of ${film.columns}${{ 0: ": noise", [last]: ": pictures" }[k] ?? ""}`;
    const moment = ui.slider({
      label: "moment", min: 0, max: last, value: last, format: name, onInput: () => {
        rest();
        screen.redraw();
      },
    });
    let waited = 0;
    const run = ui.animate((seconds) => {
      waited += seconds;
      if (waited < PACE) return true;
      waited = 0;
      go(moment.value + 1);
      if (moment.value === last) rest();
      return moment.value < last;
    });
    const go = (k) => {
      moment.set(Math.min(k, last));
      screen.redraw();
    };
    const play = ui.button({ label: "Play", onClick: () => {
      if (run.running) return rest();
      if (moment.value === last) go(0);
      else if (ui.prefersReducedMotion()) go(moment.value + 1);
      if (ui.prefersReducedMotion()) return undefined;
      play.set("Pause");
      return run.start();
    } });
    const rest = () => {
      run.stop();
      play.set("Play");
    };
    screen.redraw((context, width) => {
      const [n, side] = [across(width), sideIn(width)];
      for (let k = 0; k < film.rows; k++) {
        const [x, y] = [k % n, Math.floor(k / n)].map((i) => i * (side + GAP));
        place(context, film.image, moment.value, k, x, y, side);
      }
    });
    return [screen.element, ui.controls(play, moment)];
  }

  /**
   * Put the film on the page, with a note why.
   * @param {HTMLImageElement} picture The film, a picture in the page.
   * @param {{names?: string[]}} options Names of the film's rows; without, its columns are moments of a run.
   */
  function mount(root, ui, picture, { names = null } = {}) {
    root.dataset.state = "film";
    root.append(ui.make("p", { class: "figure-note", text: NOTE }));
    const image = new Image();
    image.onload = () => {
      const [columns, rows] = sizeOf(image);
      const film = { image, picture, columns, rows };
      root.append(...(names ? rowsOf(ui, film, names) : player(ui, film)));
    };
    image.src = picture.src;
  }

  return { isNeeded, mount };
})();
