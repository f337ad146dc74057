// Two runs side by side: only the rows in which they differ.
// Invariant: what is compared and what is filtered stand in the address.

import { ask } from "./api.js";
import { byId, data, el } from "./dom.js";
import { Lines, head } from "./lines.js";
import { badge } from "./list.js";
import { complain } from "./messages.js";
import { read } from "./outcome.js";
import * as state from "./state.js";
import { counted, number, percent, shortly } from "./texts.js";

const LIMIT = 200;
const AGAIN_MS = 400; // while the rows are paired
let run;
let shown = null;
let asked = null;
let again = 0;
export let lines;

function answer(side, kind, name) {
  const why = side.status !== "ok" && [
    badge(side.status),
    data("span", shortly(side.answer) || side.error, { class: "why" }),
  ];
  return el("td", { class: kind, dir: "auto", "data-side": name }, why || shortly(side.answer));
}

function line({ position, other_position: other, cells, mine, theirs }) {
  const moved = other !== null && other !== undefined && other !== position;
  return el(
    "tr",
    { "data-position": position, class: "line" },
    head(position, moved && el("span", { class: "muted", title: `Row ${other} of the other run` }, ` (${number(other)})`)),
    data("td", read(cells ?? [], run), { class: "cell" }),
    answer(mine, "mine", run.keyword),
    answer(theirs, "theirs", state.get("other")),
  );
}

/** Show which answers became which; each line filters. */
function transitions(found) {
  const [mine, theirs] = [state.get("mine"), state.get("theirs")];
  const buttons = found.map(([from, to, count]) => {
    const isSet = from === mine && to === theirs;
    const act = () => state.go({ mine: isSet ? null : from, theirs: isSet ? null : to, from: null, row: null });
    const name = (text) => data("span", shortly(text) || "no answer", { class: "name" });
    return el(
      "li",
      null,
      el(
        "button",
        { type: "button", "aria-pressed": String(isSet), class: "transition", click: act },
        el(
          "span",
          { class: "pair" },
          name(from),
          el("span", null, el("span", { "aria-hidden": "true" }, "→ "), name(to)),
        ),
        el("span", { class: "count" }, number(count)),
      ),
    );
  });
  const focused = document.activeElement?.closest?.("#sides-transitions li");
  const at = focused ? [...byId("sides-transitions").children].indexOf(focused) : -1;
  byId("sides-transitions").replaceChildren(...buttons);
  byId("sides-transitions").children[at]?.firstChild.focus({ preventScroll: true });
  byId("sides-became").hidden = !found.length;
}

function render(said, key) {
  const isOther = shown?.key !== key;
  shown = { ...said, key };
  lines.show(said.rows.map(line));
  byId("sides-summary").textContent = said.summary ?? "";
  const going = said.reading ? ` · pairing the rows, ${percent(said.reading.done / Math.max(1, said.reading.of))}` : "";
  const isPart = state.get("mine") !== null || state.get("only"); // else the summary says it
  const count = `${counted(said.total, "row")} of these`;
  byId("sides-total").textContent = (isPart ? count : "") + going;
  clearTimeout(again);
  if (said.reading) again = setTimeout(load, AGAIN_MS);
  byId("sides-empty").hidden = said.rows.length > 0 || Boolean(said.reading);
  byId("sides-table").hidden = !said.rows.length;
  byId("sides-theirs").textContent = state.get("other");
  for (const [id, to] of [
    ["sides-previous", said.previous],
    ["sides-next", said.next],
  ])
    byId(id).setAttribute("aria-disabled", String(to === null));
  transitions(said.transitions);
  if (state.numeric("row") !== null) lines.mark(state.numeric("row"));
  else if (isOther) byId("sides-scroll").scrollTop = 0;
}

const parameters = () => {
  const query = new URLSearchParams({ other: state.get("other"), from: state.numeric("from") ?? 0, limit: LIMIT });
  for (const name of ["only", "mine", "theirs"]) if (state.get(name) !== null) query.set(name, state.get(name));
  return query;
};

async function fetched(query, mine) {
  byId("view-sides").setAttribute("aria-busy", "true");
  try {
    const said = await ask("api/sides", query, mine.controller.signal);
    if (asked === mine) render(said, mine.key);
  } catch (error) {
    complain(error);
  } finally {
    if (asked === mine) {
      asked = null;
      byId("view-sides").removeAttribute("aria-busy");
    }
  }
}

function load() {
  const query = parameters();
  const key = query.toString();
  if (asked?.key === key) return asked.done;
  asked?.controller.abort();
  const mine = { key, controller: new AbortController() };
  asked = mine;
  mine.done = fetched(query, mine);
  return mine.done;
}

async function turn(by, how) {
  const from = by > 0 ? shown?.next : shown?.previous;
  if (from === null || from === undefined) return false;
  state.go({ from }, how);
  await load();
  return true;
}

export const beside = (position, by) => lines.on(position, by, () => turn(by, "step"));

export const after = (position, count) => lines.after(position, count);

export const move = (by) => lines.move(by, beside);

export const page = (by) => turn(by, "push");

/** Ask for the list anew: somebody decided. */
export const spoil = () => (shown = null);

/** Bring the view in line with the address. */
export function follow() {
  const other = state.get("other");
  if (!other && run.others.length === 1) return state.go({ other: run.others[0] }, "replace");
  byId("sides-other").value = other ?? "";
  byId("sides-only").value = state.get("only") ?? "";
  byId("sides-found").hidden = !other;
  byId("sides-choose").hidden = Boolean(other) || !run.others.length;
  byId("sides-none").hidden = run.others.length > 0;
  if (!other) return undefined;
  if (shown?.key !== parameters().toString()) return load();
  if (state.numeric("row") !== null) lines.mark(state.numeric("row"));
  return undefined;
}

export function start(about, open) {
  run = about;
  lines = new Lines(byId("sides-body"));
  lines.onOpen(open);
  byId("sides-mine").textContent = run.keyword;
  byId("sides-other").append(...run.others.map((each) => el("option", { value: each }, each)));
  const anew = { from: null, row: null, mine: null, theirs: null };
  byId("sides-other").addEventListener("change", (event) => state.go({ ...anew, other: event.target.value }));
  byId("sides-only").addEventListener("change", (event) => state.go({ ...anew, only: event.target.value }));
  byId("sides-previous").addEventListener("click", () => turn(-1, "push"));
  byId("sides-next").addEventListener("click", () => turn(1, "push"));
}
