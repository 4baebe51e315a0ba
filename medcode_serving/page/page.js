/** Wires the page: what is typed and dropped goes to the API, what comes back is shown. Nothing is stored. */

import { Problem, modelCard, predictPdf, predictText } from "./client.js";
import { CodeList, byProbability, remarks } from "./code_list.js";
import { byId, duration, make, percent, plural } from "./dom.js";
import { EXAMPLE } from "./example.js";
import { copyCodes, downloadJson } from "./export.js";
import { askForKey, followKey, keyAccepted } from "./key_form.js";
import { showCard } from "./model_card.js";
import { NoteView } from "./note_view.js";
import { clearProblem, explain, showProblem } from "./problems.js";
import * as question from "./question.js";
import { showRunning } from "./running.js";
import { followHealth } from "./status.js";
import { Tabs } from "./tabs.js";

const LARGEST_TEXT_FILE = 20_000_000; // bytes; the server refuses far smaller ones, but more would freeze the tab
const INVITATION = "Codes appear here, the most probable first. Choose one to see its evidence in the note.";
const RUNNING = {
  doing: "Predicting", progress: "progress", start: "predict", cancel: "cancel",
  hint: "hint", input: "note", pane: "codes-pane", body: "codes",
};

const note = byId("note");
const view = new NoteView(byId("reading"));
const list = new CodeList(byId("codes"), { onSelect: showEvidence, onVisit: visitEvidence });
const tabs = new Tabs(["codes", "question"], loadCard);

let served = []; // [recipe, what /health says of it]

let pdf = null; // the File to be sent instead of the text
let answered = null; // {answer, text, typed, source}: what is shown on the right, and of which note
let running = null; // AbortController of the prediction under way
let threshold = null; // null: the model's own
let ownThreshold = null;

// --- The note

const showEditor = () => showOnly(pdf ? "attachment" : "note");
const showReading = () => showOnly("reading");

function showOnly(shown) {
  for (const name of ["note", "attachment", "reading"]) byId(name).hidden = name !== shown;
  byId("edit").hidden = shown !== "reading";
  byId("source").textContent = shown === "reading" ? answered.source : "";
}

function setNote(text) {
  pdf = null;
  note.value = text;
  clearProblem(byId("problem"));
  showEditor();
  showWhetherStale();
  note.focus();
  note.setSelectionRange(0, 0);
}

/** Put the example in the place of what is there, as if it were typed: the browser's undo brings the note back. */
function setExample() {
  if (running) return;
  pdf = null;
  clearProblem(byId("problem"));
  showEditor();
  note.focus();
  note.select();
  document.execCommand("insertText", false, EXAMPLE);
  note.setSelectionRange(0, 0);
  note.scrollTop = 0;
  showWhetherStale();
}

function setPdf(file) {
  pdf = file;
  byId("attachment-name").textContent = `${file.name}, ${Math.ceil(file.size / 1000)} kB`;
  clearProblem(byId("problem"));
  showEditor();
  showWhetherStale();
}

async function openFile(file) {
  if (!file || running) return;
  if (file.type === "application/pdf" || /\.pdf$/i.test(file.name)) setPdf(file);
  else if (file.size > LARGEST_TEXT_FILE) tell("This file is too large for a note.");
  else if (file.type.startsWith("text/") || /\.txt$/i.test(file.name)) setNote(decodeText(await file.arrayBuffer()));
  else tell("Only PDF and plain text files can be read.");
}

/** UTF-8, or else what Windows programs write. */
function decodeText(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return new TextDecoder("windows-1252").decode(bytes);
  }
}

// --- Prediction

function options() {
  const given = {
    recipe: byId("recipe").value || null,
    threshold,
    top_k: byId("top-k").valueAsNumber || null,
    evidence: byId("evidence").value,
    long_notes: byId("long-notes").value,
  };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== null));
}

async function predict() {
  if (running) return;
  const [file, typed] = [pdf, note.value];
  if (!file && !typed.trim()) return tell("There is no note yet: paste one, or open a file.");
  if (!byId("top-k").reportValidity()) return;
  running = new AbortController();
  clearProblem(byId("problem"));
  const stopClock = showRunning(RUNNING);
  try {
    const { signal } = running;
    const answer = file ? await predictPdf(file, options(), signal) : await predictText(typed, options(), signal);
    keyAccepted();
    showAnswer({ answer, text: file ? (answer.text ?? "") : typed, typed: file ?? typed, source: sourceOf(file, answer) });
  } catch (error) {
    clearAnswer(); // never leave the codes of the note before
    if (error.name !== "AbortError") onError(error);
  } finally {
    running = null;
    stopClock();
  }
}

function sourceOf(file, answer) {
  if (!file) return "";
  return answer.pages == null ? file.name : `${file.name}, ${plural(answer.pages, "page")}`;
}

// --- The answer

function showAnswer(result) {
  answered = result;
  const { answer, text } = result;
  const codes = byProbability(answer.codes);
  view.show(text);
  showReading();
  byId("count").textContent = codes.length ? String(codes.length) : "";
  const words = remarks(answer).map(([warns, textContent]) => make("li", { className: warns ? "warning" : "", textContent }));
  byId("remarks").replaceChildren(...words);
  showReasoning(answer.reasoning);
  if (codes.length) list.show(codes, answer);
  else list.clear(`No code reaches the threshold of ${percent(answer.threshold)}.`);
  const { model, engine, processing_time_ms: time } = answer;
  byId("provenance").textContent = [
    `${model.recipe} ${model.version}`,
    engine,
    `threshold ${percent(answer.threshold)}, the line in each bar`,
    duration(time),
  ].join(" · ");
  byId("about-answer").hidden = false;
  byId("copy").disabled = byId("download").disabled = false;
  announce(plural(codes.length, "code"));
  showWhetherStale();
}

/** Show what the model wrote before its codes, a point a line; null hides it. */
function showReasoning(text) {
  const points = (text ?? "").split("\n").map((line) => line.replace(/^-\s*/, "")).filter(Boolean);
  byId("points").replaceChildren(...points.map((textContent) => make("li", { textContent })));
  byId("reasoning").hidden = points.length === 0;
}

function clearAnswer() {
  showReasoning(null);
  answered = null;
  showEditor();
  byId("count").textContent = "";
  byId("about-answer").hidden = true;
  byId("remarks").replaceChildren();
  byId("copy").disabled = byId("download").disabled = true;
  list.clear(INVITATION);
  view.show("");
}

/** Say so while the codes on the right are not those of the note on the left. */
function showWhetherStale() {
  byId("stale")?.remove();
  const stale = answered !== null && answered.typed !== (pdf ?? note.value);
  if (!stale) return;
  const textContent = "The note on the left was changed since. These codes are of the note before.";
  byId("remarks").prepend(make("li", { id: "stale", className: "warning", textContent }));
}

function showEvidence(code) {
  showReading();
  const spans = code?.evidence ?? [];
  view.highlight(spans);
  if (spans.length) view.reveal(spans[0]);
  if (code) announce(spans.length ? `${plural(spans.length, "passage")} marked` : "No evidence found");
}

function visitEvidence(span) {
  showReading();
  view.visit(span);
}

async function copy() {
  const codes = byProbability(answered.answer.codes);
  await copyCodes(codes);
  announce(`${plural(codes.length, "code")} copied`);
  byId("copy").textContent = "Copied";
  setTimeout(() => (byId("copy").textContent = "Copy codes"), 1500);
}

// --- Problems

function onError(error) {
  if (!(error instanceof Problem)) throw error;
  if (error.wantsKey) askForKey(predict);
  else tell(explain(error), error.requestId);
}

const tell = (words, requestId) => showProblem(byId("problem"), words, requestId);

// --- The model

/** Show what is served: a tab for each kind of answer, and its recipes. */
function showServed(models) {
  served = Object.entries(models);
  const inWords = recipesOf("question");
  const withCodes = recipesOf("codes");
  tabs.offer([withCodes.length || !inWords.length ? "codes" : "", inWords.length ? "question" : ""]);
  question.showRecipes(inWords);
  showRecipes(withCodes);
  loadCard();
}

/** The recipes of a tab; what one answers that has no model yet is not known, and codes are the rule. */
function recipesOf(tab) {
  return served.filter(([, { answers }]) => (answers === "words") === (tab === "question")).map(([recipe]) => recipe);
}

async function loadCard() {
  const recipe = byId(tabs.active === "question" ? "question-recipe" : "recipe").value;
  try {
    const card = await modelCard(recipe);
    keyAccepted();
    showCard(byId("card"), card);
    if (card.answers === "words") return;
    ownThreshold = card.threshold ?? null;
    showThreshold();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    byId("card").textContent = error.message;
    if (error.wantsKey) askForKey();
  }
}

/** Offer the recipes if there is a choice; without another one served, requests name none. */
function showRecipes(recipes) {
  const before = byId("recipe").value;
  byId("recipe-field").hidden = recipes.length < 2;
  if (served.length < 2) return byId("recipe").replaceChildren();
  byId("recipe").replaceChildren(...recipes.map((recipe) => make("option", { value: recipe, textContent: recipe })));
  if (recipes.includes(before)) byId("recipe").value = before;
}

function showThreshold() {
  const own = ownThreshold === null ? "the model's own" : `${percent(ownThreshold)}, the model's own`;
  byId("threshold-value").textContent = threshold === null ? own : percent(threshold);
  if (threshold === null && ownThreshold !== null) byId("threshold").value = ownThreshold * 100;
  byId("threshold-reset").hidden = threshold === null;
}

function setThreshold(value) {
  threshold = value;
  showThreshold();
}

const announce = (words) => (byId("announcer").textContent = words);

// --- Events

const onClick = (id, action) => byId(id).addEventListener("click", () => action());
onClick("predict", predict);
onClick("cancel", () => running?.abort());
onClick("example", setExample);
onClick("open", () => byId("file").click());
onClick("edit", () => showEditor());
onClick("download", () => downloadJson(answered.answer));
onClick("copy", copy);
onClick("threshold-reset", () => setThreshold(null));
onClick("clear", () => {
  running?.abort();
  clearAnswer();
  setNote("");
});
note.addEventListener("input", showWhetherStale);
byId("threshold").addEventListener("input", ({ target }) => setThreshold(target.valueAsNumber / 100));
byId("recipe").addEventListener("change", () => {
  setThreshold(null);
  loadCard();
});
question.startQuestions({ onRecipe: loadCard, say: announce });
followKey(loadCard);
byId("file").addEventListener("change", ({ target }) => {
  openFile(target.files[0]);
  target.value = ""; // so that the same file can be opened again
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    if (tabs.active === "question") question.ask();
    else predict();
  } else if (event.key === "Escape") {
    if (tabs.active === "question") question.cancel();
    else running?.abort();
    byId("model").open = false;
  }
});

// Dropped anywhere: a browser would leave the page to show the file. Text that is dragged goes where it always does.
const hasFiles = (event) => event.dataTransfer.types.includes("Files");
document.addEventListener("dragover", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) document.body.classList.remove("dropping");
});
document.addEventListener("drop", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  document.body.classList.remove("dropping");
  tabs.select("codes");
  if (tabs.active === "codes") openFile(event.dataTransfer.files[0]);
});

document.addEventListener("click", ({ target }) => {
  if (!byId("model").contains(target)) byId("model").open = false;
});

clearAnswer();
followHealth(showServed);
