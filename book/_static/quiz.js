// Quizzes: what `helpers.quizzes.show` wrote as folded answers becomes a form that explains each answer.
globalThis.Course ??= {};

(() => {
  "use strict";

  const MINUS = /[−–]/g;

  /** An element of this tag and class with these children; strings become text. */
  function make(tag, className, ...children) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    element.append(...children);
    return element;
  }

  /** Copies of a node's children, so that marked-up words can be shown twice. */
  const copied = (node) => [...node.childNodes].map((child) => child.cloneNode(true));

  /** The number that a reader wrote, as 0.25, 0,25, 1/4, 25e-2 or −3; NaN where it is none. */
  function parseNumber(text) {
    const number = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;
    const parts = text.trim().replace(MINUS, "-").split("/").map((part) => part.trim().replace(",", "."));
    if (parts.length > 2 || !parts.every((part) => number.test(part))) return NaN;
    const [above, below = 1] = parts.map(Number);
    return below === 0 ? NaN : above / below;
  }

  const GROUPED = /^[+-]?[1-9]\d{0,2}([ \u00a0\u202f,]\d{3})+(\.\d*)?$/;

  /** What a reader may have meant: 1,984 is a number with three decimals, or one with a thousand. */
  function readings(text) {
    const plain = text.trim().replace(MINUS, "-");
    const grouped = GROUPED.test(plain) ? [Number(plain.replace(/[ \u00a0\u202f,]/g, ""))] : [];
    return [...grouped, parseNumber(text)].filter((value) => !Number.isNaN(value));
  }

  /** The answers of a choice: boxes to tick, and a function that judges what is ticked. */
  function choices(question, id) {
    const many = question.dataset.kind === "many";
    const group = make("div", "quiz-choices");
    group.setAttribute("role", many ? "group" : "radiogroup");
    const options = [...question.querySelectorAll(".quiz-answer")].map((answer) => {
      const input = make("input");
      input.type = many ? "checkbox" : "radio";
      input.name = id;
      const words = make("span", "", ...copied(answer.querySelector("summary")));
      const label = make("label", "quiz-choice", input, words);
      group.append(label);
      return { input, label, words, right: answer.dataset.right === "true", why: answer.querySelector("p > span") };
    });
    const explained = (list) => make("ul", "", ...list.map(({ words, why }) =>
      make("li", "", make("b", "", ...copied(words)), make("br"), ...copied(why))));

    function judge() {
      const chosen = options.filter(({ input }) => input.checked);
      if (!chosen.length) return { verdict: many ? "Tick what holds, then check." : "Choose an answer, then check." };
      const wrong = chosen.filter(({ right }) => !right);
      const missed = options.filter(({ input, right }) => right && !input.checked).length;
      for (const { input, label, right } of options) {
        label.dataset.mark = input.checked ? (right ? "right" : "wrong") : "";
      }
      if (!many) {
        const [{ right, why }] = chosen;
        const others = options.filter((option) => !option.input.checked);
        return right
          ? { right, verdict: "Right.", why: copied(why), more: explained(others) }
          : { right, verdict: "Not this one.", why: copied(why) };
      }
      if (!wrong.length && !missed) {
        const held = options.filter(({ right }) => right);
        const others = options.filter(({ right }) => !right);
        return { right: true, verdict: "Right, all of them.", why: [explained(held)], more: explained(others) };
      }
      const hints = [];
      if (wrong.length === 1) hints.push("One of these does not hold.");
      if (wrong.length > 1) hints.push(`${wrong.length} of these do not hold.`);
      if (missed) hints.push(missed === 1 ? "One that holds is missing." : `${missed} that hold are missing.`);
      return { right: false, verdict: `Not yet. ${hints.join(" ")}`, why: wrong.length ? [explained(wrong)] : [] };
    }

    const clear = () => options.forEach(({ input, label }) => {
      input.checked = false;
      label.dataset.mark = "";
    });
    return { element: group, named: group, judge, clear };
  }

  /** The field for a number, and a function that judges it by the ranges of the known answers. */
  function number(question) {
    const known = [...question.querySelectorAll(".quiz-answer p")].map((answer) => ({
      right: answer.dataset.right === "true",
      range: answer.dataset.range?.split(" ").map(Number),
      why: answer.querySelector("span"),
    }));
    const input = make("input", "quiz-number");
    input.type = "text";
    input.inputMode = "decimal";
    input.autocomplete = "off";
    input.placeholder = "a number";

    function judge() {
      const values = readings(input.value);
      if (!values.length) return { verdict: "Write one number, such as 0.7, 2/3 or 1.5e-3." };
      const answer = known.find(({ range }) => !range || values.some((value) => value >= range[0] && value < range[1]));
      input.dataset.mark = answer.right ? "right" : "wrong";
      return { right: answer.right, verdict: answer.right ? "Right." : "Not this number.", why: copied(answer.why) };
    }

    const clear = () => {
      input.value = "";
      input.dataset.mark = "";
    };
    return { element: input, named: input, judge, clear };
  }

  /** Turn one question into a form; calls `onAnswer(right)` at each answer that could be judged. */
  function enhance(question, onAnswer) {
    const text = question.querySelector(".quiz-text");
    text.id = `${question.id}-text`;
    const answers = question.dataset.kind === "number" ? number : choices;
    const { element, named, judge, clear } = answers(question, question.id);
    named.setAttribute("aria-labelledby", text.id);
    const check = make("button", "course-button", "Check");
    const verdict = make("div", "quiz-verdict");
    verdict.setAttribute("role", "status");
    const form = make("form", "quiz-form", element, check, verdict);
    form.noValidate = true;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const said = judge();
      verdict.replaceChildren(make("b", "", said.verdict), " ", ...(said.why ?? []));
      verdict.dataset.mark = said.right === undefined ? "" : said.right ? "right" : "wrong";
      if (said.more?.childElementCount) {
        verdict.append(make("details", "quiz-others", make("summary", "", "And the others?"), said.more));
      }
      if (said.right !== undefined) onAnswer(said.right);
    });
    question.querySelectorAll(".quiz-answer").forEach((answer) => answer.remove());
    question.append(form);
    return () => {
      clear();
      verdict.replaceChildren();
      verdict.dataset.mark = "";
    };
  }

  /** Make a form of each question of a quiz, and count the right answers below. */
  function mount(quiz) {
    const lesson = Number(quiz.dataset.lesson);
    const questions = [...quiz.querySelectorAll(".quiz-question")];
    const right = new Set();
    const score = make("span", "quiz-score");
    const refresh = () => {
      const known = Course.progress?.lesson(lesson).questions ?? {};
      for (const question of questions) {
        question.toggleAttribute("data-known", Boolean(known[question.id.slice(5)]?.right));
      }
      const before = questions.filter((one) => "known" in one.dataset && !right.has(one.id)).length;
      score.textContent = `${right.size} of ${questions.length} right${before ? `, ${before} more before` : ""}`;
    };
    const clears = questions.map((question) => enhance(question, (isRight) => {
      if (isRight) right.add(question.id);
      Course.progress?.answer(lesson, question.id.slice(5), isRight);
      refresh();
    }));
    const again = make("button", "course-button", "Start again");
    again.type = "button";
    again.addEventListener("click", () => {
      clears.forEach((clear) => clear());
      right.clear();
      refresh();
    });
    quiz.append(make("p", "quiz-foot", score, again));
    Course.progress?.listen(refresh);
    refresh();
  }

  Course.parseNumber = parseNumber;

  document.addEventListener("DOMContentLoaded", () => document.querySelectorAll(".course-quiz").forEach(mount));
})();
