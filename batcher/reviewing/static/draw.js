// The form that draws rows to label by hand.
// Invariant: rows are drawn only when the person presses its button.

import { post } from "./api.js";
import { byId } from "./dom.js";
import { complain } from "./messages.js";
import { counted, sentence } from "./texts.js";

let info;
let taken = () => {};

/** Show the form: for the first rows, or for more of them. */
export function show(about) {
  info = about;
  const count = info.rows.length;
  byId("draw-title").textContent = info.exists ? "Draw more rows" : "Draw a sample";
  byId("draw-label").textContent = info.exists ? "How many rows in all" : "How many rows";
  byId("draw-n").min = count + 1;
  byId("draw-n").value = info.halves?.draw ?? Math.min(info.population, count + 100);
  byId("draw-per").hidden = info.can_draw_per_label === false || info.exists;
  byId("draw-back").hidden = !info.exists;
  const why = info.can_draw === false ? info.why : info.population ? "" : "There is no row to draw yet.";
  byId("draw-form").hidden = byId("draw-about").hidden = Boolean(why);
  byId("draw-why").textContent = why && sentence(why);
  byId("draw-why").hidden = !why;
  more();
  byId("draw-title").focus();
}

function more() {
  const count = (Number(byId("draw-n").value) || 0) - info.rows.length;
  byId("draw-button").textContent = `Draw ${counted(Math.max(0, count), info.exists ? "more row" : "row")}`;
}

async function send(event) {
  event.preventDefault();
  const n = Number(byId("draw-n").value);
  byId("draw-button").disabled = true;
  try {
    await taken(await post("api/sample/draw", { n, per_label: byId("draw-per-label").checked }));
  } catch (error) {
    complain(error);
  } finally {
    byId("draw-button").disabled = false;
  }
}

/** `begin` is called with the sample once rows are drawn, `back` if the person wants none. */
export function start(begin, back) {
  taken = begin;
  byId("draw-form").addEventListener("submit", send);
  byId("draw-n").addEventListener("input", more);
  byId("draw-back").addEventListener("click", back);
}
