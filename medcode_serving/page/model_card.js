/** Which model answers, what it was measured at, and whether it is there. */

import { make, percent } from "./dom.js";

/** Shown first, where a recipe has them; the rest is in GET /model. */
const HEADLINES = ["micro_f1", "macro_f1", "micro_precision", "micro_recall", "precision_at_5", "recall_at_5"];
HEADLINES.push("map", "exact_match_ratio", "micro_auc", "accuracy");
const MOST_ROWS = 10;
/** Metrics are of the adapter, whichever program runs it. */
const MEASURED = { transformers: "adapter", litellm: "adapter" };
const COLUMNS = { adapter: "this model", linear: "linear", untuned_base: "untuned base", frequency_prior: "prior" };

export const moment = (iso) => new Date(iso).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });

/** Fill the box with what a card says; what it lacks is left out. */
export function showCard(box, card) {
  const inWords = card.answers === "words";
  const facts = {
    Recipe: card.recipe,
    Version: card.version,
    Made: card.created_at && moment(card.created_at),
    Loaded: card.loaded_at && moment(card.loaded_at),
    Engine: card.fallback ? `${card.engine}, else ${card.fallback}` : card.engine,
    "Base model": card.base_model?.id ?? card.base_model,
    Data: [card.data_version, card.release].filter(Boolean).join(", "),
    "Split hash": card.split_hash?.slice(0, 12),
    "Built with": card.code_version?.slice(0, 12),
    Answers: inWords ? "in words" : null,
    Threshold: card.threshold == null || inWords ? null : percent(card.threshold),
    Calibration: inWords ? null : card.calibration,
    Vocabulary: card.vocabulary && `${card.vocabulary} codes`,
    "Codes at most": inWords ? null : card.decoding?.max_codes,
    "Tokens written": inWords ? card.decoding?.max_answer_tokens : null,
    "Tokens read": card.decoding?.max_prompt_tokens,
  };
  const list = make("dl");
  for (const [name, value] of Object.entries(facts)) {
    if (value) list.append(make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value })));
  }
  box.replaceChildren(list, metricsTable(card.metrics ?? [], MEASURED[card.engine] ?? card.engine));
}

function metricsTable(all, served) {
  const whole = all.filter(({ level, group }) => (level ?? "code") === "code" && (group ?? "all") === "all");
  const split = whole.find((metric) => metric.split === "test")?.split ?? whole[0]?.split;
  const space = whole.find((metric) => metric.label_space === "closed")?.label_space ?? whole[0]?.label_space;
  const shown = whole.filter((metric) => metric.split === split && metric.label_space === space);
  const names = [...new Set(shown.map(({ name }) => name))].sort((a, b) => rank(a) - rank(b)).slice(0, MOST_ROWS);
  if (names.length === 0) return make("p", { className: "quiet", textContent: "This bundle has no metrics." });

  const engines = [...new Set(shown.map(({ engine }) => engine))].sort((a, b) => (b === served) - (a === served));
  const head = make("tr", {}, make("th", { scope: "col", textContent: "Metric" }));
  for (const engine of engines) head.append(make("th", { scope: "col", textContent: COLUMNS[engine] ?? engine }));
  const body = make("tbody");
  for (const name of names) {
    const row = make("tr", {}, make("th", { scope: "row", textContent: metricName(name) }));
    for (const engine of engines) row.append(metricCell(shown.find((m) => m.name === name && m.engine === engine)));
    body.append(row);
  }
  const measured = space === "words" ? "answers in words" : `${space} label space`;
  const made = `On the ${split} split, ${measured}; in brackets the 95% bootstrap interval.`;
  const table = make("table", {}, make("thead", {}, head), body);
  const box = make("div", { className: "metrics", tabIndex: 0, role: "region", ariaLabel: "Metrics" }, table);
  return make("div", {}, make("p", { className: "made", textContent: made }), box);
}

const rank = (name) => (HEADLINES.includes(name) ? HEADLINES.indexOf(name) : HEADLINES.length);

function metricName(name) {
  const words = name.replaceAll("_", " ").replace(/\b(f1|map|auc)\b/g, (word) => word.toUpperCase());
  return words[0].toUpperCase() + words.slice(1);
}

function metricCell(metric) {
  if (!metric) return make("td", { textContent: "–" });
  const interval = metric.low == null || metric.high == null ? "" : ` (${metric.low.toFixed(2)}–${metric.high.toFixed(2)})`;
  const bounds = make("span", { className: "quiet", textContent: interval });
  return make("td", {}, metric.value.toFixed(3), bounds);
}
