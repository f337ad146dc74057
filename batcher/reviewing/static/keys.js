// Which key does what, and the page of all keys.
// Invariant: the page of keys is made from the same list that the keys are read from; a key that is typed into a field
// stays there unless its entry says otherwise.

import { byId, el, isTyping } from "./dom.js";

const scopes = [];
const SHOWN = { ArrowDown: "↓", ArrowUp: "↑", ArrowLeft: "←", ArrowRight: "→", Escape: "Esc", " ": "Space" };

/**
 * Let keys do something until the returned function is called. The last scope is asked first.
 *
 * @param {string} name heading in the page of keys.
 * @param {Array<{keys: string[], what: string, act: function, typing?: function, isOff?: function}>} entries
 *   `what` is empty for a key that needs no line; `typing` says whether the key counts while a field has the focus;
 *   an `act` that returns false leaves the key to others.
 * @param {boolean} isAlone scopes before it are not asked as long as it is there.
 */
export function listen(name, entries, isAlone = false) {
  const scope = { name, entries, isAlone };
  scopes.push(scope);
  return () => scopes.splice(scopes.indexOf(scope), scopes.includes(scope) ? 1 : 0);
}

/** Return the key as on a Latin keyboard: people who write Hebrew or Russian press the same key. */
function latin(event) {
  const key = event.key;
  if (key.length === 1 && key.charCodeAt(0) > 127 && event.code.startsWith("Key")) return event.code[3].toLowerCase();
  return key.length === 1 ? key.toLowerCase() : key;
}

/** Return the scopes that are asked now, the last first. */
function asked() {
  const all = [...scopes].reverse();
  const alone = all.findIndex((scope) => scope.isAlone);
  return alone < 0 ? all : [...all.slice(0, alone + 1), scopes[0]];
}

function pressed(event) {
  if (event.isComposing || event.altKey || event.metaKey) return;
  if (byId("keys").open) return;
  const key = (event.ctrlKey ? "Ctrl+" : "") + latin(event);
  for (const { entries } of asked()) {
    for (const entry of entries) {
      if (!entry.keys.includes(key) || entry.isOff?.()) continue;
      if (isTyping(event.target) && !entry.typing?.(event)) continue;
      if (entry.act(event) === false) continue;
      event.preventDefault();
      return;
    }
  }
}

/** Return a key as it is drawn. */
export const cap = (key) => el("kbd", null, SHOWN[key] ?? (key.length === 1 ? key.toUpperCase() : key));

/** Show all keys that work now. */
export function showAll() {
  const dialog = byId("keys");
  const taken = new Set(); // by the scopes that are asked before
  const parts = asked().map(({ name, entries }) => {
    const on = entries.filter((entry) => !entry.isOff?.());
    const lines = on.filter((entry) => entry.what && !entry.keys.every((key) => taken.has(key)));
    for (const entry of on) for (const key of entry.keys) taken.add(key);
    if (!lines.length) return null;
    const rows = lines.map(({ keys, what }) =>
      el(
        "div",
        null,
        el(
          "dt",
          null,
          keys.map((key) => [cap(key), " "]),
        ),
        el("dd", null, what),
      ),
    );
    return el("section", null, el("h3", null, name), el("dl", null, rows));
  });
  byId("keys-list").replaceChildren(...parts.filter(Boolean));
  dialog.showModal();
}

export function start() {
  addEventListener("keydown", pressed);
  byId("keys-button").addEventListener("click", () => showAll());
  byId("keys-close").addEventListener("click", () => byId("keys").close());
  byId("keys").addEventListener("click", (event) => {
    if (event.target === byId("keys")) byId("keys").close(); // beside the dialog
  });
  listen("Everywhere", [{ keys: ["?"], what: "Show all keys", act: () => showAll() }]);
}
