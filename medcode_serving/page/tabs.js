/** The tabs: codes for a note, an answer to a question. Only what is served is offered; one alone needs no tab. */

import { byId } from "./dom.js";

export class Tabs {
  #names;
  #offered = [];
  #active;
  #onChange;

  /** Each name has a button `tab-<name>` and a panel `panel-<name>`; `onChange` is told when a tab was chosen. */
  constructor(names, onChange) {
    this.#names = names;
    this.#active = names[0];
    this.#onChange = onChange;
    for (const name of names) byId(`tab-${name}`).addEventListener("click", () => this.select(name));
    byId("tabs").addEventListener("keydown", (event) => this.#onKey(event));
  }

  get active() {
    return this.#active;
  }

  /** Offer these and no others; what is shown stays, unless it is offered no more. */
  offer(names) {
    this.#offered = this.#names.filter((name) => names.includes(name));
    for (const name of this.#names) byId(`tab-${name}`).hidden = !this.#offered.includes(name);
    byId("tabs").hidden = this.#offered.length < 2;
    if (!this.#offered.includes(this.#active) && this.#offered.length) this.#show(this.#offered[0]);
  }

  select(name) {
    if (!this.#offered.includes(name) || name === this.#active) return;
    this.#show(name);
    this.#onChange();
  }

  #show(name) {
    this.#active = name;
    for (const other of this.#names) {
      const tab = byId(`tab-${other}`);
      tab.ariaSelected = String(other === name);
      tab.tabIndex = other === name ? 0 : -1;
      byId(`panel-${other}`).hidden = other !== name;
    }
  }

  /** Left and Right, Home and End go from tab to tab, as in every tab list. */
  #onKey(event) {
    const at = this.#offered.indexOf(this.#active);
    const last = this.#offered.length - 1;
    const goals = { ArrowRight: at === last ? 0 : at + 1, ArrowLeft: at === 0 ? last : at - 1, Home: 0, End: last };
    const goal = this.#offered[goals[event.key]];
    if (goal === undefined) return;
    event.preventDefault();
    this.select(goal);
    byId(`tab-${goal}`).focus();
  }
}
