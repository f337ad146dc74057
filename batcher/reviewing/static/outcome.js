// What the hand labels say: the estimate, and the rows in which people and the model differ, side by side.
// Invariant: it is asked for and shown only when the person asks, because it ends the blindness.

import { ask } from "./api.js";
import { byId, data, el } from "./dom.js";
import { Lines, head } from "./lines.js";
import { fromServer } from "./markup.js";
import { complain } from "./messages.js";
import * as state from "./state.js";
import { counted, number } from "./texts.js";

let run;
let shown = null; // the field whose result is shown; "" if there is only one
let isSpoilt = false;
export let lines = null;

/** Return the texts of what the prompt reads, or of the first column. */
export function read(cells, about) {
  const named = cells.map((cell, at) => (Array.isArray(cell) ? cell : [about.columns[at], cell]));
  const found = named.filter(([name]) => about.prompt_columns.includes(name)).map(([, text]) => text);
  return (found.length ? found : named.slice(0, 1).map(([, text]) => text)).join(" · ");
}

function line({ position, cells, model, gold, note }) {
  return el(
    "tr",
    { "data-position": position, class: "line" },
    head(position),
    data("td", read(cells, run), { class: "cell" }),
    data("td", gold, { class: "theirs", "data-side": "Your label" }),
    data("td", model || "no answer", { class: "mine", "data-side": "The model's" }),
    data("td", note, { class: "cell note" }),
  );
}

/** Let the person choose the field of a schema that is estimated. */
function which({ fields, field }) {
  byId("outcome-which").hidden = !(fields?.length > 1);
  byId("outcome-field").replaceChildren(
    ...(fields ?? []).map((each) => el("option", { value: each, selected: each === field }, each)),
  );
}

async function show() {
  byId("outcome-estimate").setAttribute("aria-busy", "true");
  try {
    const field = state.get("field");
    const said = await ask("api/sample/result", field ? { field } : null);
    which(said);
    byId("outcome-estimate").replaceChildren(...fromServer(said.estimate));
    lines.show(said.disagreements.map(line));
    const count = said.total ?? said.disagreements.length;
    const part = count > said.disagreements.length ? ` (the first ${number(said.disagreements.length)} are shown)` : "";
    byId("outcome-differ").textContent = count
      ? `${counted(count, "row")} in which you and the model differ${part}`
      : "You and the model agree in every row that you labelled.";
    byId("outcome-table").hidden = !count;
    shown = field ?? "";
  } catch (error) {
    complain(error);
  } finally {
    byId("outcome-estimate").removeAttribute("aria-busy");
  }
}

export const beside = async (position, by) => lines.beside(position, by);

/** Bring the view in line with the address. */
export function follow(about) {
  run = about;
  if (!lines) {
    lines = new Lines(byId("outcome-body"));
    lines.onOpen((position) => state.go({ row: position }, state.get("row") ? "step" : "push"));
    byId("outcome-field").addEventListener("change", (event) => state.go({ field: event.target.value, row: null }));
  }
  const row = state.numeric("row");
  const isStale = shown !== (state.get("field") ?? "");
  if (isStale || (isSpoilt && row === null)) {
    isSpoilt = false;
    return show();
  }
  if (row !== null) lines.mark(row);
  return Promise.resolve();
}

/** Somebody has decided: the estimate is asked for anew when it is shown the next time. */
export const spoil = () => (isSpoilt = true);
