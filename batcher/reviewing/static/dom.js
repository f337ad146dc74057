// Makes elements.
// Invariant: text becomes text nodes, never markup; nothing here reads HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

/** Return an element; an attribute that is a function listens to the event of that name. */
export const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);

/** Return an SVG element. */
export const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

export const byId = (id) => document.getElementById(id);

/** Return an element with text of a table or a model: its direction is its own, its white space stays. */
export const data = (tag, text, attributes) => el(tag, { dir: "auto", ...attributes }, text ?? "");

/** Return a label as nodes that may be broken after its marks, and in a word only if need be. */
export const breakable = (label) => label.split(/(?<=[_\-/.])/).flatMap((part, at) => (at ? [el("wbr"), part] : [part]));

/** Return text as nodes in which the places that were searched for are marked. */
export function marked(text, words) {
  if (!words) return [text];
  const [low, wanted] = [text.toLowerCase(), words.toLowerCase()];
  if (low.length !== text.length) return [text]; // a letter that is longer in lower case: places would be wrong
  const parts = [];
  let from = 0;
  for (let at = low.indexOf(wanted); at >= 0; at = low.indexOf(wanted, from)) {
    parts.push(text.slice(from, at), el("mark", null, text.slice(at, at + wanted.length)));
    from = at + wanted.length;
  }
  return [...parts, text.slice(from)];
}

/** Return whether letters typed at a place belong to it. */
export const isTyping = (target) =>
  target instanceof HTMLTextAreaElement ||
  target instanceof HTMLSelectElement ||
  (target instanceof HTMLInputElement && !["checkbox", "radio", "button", "submit"].includes(target.type));
