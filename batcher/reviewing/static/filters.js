// The filters of the rows: the bar at the side with its counts, and what is filtered now as chips.
// Invariant: what is chosen stands in the address and nowhere else; a choice keeps the focus where it is.

import { check } from "./api.js";
import { byId, el } from "./dom.js";
import { complain, say } from "./messages.js";
import * as state from "./state.js";
import { STATUS, inFilter, number, percent } from "./texts.js";

const MOST_TEXTS = 50; // different answers that are no labels: more are no filter
const LABELS_SEARCHED = 9; // a search box over more labels than these
const SLOW_MS = 1000; // a file that takes longer is said to be on its way
const TYPED_MS = 250; // after the last letter
const BELOW = "0.7";

let run;
let typing = 0;
let followed = null; // the filters as they were shown last
const options = new Map(); // `name=value` -> {element, box, count}

/** Take a change of the filters: the list starts anew. */
const choose = (changes, how) => state.go({ ...changes, from: null, row: null }, how);

function toggle(name, value) {
  const before = state.all(name);
  const rest = before.filter((each) => each !== value);
  choose({ [name]: rest.length < before.length ? rest : [...before, value] });
}

function option(name, value, shown, kind = "") {
  const key = `${name}=${value}`;
  const known = options.get(key);
  if (known) return known;
  const count = el("span", { class: "count" });
  const box = el("input", { type: "checkbox", name, value, change: () => toggle(name, value) });
  const element = el(
    "label",
    { class: `option ${kind}`, title: shown },
    box,
    kind && el("span", { class: `dot ${kind}`, "aria-hidden": "true" }),
    el("span", { class: "name", dir: "auto" }, shown),
    count,
  );
  const made = { element, box, count, shown };
  options.set(key, made);
  return made;
}

function renew(one, name, value, count) {
  one.box.checked = state.all(name).includes(value);
  one.count.textContent = count === undefined ? "" : number(count);
  one.element.classList.toggle("is-empty", count === 0 && !one.box.checked);
}

/** Put elements into a place in order, and keep the focus if it is on one of them. */
function arrange(place, elements) {
  const same = elements.length === place.children.length && elements.every((each, at) => place.children[at] === each);
  if (same) return;
  const focused = place.contains(document.activeElement) ? document.activeElement : null;
  place.replaceChildren(...elements);
  if (focused?.isConnected) focused.focus({ preventScroll: true });
}

function statuses(counts) {
  const shown = ["ok", "invalid", "error", ""].map((status) => {
    const one = option("status", inFilter(status), STATUS[status], inFilter(status));
    renew(one, "status", inFilter(status), counts.status[status] ?? 0);
    return one.element;
  });
  arrange(byId("filter-status"), shown);
}

/** Return values with their counts, those that are chosen included. */
function valued(name, counts) {
  const found = new Map(counts);
  for (const value of state.all(name)) if (!found.has(value)) found.set(value, 0);
  return found;
}

/** Return an option for each value, and how many rows have a value that is in no list. */
function listed(name, found, other) {
  const shown = [...found].map(([value, count]) => {
    const one = option(name, value, value || "(empty)");
    renew(one, name, value, count);
    return one.element;
  });
  if (other) shown.push(el("p", { class: "muted" }, `${number(other)} more rows with other texts`));
  return shown;
}

function labels(counts) {
  const found = valued("label", counts.label);
  const wanted = byId("filter-label-search").value.trim().toLowerCase();
  const shown = [];
  for (const [label, count] of found) {
    const one = option("label", label, label);
    renew(one, "label", label, count);
    if (!wanted || label.toLowerCase().includes(wanted)) shown.push(one.element);
  }
  const isText = !run.labels && !state.all("label").length && (found.size > MOST_TEXTS || counts.label_other > 0);
  byId("filter-labels").hidden = !found.size || isText || run.fields.length > 0;
  byId("filter-label-search").hidden = found.size <= LABELS_SEARCHED;
  if (!shown.length) shown.push(el("p", { class: "muted" }, "No label fits"));
  arrange(byId("filter-label"), shown);
}

function reasons(counts) {
  const shown = listed("reason", valued("reason", counts.reason), counts.reason_other);
  byId("filter-reasons").hidden = !shown.length;
  arrange(byId("filter-reason"), shown);
}

/** The fields of a schema, each with its values. */
function fields(counts) {
  const shown = Object.entries(counts.fields ?? {}).map(([name, values]) => {
    const key = `field.${name}`;
    const found = valued(key, values);
    if (!found.size || (found.size > MOST_TEXTS && !state.all(key).length)) return null;
    const place = options.get(key) ?? {
      element: el("fieldset", null, el("legend", { dir: "auto" }, name), el("div", { class: "many" })),
    };
    options.set(key, place);
    arrange(place.element.lastChild, listed(key, found, 0));
    return place.element;
  });
  arrange(byId("filter-fields"), shown.filter(Boolean));
}

const FLAGS = [
  ["corrected", "Corrected by hand", () => true],
  ["sample", "In the sample", () => run.has.sample],
  ["disagree", "Hand label differs", () => run.has.gold],
];

const LIMITS = [
  ["agreement_below", "Low agreement", "agreement", () => run.has.agreement],
  ["confidence_below", "Low confidence", "confidence", () => run.has.confidence],
];

/** A filter with a number: a box that is ticked, and what the number is. */
function limit(name, words, what) {
  const known = options.get(name);
  if (known) return known;
  const field = el("input", {
    type: "number",
    min: "0",
    max: "1",
    step: "0.05",
    value: state.get(name) ?? BELOW,
    "aria-label": `Highest ${what}, from 0 to 1`,
    change: () => field.reportValidity() && field.value && choose({ [name]: field.value }),
  });
  const box = el("input", {
    type: "checkbox",
    name,
    id: `filter-${name}`,
    change: () => choose({ [name]: box.checked ? field.value || BELOW : null }),
  });
  const count = el("span", { class: "count" });
  const below = el("span", { class: "below" }, "Below ", field);
  const element = el(
    "div",
    { class: "option limit" },
    box,
    el("label", { for: box.id, class: "name" }, words),
    count,
    below,
  );
  const made = { element, box, count, field, below };
  options.set(name, made);
  return made;
}

function marks(counts) {
  const shown = [];
  for (const [name, words, isThere] of FLAGS) {
    if (!isThere() && !state.get(name)) continue;
    const one = option(name, "1", words);
    const isAsked = name !== "disagree" || state.get(name); // unasked, it would say how good the model is
    renew(one, name, "1", isAsked ? (counts[name] ?? 0) : undefined);
    shown.push(one.element);
  }
  for (const [name, words, what, isThere] of LIMITS) {
    if (!isThere() && !state.get(name)) continue;
    const one = limit(name, words, what);
    const value = state.get(name);
    one.box.checked = value !== null;
    if (value && document.activeElement !== one.field) one.field.value = value;
    one.below.hidden = value === null;
    one.count.textContent = counts[name] === undefined ? "" : number(counts[name]);
    shown.push(one.element);
  }
  arrange(byId("filter-marks"), shown);
}

/** Return the words of a filter that is set. */
function words(name, value) {
  if (name === "status") return value === "none" ? STATUS[""] : `status: ${value}`;
  if (name === "label") return `label: ${value}`;
  if (name === "reason") return `reason: ${value}`;
  if (name === "text") return `text: ${value}`;
  if (name.startsWith("field.")) return `${name.slice(6)}: ${value || "(empty)"}`;
  const limited = LIMITS.find(([each]) => each === name);
  if (limited) return `${limited[2]} below ${Number.isNaN(Number(value)) ? value : percent(Number(value))}`;
  return FLAGS.find(([each]) => each === name)[1].toLowerCase();
}

/** Show what is filtered as chips, each of which takes its filter back. */
function chips() {
  const set = [...state.filters()];
  const shown = set.map(([name, value]) => {
    const off = () => {
      choose({ [name]: state.all(name).filter((each) => each !== value) });
      (byId("chips").querySelector("button") ?? byId("filter-text")).focus();
    };
    const said = words(name, value);
    return el(
      "li",
      null,
      el(
        "button",
        { type: "button", class: "chip", "aria-label": `Remove the filter ${said}`, click: off },
        el("span", { dir: "auto", class: "name" }, said),
        el("span", { "aria-hidden": "true" }, "×"),
      ),
    );
  });
  if (set.length > 1)
    shown.push(el("li", null, el("button", { type: "button", class: "quiet", click: clear }, "Remove all filters")));
  byId("chips").replaceChildren(...shown);
  byId("chips").hidden = !set.length;
  byId("filters-count").textContent = set.length ? String(set.length) : "";
}

export function clear() {
  choose(Object.fromEntries(state.filtered().map((name) => [name, null])));
}

/** Show counts, each of the rows that all other filters show. */
export function show(counts) {
  statuses(counts);
  labels(counts);
  fields(counts);
  marks(counts);
  reasons(counts);
}

/** Bring the fields in line with the address. */
export function follow() {
  const field = byId("filter-text");
  if (document.activeElement !== field) field.value = state.get("text") ?? "";
  const query = state.filters().toString();
  if (query === followed) return; // a step to another row leaves the chips, and the focus on them, alone
  followed = query;
  chips();
  for (const format of ["csv", "parquet"])
    byId(`export-${format}`).href = `api/export?format=${format}${query && `&${query}`}`;
}

/** Open the bar (on a narrow screen it is closed) and bring the focus there. */
export function open() {
  byId("filters").classList.add("is-open");
  byId("filter-status").querySelector("input")?.focus();
}

export function close() {
  const bar = byId("filters");
  if (!bar.classList.contains("is-open")) return false;
  bar.classList.remove("is-open");
  return true;
}

/** Bring the focus to the search. */
export function search() {
  byId("filters").classList.add("is-open");
  byId("filter-text").focus();
  byId("filter-text").select();
}

/** Download what the filters show, or say why it cannot be had: a browser would only say that it failed. */
async function save(event) {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const { href } = event.currentTarget;
  const slow = setTimeout(say, SLOW_MS, "The file is being made. The download starts by itself.");
  try {
    await check(href);
    el("a", { href, download: true }).click();
  } catch (error) {
    complain(error);
  } finally {
    clearTimeout(slow);
  }
}

export function start(about, recount) {
  run = about;
  const field = byId("filter-text");
  const take = () => {
    clearTimeout(typing);
    choose({ text: field.value }, state.get("text") ? "replace" : "push");
  };
  field.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(take, TYPED_MS);
  });
  field.addEventListener("change", take);
  byId("filter-label-search").addEventListener("input", recount);
  for (const format of ["csv", "parquet"]) byId(`export-${format}`).addEventListener("click", save);
  byId("filters-button").addEventListener("click", open);
  byId("filters-close").addEventListener("click", () => (close(), byId("filters-button").focus()));
}
