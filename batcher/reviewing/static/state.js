// Where the person is: the view, its filters and its position, as the query of the page's address.
// Invariant: the address alone brings the same view back, so that back, forward and a link in another tab work.

/** The filters of the rows, by the names that the server knows. */
export const FILTERS = [
  "status",
  "label",
  "reason",
  "text",
  "agreement_below",
  "confidence_below",
  "corrected",
  "sample",
  "disagree",
];

const OPENED = "opened"; // state of an entry that a row was opened with
const WRITTEN_AFTER_MS = 200; // browsers refuse to write the address hundreds of times in a few seconds
const LEFT_MS = 1000;
const listeners = [];
let query = new URLSearchParams(location.search);
let pending = 0;
let left = null; // the address of the entry to which the browser is going back

export const get = (name) => query.get(name);
export const all = (name) => query.getAll(name);

/** Return a number of the address, or null. */
export const numeric = (name) => (/^\d+$/.test(query.get(name) ?? "") ? Number(query.get(name)) : null);

export const view = () => (["sample", "sides"].includes(query.get("view")) ? query.get("view") : "rows");

/** Whether a name of the address is a filter; fields of a schema have one each. */
export const isFilter = (name) => FILTERS.includes(name) || name.startsWith("field.");

/** Return the names of the filters that are set. */
export const filtered = () => [...new Set(query.keys())].filter(isFilter);

/** Return the filters as parameters for the server. */
export function filters() {
  const found = new URLSearchParams();
  for (const name of filtered()) for (const value of query.getAll(name)) found.append(name, value);
  return found;
}

function changed(changes) {
  const next = new URLSearchParams(query);
  for (const [name, value] of Object.entries(changes)) {
    next.delete(name);
    const values = value === null || value === undefined || value === "" ? [] : [value].flat();
    for (const each of values) next.append(name, each);
  }
  return next;
}

const address = (of) => (of.size ? `?${of}` : location.pathname);

/** Return the address with changes, for a link. */
export const link = (changes) => address(changed(changes));

function write(how, opened = how === "pushState" ? null : history.state) {
  clearTimeout(pending);
  pending = 0;
  history[how](opened, "", address(query));
}

/** Change the address and tell everybody. `step` replaces the address, and a little later: for quick steps. */
export function go(changes, how = "push") {
  const next = changed(changes);
  if (next.toString() === query.toString()) return;
  if (left !== null) {
    query = next; // written when the browser is back
    return tell();
  }
  if (pending) write("replaceState"); // a step before: it is where Back leads
  const isOpening = query.get("row") === null && next.get("row") !== null;
  query = next;
  if (how === "push") write("pushState", isOpening ? OPENED : null);
  else if (how === "replace") write("replaceState");
  else pending = setTimeout(write, WRITTEN_AFTER_MS, "replaceState");
  tell();
}

/**
 * Leave what was opened: Back leads to what came before it, and does not open it again.
 *
 * @param {object} changes of the address.
 */
export function leave(changes) {
  if (left !== null || history.state !== OPENED) return go(changes, "replace");
  clearTimeout(pending);
  pending = 0;
  query = changed(changes);
  left = query.toString();
  history.back();
  setTimeout(settle, LEFT_MS); // if there was nothing to go back to
  return tell();
}

/** Call a function after each change of the address. */
export const onChange = (listener) => listeners.push(listener);

function tell() {
  for (const listener of listeners) listener();
}

/** The browser is back at the entry before: write what the person sees by now. */
function settle() {
  if (left === null) return;
  const isFurther = left !== query.toString(); // the person went on meanwhile
  history.replaceState(null, "", address(new URLSearchParams(left)));
  left = null;
  if (isFurther) write("pushState", query.get("row") === null ? null : OPENED);
}

addEventListener("popstate", () => {
  if (left !== null) return settle();
  clearTimeout(pending);
  pending = 0;
  query = new URLSearchParams(location.search);
  return tell();
});
