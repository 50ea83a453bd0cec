"use strict";
// What a demo shows where the book was built without the runtime: the recorded film, to be moved by hand.
globalThis.Course ??= {};

Course.film = (() => {
  const SIDE = 96; // pixels of a picture in the film, as book/_ext/browser_packs.py records it

  /** Whether the models of a demo are in this copy of the book. */
  const isNeeded = (names) => !["runtime", ...names].every((name) => name in Course.manifest.packs);

  /** A player over the rows of the film, or, for a single moment, the film itself. */
  function mount(root, ui, picture, { still = false } = {}) {
    const note = ui.make("p", {
      class: "figure-note",
      text: "This copy of the book was built without a connection, so the model itself is not in it. You see what it "
        + "answered elsewhere, recorded with PyTorch. Build the book again with npm at hand, and the page comes alive.",
    });
    root.dataset.state = "film";
    if (still) {
      picture.closest("[hidden]")?.removeAttribute("hidden");
      root.append(note);
      return;
    }
    const film = new Image();
    film.src = picture.src;
    const size = () => [Math.round(film.naturalWidth / SIDE), Math.round(film.naturalHeight / SIDE)];
    const screen = ui.canvas({ width: 620, height: 110, label: picture.alt });
    const moment = ui.slider({
      label: "moment", min: 0, max: 11, value: 0, format: (k) => `${k + 1} of 12`, onInput: () => screen.redraw(),
    });
    film.onload = () => {
      const [columns, rows] = size();
      moment.range(0, columns - 1);
      moment.set(columns - 1);
      screen.redraw((context, width) => {
        const side = (width - 8 * (rows - 1)) / rows;
        context.imageSmoothingEnabled = false;
        for (let row = 0; row < rows; row++) {
          context.drawImage(film, moment.value * SIDE, row * SIDE, SIDE, SIDE, row * (side + 8), 0, side, side);
        }
      });
    };
    root.append(note, screen.element, ui.controls(moment));
  }

  return { isNeeded, mount };
})();
