/** Elements and numbers as the whole page shows them. */

export const byId = (id) => document.getElementById(id);

/** Make an element. Strings among the children become text nodes: nothing that a note holds is ever parsed as HTML. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** A probability in whole percent; it never rounds to certainty or to impossibility. */
export function percent(probability) {
  if (probability > 0.99 && probability < 1) return ">99%";
  if (probability > 0 && probability < 0.01) return "<1%";
  return `${Math.round(probability * 100)}%`;
}

/** A time in milliseconds, for reading. */
export const duration = (time) => (time < 1000 ? `${Math.round(time)} ms` : `${(time / 1000).toFixed(1)} s`);

export const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
