// What the hand labels say: the estimate, and the rows in which people and the model differ, side by side.
// Invariant: it is asked for and shown only when the person asks, because it ends the blindness.

import { ask } from "./api.js";
import { byId, data, el } from "./dom.js";
import { Lines } from "./lines.js";
import { fromServer } from "./markup.js";
import { complain } from "./messages.js";
import * as state from "./state.js";
import { counted, number } from "./texts.js";

let run;
let isShown = false;
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
    el("th", { scope: "row", class: "at" }, el("a", { href: state.link({ row: position }), "aria-label": `Row ${position}` }, number(position))),
    data("td", read(cells, run), { class: "cell" }),
    data("td", gold, { class: "theirs" }),
    data("td", model || "no answer", { class: "mine" }),
    data("td", note, { class: "cell note" }),
  );
}

async function show() {
  byId("outcome-estimate").setAttribute("aria-busy", "true");
  try {
    const said = await ask("api/sample/result");
    byId("outcome-estimate").replaceChildren(...fromServer(said.estimate));
    lines.show(said.disagreements.map(line));
    const count = said.disagreements.length;
    byId("outcome-differ").textContent = count ? `${counted(count, "row")} in which you and the model differ` : "You and the model agree in every row that you labelled.";
    byId("outcome-table").hidden = !count;
    isShown = true;
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
  }
  const row = state.numeric("row");
  if (row !== null) lines.mark(row);
  else if (!isShown || byId("sample-outcome").dataset.stale) {
    delete byId("sample-outcome").dataset.stale;
    return show();
  }
  return isShown ? undefined : show();
}

/** Somebody has decided: the estimate is asked for anew when it is shown the next time. */
export const spoil = () => (byId("sample-outcome").dataset.stale = "1");
