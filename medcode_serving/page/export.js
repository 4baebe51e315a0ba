/** What is taken along: the answer as a file, codes or words on the clipboard. */

import { make } from "./dom.js";

/** Offer the whole answer as a file, whose name tells nothing of the note. */
export function downloadJson(answer) {
  const json = new Blob([JSON.stringify(answer, null, 2)], { type: "application/json" });
  const link = make("a", { href: URL.createObjectURL(json), download: "medcode-answer.json" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** Copy one line a code: system, code, description and probability, separated by tabs. */
export async function copyCodes(codes) {
  const rows = codes.map(({ system, code, description, probability }) =>
    [system, code, (description ?? "").replace(/\s+/g, " "), probability ?? ""].join("\t"),
  );
  return copyText(rows.join("\n"));
}

export async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Browsers have no clipboard on plain http, as on a hospital's own network.
  const area = make("textarea", { value: text, className: "unseen" });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
