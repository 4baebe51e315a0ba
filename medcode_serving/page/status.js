/** Asks every few seconds whether the service can answer, and tells when it serves something else. */

import { health } from "./client.js";
import { byId } from "./dom.js";

const SECONDS_BETWEEN = 10;

/** Show the status from now on; `onServed` is told the models by recipe, at first and whenever their versions change. */
export function followHealth(onServed) {
  let before = null;

  async function look() {
    let now;
    try {
      now = await health();
    } catch (error) {
      show("down", error.message);
      return;
    }
    const models = Object.entries(now.models ?? {});
    const versions = models.map(([recipe, { version }]) => `${recipe} ${version ?? "(none)"}`).join(", ");
    const words = news(models, before !== null && before !== versions);
    if (words) tell(words);
    if (before !== versions) onServed(now.models ?? {});
    before = versions;
    if (!now.model_loaded) show("down", now.reason ?? "not loaded");
    else if (now.status === "ok") show("ready", versions);
    else show("degraded", `${versions} (degraded)`);
  }

  look();
  setInterval(() => document.hidden || look(), SECONDS_BETWEEN * 1000);
  document.addEventListener("visibilitychange", () => document.hidden || look());
}

/** What changed, or what went wrong when something should have; null if nothing did. */
function news(models, changed) {
  const failed = models.find(([, model]) => model.last_reload?.outcome === "failed");
  if (failed) return `A newer version of ${failed[0]} could not be loaded: ${failed[1].last_reload.reason}`;
  if (!changed) return null;
  const versions = models.map(([recipe, { version, pinned }]) => `${recipe} ${version}${pinned ? " (rolled back)" : ""}`);
  return `Since ${new Date().toLocaleTimeString("en-GB")}: ${versions.join(", ")}.`;
}

function show(state, words) {
  byId("dot").className = `dot ${state}`;
  byId("status").textContent = words;
}

function tell(words) {
  if (byId("news").textContent !== words) byId("news").textContent = words; // read aloud once, not every time
}
