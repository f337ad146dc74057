// What the page says in passing.
// Invariant: a message is read aloud politely and never takes the focus; an error stays until it is closed.

import { byId, el } from "./dom.js";

const SHOWN_MS = 6000;
const MOST_ERRORS = 3;

/**
 * Show a message.
 *
 * @param {string} text a sentence.
 * @param {{isError?: boolean, button?: string, act?: function}} options a button that does something about it.
 */
export function say(text, { isError = false, button = "", act = null } = {}) {
  const gone = () => line.remove();
  const line = el(
    "div",
    { class: isError ? "message is-error" : "message" },
    el("p", null, text),
    button && el("button", { type: "button", click: () => (gone(), act()) }, button),
    el("button", { type: "button", class: "quiet", "aria-label": "Close the message", click: gone }, "×"),
  );
  const place = byId("messages");
  for (const other of [...place.children])
    if (!other.matches(".is-error") || other.firstChild.textContent === text) other.remove();
  place.append(line);
  while (place.children.length > MOST_ERRORS) place.firstElementChild.remove();
  if (!isError) setTimeout(gone, SHOWN_MS);
}

/** Show what went wrong. */
export const complain = (error) => {
  if (error.name === "AbortError") return;
  say(error.message, { isError: true });
  if (!error.kind) throw error; // a fault of the page: its place is in the console, too
};
