/** The API, as described in /openapi.json. */

/** The page's own address less `ui/client.js`, so that a proxy's prefix is kept. */
const ROOT = new URL("..", import.meta.url);

let apiKey = null;

/** Keep the key for the requests to come; in memory only. */
export function useKey(key) {
  apiKey = key;
}

/** Why a request got no answer: a problem document (RFC 9457), or what stands for one where the server sent none. */
export class Problem extends Error {
  constructor({ status, title, detail, type, request_id, errors }, retryAfter = null) {
    super(detail ?? title);
    Object.assign(this, { status, title, detail, type, requestId: request_id, errors: errors ?? [], retryAfter });
    this.wantsKey = status === 401 || type === "urn:medcode:problem:unauthorized";
  }
}

/** Return the answer to a request, parsed; throws Problem, or AbortError where `options.signal` ended it. */
async function ask(path, options = {}) {
  const authorization = apiKey === null ? {} : { Authorization: `Bearer ${apiKey}` };
  let response;
  try {
    response = await fetch(new URL(path, ROOT), { ...options, headers: { ...options.headers, ...authorization } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ status: 0, title: "The server cannot be reached" });
  }
  const { status } = response;
  const body = await response.json().catch((error) => {
    if (error.name === "AbortError") throw error;
    return null;
  });
  if (response.ok && body !== null) return body;
  const title = response.ok ? "The answer is no JSON" : `The server answered ${status}`;
  throw new Problem({ title, ...body, status }, response.headers.get("Retry-After"));
}

export const health = () => ask("health");

export const modelCard = (recipe) => ask(recipe ? `model?recipe=${encodeURIComponent(recipe)}` : "model");

/** Codes of a text; `options` are those of PredictionOptions that are not left to the server. */
export function predictText(text, options, signal) {
  const body = JSON.stringify({ text, ...options });
  return ask("predict", { method: "POST", headers: { "Content-Type": "application/json" }, body, signal });
}

/** The answer to a question in words; `options` are those of WritingOptions that are not left to the server. */
export function askQuestion(question, options, signal) {
  const body = JSON.stringify({ question, ...options });
  return ask("generate", { method: "POST", headers: { "Content-Type": "application/json" }, body, signal });
}

/** Codes of a PDF; the answer also has its `text`, and how many `pages` it has. */
export function predictPdf(file, options, signal) {
  const body = new FormData();
  body.append("file", file, "note.pdf"); // its real name may name a patient
  for (const [name, value] of Object.entries({ ...options, include_text: true })) body.append(name, value);
  return ask("predict/pdf", { method: "POST", body, signal });
}
