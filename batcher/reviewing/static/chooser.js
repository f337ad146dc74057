// Chooses one of the labels: by a key each, or by search if there are more labels than keys.
// Invariant: one label or none is picked; letters of commands (s, u, n and those of moving) never pick a label.

import { breakable, el } from "./dom.js";
import { cap } from "./keys.js";

const KEYS = [..."123456789", ..."abcdfghilmopqrtvwxyz"];
const IN_COLUMNS_FROM = 7; // labels: more are found faster in columns than in lines
const MOST_SHOWN = 300;
let made = 0;

/** Return the ranges of `label` that a search has found, and how good the match is (0 is best), or null. */
function match(label, words) {
  const low = label.toLowerCase();
  const ranges = [];
  for (const word of words) {
    const at = low.indexOf(word);
    if (at < 0) return null;
    ranges.push([at, at + word.length]);
  }
  if (!words.length) return { ranges, rank: 0 };
  const [at] = ranges[0];
  const rank = low === words.join(" ") ? 0 : at === 0 ? 1 : /[\s_\-./]/.test(low[at - 1]) ? 2 : 3;
  return { ranges: low.length === label.length ? ranges : [], rank };
}

function inParts(label, ranges) {
  const parts = [];
  let from = 0;
  for (const [start, end] of ranges.sort((one, other) => one[0] - other[0])) {
    if (start < from) continue;
    parts.push(label.slice(from, start), el("mark", null, label.slice(start, end)));
    from = end;
  }
  return [...parts, label.slice(from)];
}

/** Labels as buttons, each with its key. */
class Buttons {
  constructor(labels, name, picked) {
    this.buttons = new Map();
    for (const [at, label] of labels.entries()) {
      const button = el(
        "button",
        {
          type: "button",
          class: "label",
          "aria-pressed": "false",
          "aria-keyshortcuts": KEYS[at],
          click: () => picked(label),
        },
        el("span", { class: "cap", "aria-hidden": "true" }, cap(KEYS[at])),
        el("span", { dir: "auto", class: "name" }, breakable(label)),
      );
      this.buttons.set(label, button);
    }
    this.element = el(
      "div",
      { class: labels.length < IN_COLUMNS_FROM ? "labels" : "labels in-columns", role: "group", "aria-label": name },
      ...this.buttons.values(),
    );
    this.keys = labels.map((label, at) => ({ keys: [KEYS[at]], what: "", act: () => picked(label) }));
    const last = KEYS[labels.length - 1].toUpperCase();
    this.keys[0].what = `Pick a label (each shows its key: 1 to ${last})`;
  }

  show(label) {
    for (const [each, button] of this.buttons) button.setAttribute("aria-pressed", String(each === label));
    if (label && this.element.contains(document.activeElement)) this.buttons.get(label)?.focus(); // Enter now means this one
  }

  focus(label) {
    (this.buttons.get(label) ?? this.buttons.values().next().value).focus({ preventScroll: true });
  }

  isAt(target) {
    return this.element.contains(target);
  }

  isIdle() {
    return true;
  }
}

/** Labels behind a field that searches them. */
class Search {
  constructor(labels, name, picked) {
    this.labels = labels;
    this.picked = picked;
    this.value = "";
    const id = `labels-${(made += 1)}`;
    this.hint = el("span", { class: "hint" });
    this.input = el("input", {
      type: "text",
      role: "combobox",
      class: "search",
      autocomplete: "off",
      autocapitalize: "off",
      spellcheck: "false",
      "aria-label": name,
      "aria-expanded": "true",
      "aria-autocomplete": "list",
      "aria-controls": id,
      dir: "auto",
      placeholder: `Type any part of a label (${labels.length})`,
      input: () => this.search(),
      keydown: (event) => this.press(event),
    });
    this.options = el("div", { role: "presentation" });
    this.list = el("div", { id, role: "listbox", class: "options", "aria-label": name }, this.options);
    this.list.addEventListener("mousedown", (event) => event.preventDefault()); // the field keeps the focus
    this.list.addEventListener("click", (event) => {
      const option = event.target.closest("[role=option]");
      if (option) this.take(option.dataset.label);
    });
    this.chosen = el("output", { class: "chosen" });
    this.element = el("div", { class: "labels is-search" }, this.input, this.chosen, this.list);
    this.keys = [
      { keys: ["/"], what: "Search the labels", act: () => this.input.focus() },
      {
        keys: ["ArrowUp", "ArrowDown"],
        what: "Move among the labels (in the search)",
        isOff: () => false,
        act: () => false,
      },
      { keys: ["1", "9"], what: "Pick the label with this number (in the search)", act: () => false },
    ];
    this.search();
  }

  /** Show the labels that fit what was typed, the best first. */
  search() {
    const words = this.input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = [];
    for (const label of this.labels) {
      const fit = match(label, words);
      if (fit) found.push({ label, ...fit });
    }
    if (words.length) found.sort((one, other) => one.rank - other.rank);
    this.found = found.slice(0, MOST_SHOWN);
    this.options.replaceChildren(
      ...this.found.map(({ label, ranges }, at) =>
        el(
          "div",
          { role: "option", id: `${this.list.id}-${at}`, "data-label": label, "aria-selected": "false" },
          el("span", { class: "cap", "aria-hidden": "true" }, at < 9 ? cap(String(at + 1)) : ""),
          el("span", { dir: "auto", class: "name" }, inParts(label, ranges)),
        ),
      ),
    );
    if (!found.length)
      this.options.append(el("div", { role: "option", "aria-disabled": "true", class: "none" }, "No label fits"));
    this.list.scrollTop = 0;
    this.activate(words.length ? 0 : -1);
    this.mark();
  }

  activate(at) {
    this.options.children[this.active]?.setAttribute("aria-selected", "false");
    this.active = this.found.length ? at : -1;
    const option = this.options.children[this.active];
    if (!option) {
      this.input.removeAttribute("aria-activedescendant");
      return;
    }
    option.setAttribute("aria-selected", "true");
    option.scrollIntoView({ block: "nearest" });
    this.input.setAttribute("aria-activedescendant", option.id);
  }

  press(event) {
    if (event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && this.found.length) {
      const next = this.active + step;
      this.activate(
        this.active < 0 && step < 0 ? this.found.length - 1 : (next + this.found.length) % this.found.length,
      );
    } else if (event.key === "Enter" && this.active >= 0) this.take(this.found[this.active].label);
    else if (event.key === "Escape" && (this.input.value || this.active >= 0)) this.clear();
    else if (/^[1-9]$/.test(event.key) && this.found.length >= Number(event.key) && !this.couldType(event.key))
      this.take(this.found[Number(event.key) - 1].label);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** Return whether a digit goes on with what was typed towards some label. */
  couldType(digit) {
    const typed = (this.input.value + digit).toLowerCase();
    return this.labels.some((label) => label.toLowerCase().includes(typed));
  }

  take(label) {
    this.clear();
    this.picked(label);
  }

  clear() {
    this.input.value = "";
    this.search();
  }

  mark() {
    for (const option of this.options.children)
      option.classList.toggle("is-chosen", option.dataset.label === this.value && this.value !== "");
  }

  show(label) {
    this.value = label;
    this.chosen.replaceChildren(...(label ? ["Label: ", el("strong", { dir: "auto" }, label)] : ["No label yet"]));
    this.chosen.classList.toggle("is-empty", !label);
    if (this.input.value) this.clear();
    else this.mark();
  }

  focus() {
    this.input.focus({ preventScroll: true });
  }

  isAt(target) {
    return target === this.input;
  }

  isIdle() {
    return !this.input.value && this.active < 0;
  }
}

/** What a person picks a label with. */
export class Chooser {
  #look;
  #onPick;
  value = "";

  /**
   * @param {string[]} labels in their own order.
   * @param {string} name for screen readers.
   * @param {(label: string) => void} onPick called with each label that a person picks.
   */
  constructor(labels, name, onPick) {
    this.#onPick = onPick;
    const picked = (label) => {
      this.show(label);
      this.#onPick(label);
    };
    this.#look = labels.length > KEYS.length ? new Search(labels, name, picked) : new Buttons(labels, name, picked);
    this.isSearch = labels.length > KEYS.length;
    this.element = this.#look.element;
    this.keys = this.#look.keys;
    this.show("");
  }

  /** Show a label as picked; none for "". */
  show(label) {
    this.value = label;
    this.#look.show(label);
  }

  /** Bring the focus where the next key is taken. */
  focus() {
    this.#look.focus(this.value);
  }

  /** Return whether an element is the chooser's own field or button. */
  isAt(target) {
    return this.#look.isAt(target);
  }

  /** Return whether Enter at an element confirms what is picked, and does not pick. */
  confirms(target) {
    if (this.isSearch) return this.isAt(target) && this.isIdle();
    return target.getAttribute?.("aria-pressed") === "true" || !this.isAt(target);
  }

  /** Return whether nothing is typed that a command could interrupt. */
  isIdle() {
    return this.#look.isIdle();
  }
}
