// Fields in which a person writes an answer that is no label: a text, or one value for each field of a schema.
// Invariant: values are the texts that the person sees, for each field one.

import { data, el } from "./dom.js";

const LONG_FROM = 80; // characters of a value that gets an area of several lines

/** Return what may be chosen for a field, or null if it is free. */
function choices(schema, name) {
  const about = schema?.[name];
  if (about?.enum) return about.enum.map(String);
  return about?.type === "boolean" ? ["true", "false"] : null;
}

function control(id, name, schema, value) {
  const chosen = choices(schema, name);
  if (chosen) {
    const known = chosen.includes(value) || !value ? chosen : [value, ...chosen];
    return el(
      "select",
      { id, dir: "auto" },
      ["", ...known].map((each) => el("option", { value: each, selected: each === value }, each || "(none)")),
    );
  }
  const type = schema?.[name]?.type;
  const isNumber = type === "integer" || type === "number";
  if (isNumber || (name && value.length < LONG_FROM && !value.includes("\n")))
    return el("input", {
      id,
      type: "text",
      inputmode: isNumber ? "decimal" : null,
      dir: "auto",
      autocomplete: "off",
      value,
    });
  const area = el("textarea", { id, dir: "auto", rows: name ? "3" : "5" });
  area.value = value;
  return area;
}

export class Fields {
  #controls = new Map();
  #before = new Map();
  #schema;

  /**
   * @param {string[]} names of the fields; one empty name is the answer's text itself.
   * @param {object|null} schema type and choices of each field.
   * @param {object} before the values to start with.
   * @param {string} prefix of the controls' ids.
   */
  constructor(names, schema, before, prefix) {
    this.#schema = schema;
    const rows = names.map((name, at) => {
      const id = `${prefix}-field-${at}`;
      const value = before[name] ?? "";
      const made = control(id, name, schema, value);
      this.#controls.set(name, made);
      this.#before.set(name, value);
      return el(
        "div",
        { class: "field" },
        name ? data("label", name, { for: id }) : el("label", { for: id }, "Right answer"),
        made,
      );
    });
    this.element = el("div", { class: "write" }, rows);
    this.isLong = [...this.#controls.values()].some((each) => each.matches("textarea"));
  }

  get values() {
    return Object.fromEntries([...this.#controls].map(([name, each]) => [name, each.value]));
  }

  set values(values) {
    for (const [name, each] of this.#controls) each.value = values[name] ?? "";
  }

  get isChanged() {
    return [...this.#controls].some(([name, each]) => each.value !== this.#before.get(name));
  }

  get isEmpty() {
    return [...this.#controls.values()].every((each) => !each.value.trim());
  }

  /** Return what is wrong with the values, in a sentence, or "". */
  wrong() {
    for (const [name, each] of this.#controls) {
      const type = this.#schema?.[name]?.type;
      const value = each.value.trim();
      const isWrong =
        (type === "integer" && !/^[+-]?\d+$/.test(value)) ||
        (type === "number" && (value === "" || Number.isNaN(Number(value))));
      if (value && isWrong)
        return (each.focus(), `${name} must be ${type === "integer" ? "a whole number" : "a number"}.`);
    }
    return this.isEmpty ? "Write an answer first." : "";
  }

  focus() {
    this.#controls.values().next().value.focus({ preventScroll: true });
  }

  isAt(target) {
    return [...this.#controls.values()].includes(target);
  }
}
