// Starts a deck once its formulas are set, and shrinks the text of a slide that would not fit.
"use strict";
(() => {
  const SMALLEST = 0.55; // of the usual size

  /** Shrink an element's text until it fits. */
  function shrink(element, fits) {
    for (let size = 1; !fits() && size > SMALLEST; ) {
      size -= 0.05;
      element.style.fontSize = `${size * Number(element.dataset.size ?? 1)}em`;
    }
  }

  /** Make lines of code fit the width of a slide, and all of it the height. */
  function fit(section, height) {
    const hidden = [section, section.parentElement].map((element) => [element, element.style.display]);
    for (const [element] of hidden) element.style.display = "block";
    for (const pre of section.querySelectorAll("pre")) {
      pre.dataset.size = 0.7; // as in the style sheet
      shrink(pre, () => pre.scrollWidth <= pre.clientWidth);
    }
    shrink(section, () => section.scrollHeight <= height);
    for (const [element, display] of hidden) element.style.display = display;
  }

  globalThis.addEventListener("load", async () => {
    await MathJax.startup.promise;
    const height = 720;
    await Reveal.initialize({
      width: 1280, height, margin: 0.04, hash: true, center: false, slideNumber: "c/t", transition: "none",
      backgroundTransition: "none", pdfSeparateFragments: false,
    });
    for (const section of document.querySelectorAll(".slides section")) {
      if (!section.querySelector("section")) fit(section, height);
    }
    Reveal.layout();
    document.documentElement.dataset.ready = "true";
  });
})();
