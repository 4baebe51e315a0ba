/** What a tab shows while the model works on what was asked. */

import { byId } from "./dom.js";

/**
 * Show what is done (`doing`, as "Writing"), and for how long; the returned function ends that. The others are ids: of
 * the words, of the buttons that start and cancel and the hint beside them, of the input, of the answer's pane and body.
 */
export function showRunning({ doing, progress, start, cancel, hint, input, pane, body }) {
  const began = performance.now();
  const show = () => {
    byId(progress).textContent = `${doing}… ${((performance.now() - began) / 1000).toFixed(1)} s`;
  };
  const setRunning = (runs) => {
    byId(start).disabled = runs;
    byId(cancel).hidden = !runs;
    byId(hint).hidden = runs;
    byId(input).readOnly = runs;
    byId(pane).ariaBusy = String(runs);
    byId(body).inert = runs;
  };
  setRunning(true);
  show();
  const clock = setInterval(show, 100);
  return () => {
    clearInterval(clock);
    setRunning(false);
    byId(progress).textContent = "";
  };
}
