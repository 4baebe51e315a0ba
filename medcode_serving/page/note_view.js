/** The answered note, read-only, with the evidence of one code marked. */

import { make, percent } from "./dom.js";

/** UTF-16 index of each code point, and of the end: the API counts code points, JavaScript does not. */
export function codePointStarts(text) {
  const starts = new Uint32Array(text.length + 1);
  let count = 0;
  let index = 0;
  for (const character of text) {
    starts[count++] = index;
    index += character.length;
  }
  starts[count] = index;
  return starts.subarray(0, count + 1);
}

/** Cut spans, which may overlap, into pieces that do not; each has the strongest span over it. In text order. */
export function disjoint(spans) {
  const edges = [...new Set(spans.flatMap(({ start, end }) => [start, end]))].sort((a, b) => a - b);
  const pieces = [];
  for (let i = 0; i + 1 < edges.length; i++) {
    const [start, end] = [edges[i], edges[i + 1]];
    const over = spans.filter((span) => span.start <= start && end <= span.end);
    if (over.length === 0) continue;
    const span = over.reduce((best, other) => (other.score > best.score ? other : best));
    const last = pieces.at(-1);
    if (last?.span === span && last.end === start) last.end = end;
    else pieces.push({ start, end, span });
  }
  return pieces;
}

export class NoteView {
  #box;
  #text = "";
  #starts = codePointStarts("");
  #marks = [];

  constructor(box) {
    this.#box = box;
  }

  show(text) {
    this.#text = text;
    this.#starts = codePointStarts(text);
    this.#box.scrollTop = 0;
    this.highlight([]);
  }

  /** Mark these spans and no others. */
  highlight(spans) {
    const { scrollTop } = this.#box;
    const parts = [];
    let done = 0;
    this.#marks = disjoint(spans).map(({ start, end, span }) => {
      const [from, to] = [this.#starts[start], this.#starts[end]];
      const page = span.page == null ? "" : `, page ${span.page}`;
      const mark = make("mark", { textContent: this.#text.slice(from, to), title: `Weight ${percent(span.score)}${page}` });
      mark.style.setProperty("--weight", span.score);
      parts.push(this.#text.slice(done, from), mark);
      done = to;
      return { mark, end };
    });
    this.#box.replaceChildren(...parts, this.#text.slice(done));
    this.#box.scrollTop = scrollTop;
  }

  /** Scroll a span's mark into the middle of the view, unless it is to be seen already. */
  reveal(span) {
    const mark = this.#marks.find(({ end }) => end > span.start)?.mark;
    if (!mark) return;
    const [seen, box] = [mark.getBoundingClientRect(), this.#box.getBoundingClientRect()];
    if (seen.top >= box.top && seen.bottom <= box.bottom) return;
    const scrollTop = this.#box.scrollTop + seen.top - box.top - (box.height - seen.height) / 2;
    this.#box.scrollTo({ top: scrollTop });
  }

  /** The same where the view itself may be off the screen, as on a narrow one below the list. */
  visit(span) {
    this.#box.scrollIntoView({ block: "nearest" });
    this.reveal(span);
  }
}
