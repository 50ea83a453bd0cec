// Marks beside the titles in the contents, and boxes to tick in a lesson.
globalThis.Course ??= {};

(() => {
  "use strict";

  const LESSON = /\/notebooks\/(\d\d)_\w+\.html$/;
  const STATES = { done: "finished", begun: "begun" };

  /** Number of the lesson that an address leads to, or null. */
  function lessonOf(address) {
    const found = LESSON.exec(new URL(address, location.href).pathname);
    return found ? Number(found[1]) : null;
  }

  /** A box to tick, with its words; `onChange(ticked)` is called when the reader ticks it. */
  function box(words, onChange) {
    const label = document.createElement("label");
    label.className = "progress-box";
    const input = document.createElement("input");
    input.type = "checkbox";
    input.addEventListener("change", () => onChange(input.checked));
    label.append(input, " ", words);
    return { label, input };
  }

  /** Links of the contents, each with the number of its lesson. */
  function contents() {
    const links = [...document.querySelectorAll(".bd-links a.reference.internal")];
    return links.map((link) => [link, lessonOf(link.href)]).filter(([, number]) => number !== null);
  }

  function markContents() {
    for (const [link, number] of contents()) {
      const state = Course.progress.state(number);
      link.classList.add("progress-mark");
      if ((link.dataset.progress ?? "") === state) continue;
      link.dataset.progress = state;
      link.querySelector(".progress-words")?.remove();
      if (!state) continue;
      const words = document.createElement("span");
      words.className = "progress-words";
      words.textContent = ` (${STATES[state]})`;
      link.append(words);
    }
  }

  function addBoxes(number) {
    const { progress } = Course;
    const updates = [];
    for (const heading of document.querySelectorAll("article section > h3")) {
      const exercise = /^Exercise (\d+\.\d+)/.exec(heading.textContent)?.[1];
      const line = heading.nextElementSibling;
      if (!exercise || line?.tagName !== "P") continue;
      const { label, input } = box("done", (ticked) => progress.markExercise(number, exercise, ticked));
      input.setAttribute("aria-label", `Exercise ${exercise} is done`);
      line.append(" · ", label);
      updates.push(() => { input.checked = exercise in progress.lesson(number).exercises; });
    }
    const { label, input } = box("I have finished this lesson", (ticked) => progress.markLesson(number, ticked));
    const foot = document.createElement("div");
    foot.className = "progress-foot";
    const more = document.createElement("a");
    more.href = "../book/progress.html";
    more.textContent = "Your progress";
    const note = document.createElement("span");
    note.textContent = progress.available
      ? "Kept in this browser only."
      : "This browser keeps it until you leave the page.";
    foot.append(label, note, more);
    document.querySelector("article > section")?.append(foot);
    updates.push(() => { input.checked = progress.state(number) === "done"; });
    return () => updates.forEach((update) => update());
  }

  Course.box = box;

  document.addEventListener("DOMContentLoaded", () => {
    const number = lessonOf(location.href);
    const refresh = number === null ? () => {} : addBoxes(number);
    const all = () => { markContents(); refresh(); };
    Course.progress.listen(all);
    all();
  });
})();
