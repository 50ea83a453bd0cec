"use strict";
// Arrays of numbers as pictures on a canvas.
globalThis.Course ??= {};

Course.pictures = (() => {
  /** A small canvas that holds one picture: `values` (C, H, W) in [−limit, limit], grey or RGB. */
  function still(values, [channels, height, width], { limit = 1, offset = 0, color = null } = {}) {
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    const area = width * height;
    for (let i = 0; i < area; i++) {
      const at = 4 * i;
      if (color) {
        image.data.set(color(values[offset + i] / limit), at);
      } else {
        for (let c = 0; c < 3; c++) {
          image.data[at + c] = Math.round(127.5 * (values[offset + (c % channels) * area + i] / limit + 1));
        }
      }
      image.data[at + 3] = 255;
    }
    context.putImageData(image, 0, 0);
    return canvas;
  }

  /** Draw a still with sharp pixels. */
  function place(context, picture, x, y, size) {
    context.imageSmoothingEnabled = false;
    context.drawImage(picture, Math.round(x), Math.round(y), Math.round(size), Math.round(size));
  }

  /** Rows and columns for n pictures. */
  const columnsFor = (n) => Math.ceil(Math.sqrt(n));

  /** Where picture k of n stands in a square of that side: { x, y, size }. */
  function cell(k, n, side, gap = 4) {
    const columns = columnsFor(n);
    const size = (side - gap * (columns - 1)) / columns;
    return { x: (k % columns) * (size + gap), y: Math.floor(k / columns) * (size + gap), size };
  }

  /** Save pictures as one PNG, each pixel enlarged. */
  function save(stills, name, scale = 8) {
    const columns = columnsFor(stills.length);
    const size = stills[0].width * scale;
    const rows = Math.ceil(stills.length / columns);
    const canvas = Object.assign(document.createElement("canvas"), { width: columns * size, height: rows * size });
    const context = canvas.getContext("2d");
    stills.forEach((picture, k) => place(context, picture, (k % columns) * size, Math.floor(k / columns) * size, size));
    const link = document.createElement("a");
    link.href = canvas.toDataURL("image/png");
    link.download = name;
    link.click();
  }

  return { cell, columnsFor, place, save, still };
})();
