/** The tab in which a question is asked and its answer in words is shown, with what the safety check found. */

import { Problem, askQuestion } from "./client.js";
import { byId, duration, make, percent, plural } from "./dom.js";
import { copyText, downloadJson } from "./export.js";
import { askForKey, keyAccepted } from "./key_form.js";
import { clearProblem, explain, showProblem } from "./problems.js";
import { showRunning } from "./running.js";
import { SafetyView, summary } from "./safety_view.js";

const EXAMPLE = "I am 68 and take warfarin for atrial fibrillation. My knee hurts since Monday. May I take ibuprofen 800 mg, and how often?";
const INVITATION = "The answer appears here, with what the safety check found in it and in the question.";
const RUNNING = {
  doing: "Writing", progress: "question-progress", start: "ask", cancel: "question-cancel",
  hint: "question-hint", input: "question", pane: "answer-pane", body: "answer-body",
};
const NUMBERS = { max_length: "max-length", max_sentences: "max-sentences", length_penalty: "length-penalty", seed: "seed" };

const question = byId("question");
const problem = byId("question-problem");
const view = new SafetyView({ question: byId("question-reading"), answer: byId("answer") });

let answered = null; // {answer, asked}: what is shown on the right, and of which question
let running = null; // AbortController of the question under way
let temperature = null; // null: the server's own
let announce = () => {};

// --- The question

function showOnly(shown) {
  question.hidden = shown !== "question";
  byId("question-reading").hidden = shown === "question";
  byId("question-edit").hidden = shown === "question";
}

function edit() {
  showOnly("question");
  question.focus();
}

/** Put the example in the place of what is there, as if it were typed: the browser's undo brings the question back. */
function setExample() {
  if (running) return;
  clearProblem(problem);
  edit();
  question.select();
  document.execCommand("insertText", false, EXAMPLE);
  showWhetherStale();
}

function options() {
  const given = { recipe: byId("question-recipe").value || null, temperature };
  for (const [name, id] of Object.entries(NUMBERS)) {
    given[name] = Number.isNaN(byId(id).valueAsNumber) ? null : byId(id).valueAsNumber;
  }
  if (byId("use-safety").value) given.use_safety = byId("use-safety").value === "true";
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== null));
}

export async function ask() {
  if (running) return;
  const asked = question.value;
  if (!asked.trim()) return showProblem(problem, "There is no question yet.");
  const wrong = Object.values(NUMBERS).map(byId).find((input) => !input.validity.valid);
  if (wrong) {
    showOptions(true); // a message cannot be shown on what is folded away
    return wrong.reportValidity();
  }
  running = new AbortController();
  clearProblem(problem);
  const stopClock = showRunning(RUNNING);
  try {
    const answer = await askQuestion(asked, options(), running.signal);
    keyAccepted();
    showAnswer(answer, asked);
  } catch (error) {
    clearAnswer(); // never leave the answer to the question before
    if (error.name !== "AbortError") onError(error);
  } finally {
    running = null;
    stopClock();
  }
}

export const cancel = () => running?.abort();

function onError(error) {
  if (!(error instanceof Problem)) throw error;
  if (error.wantsKey) askForKey(ask);
  else showProblem(problem, explain(error), error.requestId);
}

// --- The answer

function showAnswer(answer, asked) {
  answered = { answer, asked };
  view.show({ question: asked, answer: answer.response || "(The model wrote nothing.)" }, answer.safety_report);
  byId("answer").classList.toggle("empty", false);
  showOnly("reading");
  const { confidence, tokens, inference_time_ms: time } = answer;
  const sure = confidence == null ? null : `Confidence ${percent(confidence)}: in the wording, not in being right`;
  byId("answer-facts").textContent = [sure, plural(tokens, "token"), duration(time)].filter(Boolean).join(" · ");
  const words = remarks(answer).map((textContent) => make("li", { className: "warning", textContent }));
  byId("answer-remarks").replaceChildren(...words);
  const { model, engine, temperature: used, seed } = answer;
  const drawn = seed == null ? null : `seed ${seed}`;
  const parts = [`${model.recipe} ${model.version}`, engine, `temperature ${used}`, drawn];
  byId("answer-provenance").textContent = parts.filter(Boolean).join(" · ");
  byId("answer-disclaimer").textContent = answer.disclaimer;
  byId("about-written").hidden = false;
  byId("copy-answer").disabled = byId("download-answer").disabled = false;
  byId("answer-body").scrollTop = 0;
  if (!byId("urgent").hidden) byId("urgent").scrollIntoView({ block: "nearest" }); // on a narrow screen it lies below
  announce(`Answer written. ${summary(answer.safety_report)}.`);
}

/** What has to be said about an answer before it is read. */
function remarks({ safety_report: report, cut, truncated }) {
  return [
    report ? null : "The safety check is off: question and answer were not checked for interactions, emergencies and doses.",
    truncated ? "The question is longer than the model reads: a part of it was not read." : null,
    cut ? "The answer reached its limit and breaks off. What is missing may matter." : null,
  ].filter(Boolean);
}

function clearAnswer() {
  answered = null;
  view.clear();
  byId("answer").textContent = INVITATION;
  byId("answer").classList.toggle("empty", true);
  showOnly("question");
  byId("answer-facts").textContent = "";
  byId("answer-remarks").replaceChildren();
  byId("about-written").hidden = true;
  byId("copy-answer").disabled = byId("download-answer").disabled = true;
}

/** Say so while the answer on the right is not to the question on the left. */
function showWhetherStale() {
  byId("stale-answer")?.remove();
  if (answered === null || answered.asked === question.value) return;
  const textContent = "The question on the left was changed since. This is the answer to the one before.";
  byId("answer-remarks").prepend(make("li", { id: "stale-answer", className: "warning", textContent }));
}

async function copy() {
  await copyText(answered.answer.response);
  announce("Answer copied");
  byId("copy-answer").textContent = "Copied";
  setTimeout(() => (byId("copy-answer").textContent = "Copy answer"), 1500);
}

// --- Options

function showOptions(shown) {
  byId("writing-options").hidden = !shown;
  byId("more-options").ariaExpanded = String(shown);
}

function setTemperature(value) {
  temperature = value;
  byId("temperature-value").textContent = value === null ? "the server's own" : value.toFixed(1);
  if (value === null) byId("temperature").value = 0;
  byId("temperature-reset").hidden = value === null;
}

/** Offer the recipes that answer in words. */
export function showRecipes(recipes) {
  const before = byId("question-recipe").value;
  byId("question-recipe-field").hidden = recipes.length < 2;
  byId("question-recipe").replaceChildren(...recipes.map((recipe) => make("option", { value: recipe, textContent: recipe })));
  if (recipes.includes(before)) byId("question-recipe").value = before;
}

/** Wire the tab: `onRecipe` is called when another recipe is chosen, `say` reads words aloud. */
export function startQuestions({ onRecipe, say }) {
  announce = say;
  const onClick = (id, action) => byId(id).addEventListener("click", () => action());
  onClick("ask", ask);
  onClick("question-cancel", cancel);
  onClick("question-example", setExample);
  onClick("question-edit", edit);
  onClick("copy-answer", copy);
  onClick("download-answer", () => downloadJson(answered.answer));
  onClick("more-options", () => showOptions(byId("writing-options").hidden));
  onClick("temperature-reset", () => setTemperature(null));
  onClick("question-clear", () => {
    cancel();
    clearAnswer();
    clearProblem(problem);
    question.value = "";
    question.focus();
  });
  question.addEventListener("input", showWhetherStale);
  byId("temperature").addEventListener("input", ({ target }) => setTemperature(target.valueAsNumber));
  byId("question-recipe").addEventListener("change", () => onRecipe());
  setTemperature(null);
  clearAnswer();
}
