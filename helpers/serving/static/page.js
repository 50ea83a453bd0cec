/* The page of the service: asks /v1/models what can be asked, and shows the events of /v1/images/stream. */
"use strict";

const $ = (id) => document.getElementById(id);
const form = $("form");
let models = [];
let work = null; // the AbortController of what is being drawn
let film = []; // pictures of the way, the result last
let drawn = ""; // what they show

const FIRST = "digits-ddpm"; // quick, and anybody can judge it
const UNREACHABLE = "The service cannot be reached.";

const model = () => models.find((one) => one.name === form.model.value);

function option(value, text = value) {
  return new Option(text, value);
}

function range(input, limits, wanted) {
  input.min = limits.minimum;
  input.max = limits.maximum;
  input.value = Math.min(wanted ?? limits.default, limits.maximum);
}

function chooseModel() {
  const chosen = model();
  $("summary").textContent = chosen.summary;
  $("class").replaceChildren(option("", "all classes in turn"), ...chosen.classes.map((name) => option(name)));
  $("other").replaceChildren(option("", "nothing"), ...chosen.classes.map((name) => option(name)));
  $("sampler").replaceChildren(...chosen.samplers.map((name) => option(name)));
  range(form.n, chosen.n, 9);
  range(form.steps, chosen.steps, chosen.samplers[0] === "langevin" ? chosen.steps.default : Math.min(chosen.steps.default, 20));
  if (chosen.guidance) form.guidance.value = Math.min(3, chosen.guidance.maximum);
  const needs = { classes: chosen.classes.length, guidance: chosen.guidance, samplers: chosen.samplers.length > 1 };
  for (const field of document.querySelectorAll("[data-needs]")) field.hidden = !needs[field.dataset.needs];
  update();
}

/** The body of a request, as the form says. */
function wanted() {
  const chosen = model();
  const body = { model: chosen.name, n: Number(form.n.value), steps: Number(form.steps.value), seed: Number(form.seed.value) };
  body.scale = Math.min(chosen.scale.maximum, Math.max(1, Math.round(128 / chosen.shape[1])));
  if (chosen.samplers.length > 1) body.sampler = form.sampler.value;
  if (chosen.guidance && form.guidance.value !== "1") body.guidance = Number(form.guidance.value);
  const [first, second] = [form.class.value, form.other.value];
  if (first && second && first !== second) {
    body.class = { [first]: Number(form.share.value), [second]: 100 - Number(form.share.value) };
  } else if (first) body.class = first;
  return body;
}

function update() {
  for (const output of document.querySelectorAll("#form output")) output.value = $(output.htmlFor.value).value;
  const mixed = form.class.value && form.other.value && form.class.value !== form.other.value;
  $("share-field").hidden = !mixed;
  $("share-field").querySelector("output").value = `${form.share.value} %`;
  form.other.disabled = !form.class.value;
  const body = JSON.stringify(wanted()).replaceAll("'", "'\\''");
  const complete = form.checkValidity();
  $("copy").disabled = !complete;
  $("curl").textContent = complete
    ? `curl -sS ${location.origin}/v1/images -H 'Content-Type: application/json' -d '${body}' -o pictures.png`
    : "# first a seed: a whole number, 0 or more";
}

function complain(problem) {
  $("problem").textContent = problem;
  $("problem").hidden = !problem;
}

/** What went wrong, in words: browsers each have their own for a connection that fails. */
function reason(error) {
  return error instanceof TypeError || error instanceof SyntaxError ? UNREACHABLE : error.message;
}

function show(image, text) {
  $("picture").src = `data:image/png;base64,${image}`;
  $("picture").alt = text;
  $("picture").hidden = false;
  $("empty").hidden = true;
}

/** The events of a stream as [name, content], as they come. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const found = /^event: (.*)\ndata: (.*)$/.exec(block);
      if (found) yield [found[1], JSON.parse(found[2])];
    }
  }
}

async function draw() {
  work?.abort();
  const mine = (work = new AbortController());
  const body = wanted();
  film = [];
  complain("");
  $("film").hidden = true;
  $("stop").disabled = false;
  $("progress").value = 0;
  $("status").textContent = "Drawing…";
  document.body.dataset.state = "drawing";
  if (matchMedia("(max-width: 52rem)").matches || $("picture").closest("figure").getBoundingClientRect().top < 0) $("stage").scrollIntoView(); // it is below the form there
  try {
    const response = await fetch("/v1/images/stream", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ ...body, frames: Math.min(24, model().frames.maximum) }),
      signal: mine.signal,
    });
    if (!response.ok) throw new Error((await response.json()).detail);
    let ended = false;
    for await (const [name, content] of events(response)) {
      if (name === "problem") throw new Error(content.detail);
      if (name === "queued" && content.position) $("status").textContent = `Waiting: ${content.position} before you.`;
      if (content.of) $("progress").value = content.evaluation / content.of;
      if (name === "state" || name === "done") {
        film.push(content.image);
        if (name === "done") $("progress").value = 1;
        drawn = `${body.n} ${body.n === 1 ? "picture" : "pictures"} by ${body.model}, seed ${body.seed}`;
        show(content.image, name === "done" ? drawn : `${drawn}, unfinished`);
        ended = name === "done";
        if (ended) finish(content);
      }
    }
    if (!ended) throw new TypeError("the stream has been cut");
  } catch (error) {
    if (work !== mine) return;
    $("status").textContent = error.name === "AbortError" ? "Stopped." : "Nothing drawn.";
    if (error.name !== "AbortError") complain(reason(error));
    document.body.dataset.state = "stopped";
  } finally {
    if (work === mine) {
      if (document.activeElement === $("stop")) $("draw").focus(); // a disabled button has no focus
      $("stop").disabled = true;
      work = null;
    }
  }
}

function finish(content) {
  const seconds = content.seconds < 0.1 ? "less than 0.1 s" : `${content.seconds.toFixed(1)} s`;
  const names = content.classes && new Set(content.classes).size > 1 ? ` Classes: ${content.classes.join(", ")}.` : "";
  $("status").textContent = `Done in ${seconds}: ${drawn}.${names}`;
  $("film").hidden = film.length < 2;
  $("moment").max = film.length - 1;
  $("moment").value = film.length - 1;
  look();
  $("save").href = `data:image/png;base64,${content.image}`;
  document.body.dataset.state = "done";
}

function look() {
  const moment = Number($("moment").value);
  document.querySelector("output[for=moment]").value = `${moment + 1} of ${film.length}`;
  show(film[moment], moment === film.length - 1 ? drawn : `${drawn}, on the way: ${moment + 1} of ${film.length}`);
}

async function measure(event) {
  event.preventDefault();
  const file = $("file").files[0];
  const name = $("energy-model").value;
  const say = (text) => ($("energy-answer").textContent = text);
  say("Measuring…");
  try {
    const response = await fetch(`/v1/energy?model=${encodeURIComponent(name)}`, {
      method: "POST",
      headers: { "Content-Type": file.type },
      body: file,
    });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.detail);
    const place = answer.percentile == null ? "" : `, higher than that of ${answer.percentile.toFixed(0)} % of the test set`;
    say(`Energy ${answer.energy.toFixed(2)}${place}.`);
  } catch (error) {
    say(reason(error));
  }
}

async function start() {
  const response = await fetch("/v1/models");
  const all = (await response.json()).models;
  models = all.filter((one) => one.samplers.length);
  form.model.replaceChildren(...models.map((one) => option(one.name)));
  if (models.some((one) => one.name === FIRST)) form.model.value = FIRST;
  const energies = all.filter((one) => one.kind === "energy");
  $("energy").hidden = !energies.length;
  $("energy-model").replaceChildren(...energies.map((one) => option(one.name)));
  chooseModel();
  document.body.dataset.state = "ready";
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  draw();
});
form.addEventListener("input", update);
form.model.addEventListener("change", chooseModel);
$("stop").addEventListener("click", () => work?.abort());
$("dice").addEventListener("click", () => {
  form.seed.value = Math.floor(Math.random() * 1e6);
  update();
  draw();
});
$("moment").addEventListener("input", look);
$("energy").addEventListener("submit", measure);
$("copy").addEventListener("click", async () => {
  const line = $("curl").textContent;
  try {
    await navigator.clipboard.writeText(line);
    $("copy").textContent = "Copied";
  } catch {
    getSelection().selectAllChildren($("curl")); // no clipboard without a secure origin: select it instead
    $("copy").textContent = "Selected";
  }
  setTimeout(() => ($("copy").textContent = "Copy"), 2000);
});
start().catch(() => complain(UNREACHABLE));
