"use strict";
// Labelled native controls: sliders, selects, radio buttons in a row, buttons, switches. Each has an `element`, to be
// placed by the figure; its `set(value)` shows the value and does not call `onInput`.
globalThis.Course ??= {};

(() => {
  let counter = 0;

  /** A new element. `attributes` may hold `class`, `text` and any attribute; children are appended. */
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "text") element.textContent = value;
      else if (value === true) element.setAttribute(name, "");
      else if (value !== false && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  /**
   * A labelled native range input. Returns { element, input, value, set(v), range(min, max), rename(label),
   * enable(yes) }.
   */
  function slider({ label, min, max, step = 1, value, format = String, onInput = () => {} }) {
    const id = `figure-control-${++counter}`;
    const input = make("input", { type: "range", id, min, max, step });
    const output = make("output", { for: id, "aria-live": "off" });
    const name = make("label", { for: id, text: label });
    const element = make("div", { class: "figure-control figure-slider" }, name, output, input);
    const show = () => {
      const text = format(Number(input.value));
      output.textContent = text;
      input.setAttribute("aria-valuetext", text);
      const [low, high] = [Number(input.min), Number(input.max)];
      input.style.setProperty("--filled", `${high > low ? (100 * (input.value - low)) / (high - low) : 0}%`);
    };
    input.value = value ?? min;
    show();
    input.addEventListener("input", () => {
      show();
      onInput(Number(input.value));
    });
    return {
      element,
      input,
      get value() {
        return Number(input.value);
      },
      set(v) {
        input.value = v;
        show();
      },
      range(low, high) {
        input.min = low;
        input.max = high;
        show();
      },
      rename(text) {
        if (name.textContent !== text) name.textContent = text;
      },
      enable(yes) {
        input.disabled = !yes;
        element.classList.toggle("figure-disabled", !yes);
      },
    };
  }

  /** A labelled native select. `options`: [value, text]. Returns { element, input, value, set(v), enable(yes) }. */
  function select({ label, options, value, onInput = () => {} }) {
    const id = `figure-control-${++counter}`;
    const input = make("select", { id }, ...options.map(([key, text]) => make("option", { value: key, text })));
    const element = make(
      "div",
      { class: "figure-control figure-select" },
      make("label", { for: id, text: label }),
      input,
    );
    if (value !== undefined) input.value = value;
    input.addEventListener("input", () => onInput(input.value));
    return {
      element,
      input,
      get value() {
        return input.value;
      },
      set(v) {
        input.value = v;
      },
      enable(yes) {
        input.disabled = !yes;
        element.classList.toggle("figure-disabled", !yes);
      },
    };
  }

  /**
   * Few alternatives side by side: native radio buttons. `options`: [value, text, name of a colour for its mark?].
   * Returns { element, value, set(v) }.
   */
  function choice({ label, options, value, onInput = () => {} }) {
    const name = `figure-control-${++counter}`;
    const inputs = options.map(([key]) => make("input", { type: "radio", name, value: key, id: `${name}-${key}` }));
    const labels = options.map(([key, text, color]) =>
      make(
        "label",
        { for: `${name}-${key}` },
        ...(color ? [make("span", { class: "figure-mark", style: `background: var(--figure-${color})` })] : []),
        text,
      ),
    );
    const items = inputs.map((input, i) => make("span", { class: "figure-option" }, input, labels[i]));
    const element = make(
      "fieldset",
      { class: "figure-control figure-choice" },
      make("legend", { text: label }),
      make("div", { class: "figure-options" }, ...items),
    );
    const set = (v) => {
      for (const input of inputs) input.checked = input.value === String(v);
    };
    set(value ?? options[0][0]);
    for (const input of inputs) input.addEventListener("input", () => onInput(input.value));
    return {
      element,
      get value() {
        return inputs.find((input) => input.checked).value;
      },
      set,
    };
  }

  /** A button. Returns { element, set(label), enable(yes) }. */
  function button({ label, onClick }) {
    const element = make("button", { type: "button", class: "figure-button", text: label });
    element.addEventListener("click", onClick);
    return {
      element,
      set(text) {
        element.textContent = text;
      },
      enable(yes) {
        element.disabled = !yes;
      },
    };
  }

  /** A switch, on or off. Returns { element, input, value, set(v), enable(yes) }. */
  function toggle({ label, value = false, onInput = () => {} }) {
    const id = `figure-control-${++counter}`;
    const input = make("input", { type: "checkbox", role: "switch", id });
    const element = make(
      "div",
      { class: "figure-control figure-toggle" },
      input,
      make("label", { for: id, text: label }),
    );
    input.checked = value;
    input.addEventListener("input", () => onInput(input.checked));
    return {
      element,
      input,
      get value() {
        return input.checked;
      },
      set(v) {
        input.checked = v;
      },
      enable(yes) {
        input.disabled = !yes;
        element.classList.toggle("figure-disabled", !yes);
      },
    };
  }

  Course.controls = { make, slider, select, choice, button, toggle };
})();
