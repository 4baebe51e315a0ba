/** What the safety check found: warnings, and their spans in question and answer. */

import { byId, make, plural } from "./dom.js";
import { codePointStarts, disjoint } from "./note_view.js";

/** From the least to the most urgent. */
const SEVERITIES = ["low", "moderate", "high", "emergency"];
const KINDS = { interaction: "Interaction", emergency: "Emergency", dose: "Dose", age: "Age" };
const ADDRESSED = "The answer itself says so.";
const NOTHING = "No rule was met. That does not mean that the answer is safe.";

const rank = (severity) => Math.max(SEVERITIES.indexOf(severity), 0);
const isUrgent = ({ kind, severity }) => kind === "emergency" || severity === "emergency";

export class SafetyView {
  #boxes; // {question, answer}: where the texts are shown
  #marks = [];

  constructor(boxes) {
    this.#boxes = boxes;
  }

  /** Show both texts with the spans of a report marked; null: they were not checked. */
  show({ question, answer }, report) {
    this.#marks = [];
    const warnings = report?.warnings ?? [];
    this.#mark("question", question, warnings);
    this.#mark("answer", answer, warnings);
    const urgent = warnings.filter(isUrgent);
    byId("urgent").replaceChildren(...(urgent.length ? [this.#list(urgent)] : []));
    byId("urgent").hidden = urgent.length === 0;
    const others = warnings.filter((warning) => !isUrgent(warning));
    const words = warnings.length === 0 ? NOTHING : others.length ? "" : "Nothing besides the emergency above.";
    const rest = words ? make("p", { className: "quiet", textContent: words }) : this.#list(others);
    byId("warnings").replaceChildren(rest);
    byId("risk").textContent = report ? `risk: ${report.risk_level}` : "";
    byId("risk").className = `risk ${report?.risk_level ?? ""}`;
    byId("safety-disclaimer").textContent = report?.disclaimer ?? "";
    byId("safety").hidden = !report;
  }

  clear() {
    this.show({ question: "", answer: "" }, null);
  }

  #mark(where, text, warnings) {
    const starts = codePointStarts(text);
    const spans = warnings.flatMap((warning) =>
      warning.spans.filter((span) => span.where === where).map((span) => ({ ...span, warning, score: rank(warning.severity) })),
    );
    const parts = [];
    let done = 0;
    for (const { start, end, span } of disjoint(spans)) {
      const [from, to] = [starts[start], starts[end]];
      const { severity, message } = span.warning;
      const mark = make("mark", { className: `found ${severity}`, title: message, textContent: text.slice(from, to) });
      this.#marks.push({ mark, where, start, end });
      parts.push(text.slice(done, from), mark);
      done = to;
    }
    this.#boxes[where].replaceChildren(...parts, text.slice(done));
    this.#boxes[where].scrollTop = 0;
  }

  #list(warnings) {
    return make("ul", { className: "warnings" }, ...warnings.map((warning) => this.#item(warning)));
  }

  #item(warning) {
    const { kind, severity, message, source, spans, addressed } = warning;
    const name = KINDS[kind] ?? kind.replaceAll("_", " ");
    const heading = isUrgent(warning) ? name : `${name}, ${severity}`;
    const found = make("p", { className: "found-in" }, ...spans.map((span) => this.#button(span)));
    return make(
      "li",
      { className: severity },
      make("b", { textContent: heading }),
      make("p", { textContent: addressed ? `${message} ${ADDRESSED}` : message }),
      spans.length ? found : null,
      make("p", { className: "source", textContent: `Source: ${source}` }),
    );
  }

  #button(span) {
    const textContent = `“${span.text.replace(/\s+/g, " ").trim()}” in the ${span.where}`;
    const button = make("button", { type: "button", className: "plain", textContent });
    button.addEventListener("click", () => this.#visit(span));
    return button;
  }

  /** Bring a span's mark into view, and let it stand out for a moment. */
  #visit({ where, start, end }) {
    const marks = this.#marks.filter((mark) => mark.where === where && mark.start < end && mark.end > start);
    marks[0]?.mark.scrollIntoView({ block: "nearest" });
    for (const { mark } of marks) {
      mark.classList.add("visited");
      setTimeout(() => mark.classList.remove("visited"), 1500);
    }
  }
}

/** A report in a few words, to be read aloud. */
export function summary(report) {
  if (!report) return "Not checked for safety";
  const urgent = report.warnings.filter(isUrgent).length;
  const others = report.warnings.length - urgent;
  return [urgent ? "Emergency notice" : null, others ? plural(others, "warning") : null].filter(Boolean).join(", ") || "No warnings";
}
