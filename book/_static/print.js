// Paper is white: a page that is shown dark is printed light, and is dark again afterwards.
(() => {
  "use strict";
  const page = document.documentElement;
  let shown;
  addEventListener("beforeprint", () => {
    shown = page.dataset.theme;
    page.dataset.theme = "light";
  });
  addEventListener("afterprint", () => {
    if (shown) page.dataset.theme = shown;
  });
})();
