"use strict";
// The colours and the type of live figures, in light and in dark: those of helpers.plotting.COLORS, adjusted for each.
globalThis.Course ??= {};

(() => {
  const LIGHT = {
    text: "#222832",
    muted: "#48566b",
    grid: "#dfe3e8",
    ground: "#ffffff",
    raised: "#f3f5f7",
    blue: "#0072b2",
    orange: "#e69f00",
    green: "#009e73",
    vermilion: "#d55e00",
    purple: "#b5568f",
    sky: "#56b4e9",
    yellow: "#d9c400",
    black: "#000000",
    grey: "#767676",
  };
  const DARK = {
    text: "#dfe5ea",
    muted: "#aab3bf",
    grid: "#333c48",
    ground: "#14181e",
    raised: "#1f2630",
    blue: "#4aa8e8",
    orange: "#f2b441",
    green: "#2fc79a",
    vermilion: "#ff8b4d",
    purple: "#e3a2c8",
    sky: "#a5dcfb",
    yellow: "#f5ea78",
    black: "#f4f6f8",
    grey: "#9aa3ad",
  };

  const isDark = () =>
    document.documentElement.dataset.theme === "dark" ||
    (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  const prefersReducedMotion = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

  /** The colours of the current theme: text, muted, grid, ground, raised, and the palette of helpers.plotting. */
  const colors = () => (isDark() ? DARK : LIGHT);

  /** The page's own typeface, for text on a canvas. */
  const font = (size, weight = 400) => `${weight} ${size}px ${getComputedStyle(document.body).fontFamily}`;

  Course.theme = { colors, font, prefersReducedMotion };
})();
