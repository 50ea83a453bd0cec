// What the reader has done, kept in this browser and nowhere else.
globalThis.Course ??= {};

(() => {
  "use strict";

  const KEY = "diffusion-ebm-course";
  const VERSION = 1;
  const DAY = /^\d{4}-\d{2}-\d{2}$/;
  const listeners = new Set();
  const empty = () => ({ version: VERSION, lessons: {} });
  const today = () => new Date().toISOString().slice(0, 10);

  let memory = empty();
  let available = true;

  /** Whether a value is an object with these checks on each of its values. */
  const holds = (value, check) =>
    typeof value === "object" && value !== null && !Array.isArray(value) && Object.values(value).every(check);
  const isDay = (value) => typeof value === "string" && DAY.test(value);
  const isAnswer = (value) => holds(value, () => true) && Number.isInteger(value.tries) && value.tries > 0
    && (value.right === undefined || isDay(value.right));

  /** A record as this version keeps it; throws an Error that says what is wrong with any other. */
  function checked(record) {
    if (!holds(record, () => true) || !("version" in record)) throw new Error("This is not a file of this course.");
    if (record.version !== VERSION) throw new Error(`Version ${record.version} of this file is not known here.`);
    const sound = holds(record.lessons, (lesson) => holds(lesson, () => true)
      && (lesson.done === undefined || isDay(lesson.done))
      && holds(lesson.exercises ?? {}, isDay) && holds(lesson.questions ?? {}, isAnswer));
    if (!sound || !Object.keys(record.lessons).every((number) => /^\d{1,2}$/.test(number))) {
      throw new Error("The file is damaged: an entry is not of the expected form.");
    }
    return record;
  }

  function read() {
    if (!available) return memory;
    try {
      const stored = localStorage.getItem(KEY);
      return stored === null ? empty() : checked(JSON.parse(stored));
    } catch { // what is stored is not ours, or damaged
      return empty();
    }
  }

  function write(record) {
    memory = record;
    try {
      localStorage.setItem(KEY, JSON.stringify(record));
    } catch {
      available = false;
    }
    tell();
  }

  function tell() {
    for (const listener of listeners) listener();
  }

  /** Change the record of one lesson by `change(entry)`, where the entry has `exercises` and `questions`. */
  function update(lesson, change) {
    const record = read();
    const entry = record.lessons[lesson] ??= {};
    entry.exercises ??= {};
    entry.questions ??= {};
    change(entry);
    if (!entry.done && !Object.keys(entry.exercises).length && !Object.keys(entry.questions).length) {
      delete record.lessons[lesson];
    }
    write(record);
  }

  /** Of two days, or one and nothing, the earlier. */
  const earlier = (one, other) => (!one || (other && other < one) ? other : one);

  function merged(mine, theirs) {
    for (const [number, entry] of Object.entries(theirs.lessons)) {
      const own = mine.lessons[number] ??= {};
      const done = earlier(own.done, entry.done);
      if (done) own.done = done;
      own.exercises ??= {};
      own.questions ??= {};
      for (const [id, day] of Object.entries(entry.exercises ?? {})) {
        own.exercises[id] = earlier(own.exercises[id], day);
      }
      for (const [id, answer] of Object.entries(entry.questions ?? {})) {
        const before = own.questions[id];
        const right = earlier(before?.right, answer.right);
        own.questions[id] = { tries: Math.max(before?.tries ?? 0, answer.tries), ...(right ? { right } : {}) };
      }
    }
    return mine;
  }

  try {
    localStorage.setItem(`${KEY}/test`, "");
    localStorage.removeItem(`${KEY}/test`);
  } catch {
    available = false;
  }
  addEventListener("storage", (event) => {
    if (event.key === KEY || event.key === null) tell();
  });

  Course.progress = {
    KEY,
    /** Whether this browser keeps anything for this page. */
    get available() { return available; },
    /** What is known of a lesson: `{done, exercises, questions}`. */
    lesson: (number) => ({ exercises: {}, questions: {}, ...read().lessons[number] }),
    /** "done", "begun" or "". */
    state(number) {
      const entry = read().lessons[number];
      return entry?.done ? "done" : entry ? "begun" : "";
    },
    markLesson: (number, done) => update(number, (entry) => {
      if (done) entry.done ??= today(); else delete entry.done;
    }),
    markExercise: (number, exercise, done) => update(number, (entry) => {
      if (done) entry.exercises[exercise] ??= today(); else delete entry.exercises[exercise];
    }),
    /** One more try at a question of a quiz. A right answer once given stays. */
    answer: (number, question, right) => update(number, (entry) => {
      const answer = entry.questions[question] ??= { tries: 0 };
      if (answer.right) return;
      answer.tries += 1;
      if (right) answer.right = today();
    }),
    /** All of it, as the text of a file. */
    toText: () => `${JSON.stringify(read(), null, 2)}\n`,
    /** Add what such a text holds to what is known; throws an Error with a sentence for the reader. */
    fromText(text) {
      let record;
      try {
        record = JSON.parse(text);
      } catch {
        throw new Error("This is not a file of this course.");
      }
      write(merged(read(), checked(record)));
    },
    reset: () => write(empty()),
    /** Call `listener()` after every change, also one that another tab made. */
    listen: (listener) => listeners.add(listener),
  };
})();
