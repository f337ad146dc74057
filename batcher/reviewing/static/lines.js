// Lines of a table that keys move along: one is the current one, and each opens its row.
// Invariant: the focus is on a line's link or where the person put it; moving never renders a line again.

import { el, isTyping } from "./dom.js";
import * as state from "./state.js";
import { number } from "./texts.js";

/** Return the head of a line, which links to its row; `more` stands behind the number. */
export const head = (position, ...more) =>
  el(
    "th",
    { scope: "row", class: "at" },
    el("a", { href: state.link({ row: position }), "aria-label": `Row ${position}` }, number(position)),
    more,
  );

export class Lines {
  #body;
  #byPosition = new Map();
  positions = [];
  current = null;

  /** @param {HTMLElement} body holds the lines: elements with `data-position`, each with a link. */
  constructor(body) {
    this.#body = body;
  }

  /** Show other lines. The current one stays current if it is among them, and keeps the focus. */
  show(lines) {
    const hadFocus = this.#body.contains(document.activeElement);
    this.#byPosition = new Map(lines.map((line) => [Number(line.dataset.position), line]));
    this.positions = [...this.#byPosition.keys()];
    this.#body.replaceChildren(...lines);
    const kept = this.#byPosition.has(this.current) ? this.current : null;
    this.current = null;
    if (kept !== null) this.mark(kept);
    if (hadFocus) this.focus(kept ?? this.positions[0] ?? null);
  }

  /** Show a line anew in its place. */
  renew(position, line) {
    const old = this.#byPosition.get(position);
    const hadFocus = old.contains(document.activeElement);
    if (old.classList.contains("is-current")) line.classList.add("is-current");
    this.#byPosition.set(position, line);
    old.replaceWith(line);
    if (hadFocus) this.focus(position);
  }

  has(position) {
    return this.#byPosition.has(position);
  }

  /** Make a line the current one and bring it into sight. */
  mark(position) {
    this.#byPosition.get(this.current)?.classList.remove("is-current");
    this.current = this.#byPosition.has(position) ? position : null;
    const line = this.#byPosition.get(position);
    line?.classList.add("is-current");
    line?.scrollIntoView({ block: "nearest" });
  }

  focus(position) {
    if (!this.#byPosition.has(position)) return false;
    this.mark(position);
    this.#byPosition.get(position).querySelector("a").focus({ preventScroll: true });
    return true;
  }

  /** Return the position `by` lines on from one, or null beyond the ends. */
  beside(position, by) {
    const at = this.positions.indexOf(position);
    if (at >= 0) return this.positions[at + by] ?? null;
    const isBeyond = (each) => (by > 0 ? each > position : each < position); // it is not listed: its neighbour
    return (by > 0 ? this.positions.find(isBeyond) : this.positions.findLast(isBeyond)) ?? null;
  }

  /** Return the position `by` lines on from one; at the end of the page `turn` brings the next one. */
  async on(position, by, turn) {
    const next = this.beside(position, by);
    if (next !== null) return next;
    if (!this.has(position) || !(await turn(by))) return null;
    return (by > 0 ? this.positions[0] : this.positions.at(-1)) ?? null;
  }

  /** Focus the line `by` on from the current one, or else the first; `beside` returns which that is. */
  async move(by, beside) {
    if (this.current === null) return this.focus(this.positions[0]);
    const next = await beside(this.current, by);
    return next !== null && this.focus(next);
  }

  /** Return up to `count` positions that follow one. */
  after(position, count) {
    const at = this.positions.indexOf(position);
    return at < 0 ? [] : this.positions.slice(at + 1, at + 1 + count);
  }

  /** Let a click anywhere on a line open it; links keep their other uses, and marked text stays marked. */
  onOpen(open) {
    this.#body.addEventListener("click", (event) => {
      const line = event.target.closest("[data-position]");
      if (!line || event.ctrlKey || event.metaKey || event.shiftKey || isTyping(event.target)) return;
      if (!event.target.closest("a") && String(getSelection())) return;
      event.preventDefault();
      open(Number(line.dataset.position));
    });
    this.#body.addEventListener("focusin", (event) => {
      const line = event.target.closest("[data-position]");
      if (line && Number(line.dataset.position) !== this.current) this.mark(Number(line.dataset.position));
    });
  }
}
