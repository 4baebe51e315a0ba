/** Why there is no answer, in words for people. */

import { make } from "./dom.js";

/** Problems whose way out is on the page. */
const IN_OWN_WORDS = {
  "urn:medcode:problem:too_long":
    "The note is longer than the model reads at once: under Long notes choose Shorten or Read in windows",
};

/** What a Problem says, as sentences. */
export function explain(error) {
  const fields = error.errors.map(({ loc, msg }) => `${loc.slice(1).join(".")}: ${msg}`);
  const wait = error.retryAfter ? [`Try again in ${error.retryAfter} s`] : [];
  const words = IN_OWN_WORDS[error.type] ?? error.detail ?? error.title;
  return [words, ...fields, ...wait].map(sentence).join(" ");
}

/** Write as a sentence what the API says to programs. */
function sentence(words) {
  const plain = words.replaceAll("`", "").replace(/\.?$/, ".");
  return plain[0].toUpperCase() + plain.slice(1);
}

export function showProblem(box, words, requestId = null) {
  const parts = requestId ? [" ", make("span", { className: "request", textContent: `Request ${requestId}` })] : [];
  box.replaceChildren(words, ...parts);
  box.hidden = false;
}

export function clearProblem(box) {
  box.hidden = true;
  box.replaceChildren();
}
