/** The predicted codes: one button a code, which opens its evidence. */

import { make, percent, plural } from "./dom.js";

const SYSTEMS = {
  icd9cm: "ICD-9-CM",
  icd9pcs: "ICD-9-PCS",
  icd10cm: "ICD-10-CM",
  icd10pcs: "ICD-10-PCS",
  hcpcs: "HCPCS",
  cpt: "CPT",
};
const ENGINES = {
  transformers: "the language model",
  litellm: "the remote language model",
  linear: "the linear baseline",
  untuned_base: "the untuned base model",
  frequency_prior: "the frequency prior, which does not read the note",
};
const EVIDENCE = {
  lexical: "Sentences with the code's words or phrases learned for it. The language model was not asked.",
  occlusion: "Passages without which the language model finds the code less likely.",
};
/** Below this share of the model's probability on valid codes, a note is unlike those of training. */
const LOW_SUPPORT = 0.5;

const engineName = (name) => ENGINES[name] ?? name;

/** The codes of an answer, most probable first; those without a probability last, as the engine gave them. */
export const byProbability = (codes) => [...codes].sort((a, b) => (b.probability ?? -1) - (a.probability ?? -1));

/** What has to be said about an answer before its codes are trusted: [is it a warning, text]. */
export function remarks({ fallback, engine, truncated, windows, dropped, constrained }) {
  const found = [];
  if (fallback) {
    const why = fallback.reason === "timeout" ? "was too slow" : "failed";
    found.push([true, `Fallback: ${engineName(fallback.engine)} ${why}. These codes are from ${engineName(engine)}.`]);
  }
  if (truncated) {
    found.push([true, "The note is longer than the model reads at once: its least telling sections were not read."]);
  }
  if (dropped > 0) found.push([true, `${plural(dropped, "fragment")} of the model's answer matched no code and were left out.`]);
  if (constrained === false) found.push([false, "The model wrote freely; it was not held to valid codes."]);
  if (windows > 1) found.push([false, `The note was read in ${windows} pieces.`]);
  return found;
}

export class CodeList {
  #box;
  #onSelect;
  #onVisit;
  #rows = [];
  #selected = -1;

  /** `onSelect` is told the code that was chosen, or null; `onVisit` the span of evidence that was clicked. */
  constructor(box, { onSelect, onVisit }) {
    this.#box = box;
    this.#onSelect = onSelect;
    this.#onVisit = onVisit;
    box.addEventListener("keydown", (event) => this.#onKey(event));
  }

  clear(words) {
    this.#rows = [];
    this.#selected = -1;
    this.#box.replaceChildren(make("p", { className: "empty", textContent: words }));
  }

  show(codes, answer) {
    this.#selected = -1;
    this.#rows = codes.map((code, place) => this.#row(code, place, answer));
    this.#box.replaceChildren(make("ol", {}, ...this.#rows.map(({ item }) => item)));
  }

  #row(code, place, answer) {
    const button = make(
      "button",
      { type: "button", className: "code", ariaExpanded: "false", title: exactNumbers(code) },
      make("span", { className: "name" }, make("b", { textContent: code.code }), systemTag(code.system)),
      make("span", { className: "description", textContent: code.description ?? "no description" }),
      probabilityBar(code.probability, answer.threshold),
    );
    const detail = make("div", { className: "detail", id: `detail-${place}`, hidden: true });
    button.setAttribute("aria-controls", detail.id);
    button.addEventListener("click", () => this.#select(this.#selected === place ? -1 : place));
    detail.append(...this.#detail(code, answer.evidence_method));
    return { code, button, detail, item: make("li", {}, button, detail) };
  }

  #detail(code, method) {
    const { confidence, support, evidence } = code;
    const facts = [
      confidence == null ? null : `Before calibration ${percent(confidence)}`,
      support == null ? null : `Support ${percent(support)}`,
      support != null && support < LOW_SUPPORT ? "low: the model wanted to write something else than codes" : null,
    ].filter(Boolean);
    const sentence = (textContent) => make("p", { className: "facts", textContent });
    const parts = facts.length ? [sentence(facts.join(" · "))] : [];
    if (evidence == null) return [sentence("Evidence was not asked for."), ...parts];
    if (evidence.length === 0) return [sentence("No evidence found."), ...parts];
    const spans = evidence.map((span) => make("li", {}, this.#spanButton(span)));
    return [make("ul", { className: "spans" }, ...spans), sentence(EVIDENCE[method] ?? ""), ...parts];
  }

  #spanButton(span) {
    const page = span.page == null ? null : make("span", { className: "page", textContent: `page ${span.page}` });
    const swatch = make("span", { className: "swatch", title: `Weight ${percent(span.score)}` });
    swatch.style.setProperty("--weight", span.score);
    const text = make("span", { className: "snippet", textContent: span.text.replace(/\s+/g, " ").trim() });
    const button = make("button", { type: "button", className: "span" }, swatch, text, page);
    button.addEventListener("click", () => this.#onVisit(span));
    return button;
  }

  #select(place) {
    this.#rows.forEach(({ button, detail }, other) => {
      button.ariaExpanded = String(other === place);
      detail.hidden = other !== place;
    });
    this.#selected = place;
    this.#onSelect(this.#rows[place]?.code ?? null);
  }

  /** Up, Down, Home and End go from code to code; Escape closes the open one. */
  #onKey(event) {
    if (event.key === "Escape" && this.#selected >= 0) {
      this.#rows[this.#selected].button.focus();
      this.#select(-1);
      return;
    }
    const at = this.#rows.findIndex(({ item }) => item.contains(event.target));
    const last = this.#rows.length - 1;
    const goals = { ArrowDown: Math.min(at + 1, last), ArrowUp: Math.max(at - 1, 0), Home: 0, End: last };
    const goal = goals[event.key];
    if (at < 0 || goal === undefined) return;
    event.preventDefault();
    this.#rows[goal].button.focus();
    if (goal !== this.#selected) this.#select(goal);
    this.#rows[goal].item.scrollIntoView({ block: "nearest" });
  }
}

const systemTag = (system) => make("span", { className: "system", textContent: SYSTEMS[system] ?? system });

function probabilityBar(probability, threshold) {
  if (probability === null) return make("span", { className: "probability quiet", textContent: "no probability" });
  const bar = make("span", { className: "track", ariaHidden: "true" }, make("span", { className: "fill" }));
  bar.style.setProperty("--probability", probability);
  bar.style.setProperty("--threshold", threshold);
  const title = `Probability ${probability.toFixed(3)}; the line is the threshold, ${threshold.toFixed(3)}`;
  return make("span", { className: "probability", title }, bar, make("span", { className: "number", textContent: percent(probability) }));
}

/** The tooltip of a code. */
function exactNumbers({ probability, confidence, support }) {
  const numbers = { probability, "before calibration": confidence, support };
  return Object.entries(numbers)
    .filter(([, value]) => value != null)
    .map(([name, value]) => `${name} ${value.toFixed(3)}`)
    .join(", ");
}
