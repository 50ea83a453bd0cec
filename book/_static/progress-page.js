// The page of the reader's progress: a table that fills itself, a file to keep, and a way to forget.
globalThis.Course ??= {};

(() => {
  "use strict";

  const FILE = "diffusion-ebm-course-progress.json";

  function button(words, onClick) {
    const element = document.createElement("button");
    element.type = "button";
    element.className = "course-button";
    element.textContent = words;
    element.addEventListener("click", onClick);
    return element;
  }

  /** How many of a lesson's exercises, or right answers to its questions, are recorded. */
  const count = {
    exercises: (entry) => Object.keys(entry.exercises).length,
    questions: (entry) => Object.values(entry.questions).filter((answer) => answer.right).length,
  };

  function fill(root, rows, boxes) {
    const totals = { lessons: [0, rows.length], exercises: [0, 0], questions: [0, 0] };
    const begun = [], open = [];
    let last = -1;
    for (const row of rows) {
      const number = Number(row.dataset.lesson);
      const entry = Course.progress.lesson(number);
      for (const kind of ["exercises", "questions"]) {
        const cell = row.querySelector(`[data-cell="${kind}"]`);
        const total = Number(cell.dataset.total);
        const done = Math.min(count[kind](entry), total);
        cell.textContent = `${done} of ${total}`;
        cell.dataset.state = done === 0 ? "" : done === total ? "done" : "begun";
        totals[kind][0] += done;
        totals[kind][1] += total;
      }
      boxes.get(row).checked = Boolean(entry.done);
      if (entry.done) {
        totals.lessons[0] += 1;
        last = number;
      } else {
        (Course.progress.state(number) ? begun : open).push([number, row.querySelector("a")]);
      }
    }
    for (const bar of root.querySelectorAll("[data-total-of]")) {
      const [done, total] = totals[bar.dataset.totalOf];
      bar.querySelector("progress").max = total;
      bar.querySelector("progress").value = done;
      bar.querySelector("output").textContent = `${done} of ${total}`;
    }
    const onward = root.querySelector(".progress-next");
    onward.replaceChildren();
    // What is begun comes first, then what follows the last finished lesson, then what was left out.
    const [, next] = begun[0] ?? open.find(([number]) => number > last) ?? open[0] ?? [];
    if (next) {
      const link = document.createElement("a");
      link.href = next.href;
      link.textContent = next.textContent;
      onward.append(begun.length || last >= 0 ? "Go on with " : "Begin with ", link, ".");
    } else {
      onward.textContent = "You have finished every lesson.";
    }
  }

  function save() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([Course.progress.toText()], { type: "application/json" }));
    link.download = FILE;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  /** A box that asks before everything is forgotten. */
  function question(root, say) {
    const dialog = document.createElement("dialog");
    dialog.className = "progress-dialog";
    dialog.setAttribute("aria-labelledby", "progress-forget");
    const title = document.createElement("p");
    title.id = "progress-forget";
    title.textContent = "Forget all marks, exercises and quiz results in this browser?";
    const hint = document.createElement("p");
    hint.textContent = "Nobody can bring them back, but a file that you saved before can.";
    const keep = button("Keep them", () => dialog.close());
    const forget = button("Forget everything", () => {
      Course.progress.reset();
      dialog.close();
      say("Everything is forgotten.");
    });
    forget.classList.add("course-button-danger");
    const row = document.createElement("p");
    row.className = "progress-actions";
    row.append(keep, forget);
    dialog.append(title, hint, row);
    root.append(dialog);
    return dialog;
  }

  function mount(root) {
    const { progress } = Course;
    const rows = [...root.querySelectorAll("tr[data-lesson]")];
    const status = root.querySelector(".progress-status");
    const say = (words) => { status.textContent = words; };

    const boxes = new Map(rows.map((row) => {
      const { label, input } = Course.box("", (ticked) => progress.markLesson(Number(row.dataset.lesson), ticked));
      input.setAttribute("aria-label", `Finished: ${row.querySelector("a").textContent}`);
      row.querySelector("[data-cell='done']").replaceChildren(label);
      return [row, input];
    }));

    const chooser = document.createElement("input");
    chooser.type = "file";
    chooser.accept = ".json,application/json";
    chooser.hidden = true;
    chooser.setAttribute("aria-label", "A file that was saved here");
    chooser.addEventListener("change", async () => {
      const [file] = chooser.files;
      if (!file) return;
      try {
        progress.fromText(await file.text());
        say(`Added what ${file.name} holds. Nothing was taken away.`);
      } catch (error) {
        say(`${file.name} was not read. ${error.message}`);
      }
      chooser.value = "";
    });
    const dialog = question(root, say);
    const actions = {
      save: () => { save(); say(`Saved as ${FILE}.`); },
      read: () => chooser.click(),
      forget: () => dialog.showModal(),
    };
    for (const action of root.querySelectorAll("[data-do]")) {
      action.addEventListener("click", actions[action.dataset.do]);
    }
    root.querySelector(".progress-live").append(chooser);
    if (!progress.available) {
      say("This browser keeps nothing for pages that are opened this way: marks last until you leave the page.");
    }
    const refresh = () => fill(root, rows, boxes);
    progress.listen(refresh);
    refresh();
  }

  document.addEventListener("DOMContentLoaded", () => {
    for (const root of document.querySelectorAll(".course-progress")) mount(root);
  });
})();
