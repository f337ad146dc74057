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

const WRITTEN_AFTER_MS = 200; // browsers refuse to write the address hundreds of times in a few seconds
const listeners = [];
let query = new URLSearchParams(location.search);
let pending = 0;

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

function write(how) {
  clearTimeout(pending);
  pending = 0;
  history[how](null, "", address(query));
}

/** Change the address and tell everybody. `step` replaces the address, and a little later: for quick steps. */
export function go(changes, how = "push") {
  const next = changed(changes);
  if (next.toString() === query.toString()) return;
  if (pending) write("replaceState"); // a step before: it is where Back leads
  query = next;
  if (how === "push") write("pushState");
  else if (how === "replace") write("replaceState");
  else pending = setTimeout(write, WRITTEN_AFTER_MS, "replaceState");
  tell();
}

/** Call a function after each change of the address. */
export const onChange = (listener) => listeners.push(listener);

function tell() {
  for (const listener of listeners) listener();
}

addEventListener("popstate", () => {
  clearTimeout(pending);
  pending = 0;
  query = new URLSearchParams(location.search);
  tell();
});
