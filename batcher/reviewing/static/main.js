// Starts the page and brings its parts in line with the address.
// Invariant: each part knows only itself; what happens in one and matters to another passes through here.

import { ask } from "./api.js";
import { byId, el } from "./dom.js";
import * as files from "./files.js";
import * as filters from "./filters.js";
import * as keys from "./keys.js";
import * as list from "./list.js";
import * as live from "./live.js";
import { complain, say } from "./messages.js";
import * as outcome from "./outcome.js";
import * as panel from "./panel.js";
import * as rowset from "./rowset.js";
import * as sample from "./sample.js";
import * as sides from "./sides.js";
import * as state from "./state.js";
import { number } from "./texts.js";

const NAMES = { rows: "Rows", sample: "Sample", sides: "Side by side" };
let run;
let doneWhenListed = null; // answers that the list has

/** What the panel and the keys need of each view. */
const VIEWS = {
  rows: { ...list, lines: () => list.lines, page: list.turn },
  sample: {
    beside: outcome.beside,
    after: (position, count) => outcome.lines?.after(position, count) ?? [],
    lines: () => outcome.lines,
    move: () => null,
  },
  sides: { ...sides, lines: () => sides.lines },
};
const view = () => VIEWS[state.view()];

function title() {
  const row = state.numeric("row");
  const parts = [row !== null && `Row ${number(row)}`, NAMES[state.view()], run.keyword, "batcher review"];
  document.title = parts.filter(Boolean).join(" · ");
}

let before = null;

function follow() {
  const name = state.view();
  if (name !== before) {
    if (before === "sample") sample.leave();
    for (const each of Object.keys(NAMES)) {
      byId(`view-${each}`).hidden = each !== name;
      if (each === name) byId(`tab-${each}`).setAttribute("aria-current", "page");
      else byId(`tab-${each}`).removeAttribute("aria-current");
    }
    document.body.dataset.view = name;
    before = name;
  }
  title();
  panel.follow();
  if (name === "rows") list.follow();
  else if (name === "sample") sample.follow();
  else sides.follow();
}

/** The keys of the lists. Those of the open row come before them. */
function listKeys() {
  const isOff = () => state.view() === "sample" && !state.get("result");
  const here = () => view().lines()?.current;
  const withRow = (act) => () => {
    if (panel.isOpen()) return act();
    const position = here();
    if (position === null || position === undefined) return false;
    panel.open(position);
    return rowset.read(position).then(act).catch(complain);
  };
  keys.listen("The list", [
    { keys: ["j", "ArrowDown"], what: "Next row", act: () => void view().move?.(1), isOff },
    { keys: ["k", "ArrowUp"], what: "Previous row", act: () => void view().move?.(-1), isOff },
    {
      keys: ["Enter"],
      what: "Open the row",
      isOff,
      act: (event) =>
        event.target === document.body && here() !== null && here() !== undefined ? panel.open(here()) : false,
    },
    { keys: ["n"], what: "Next page", act: () => void view().page?.(1), isOff },
    { keys: ["p"], what: "Previous page", act: () => void view().page?.(-1), isOff },
    {
      keys: ["/"],
      what: "Search the text of the rows",
      act: () => toFilters(filters.search),
      isOff: () => state.view() !== "rows",
    },
    {
      keys: ["f"],
      what: "Go to the filters",
      act: () => toFilters(filters.open),
      isOff: () => state.view() !== "rows",
    },
    { keys: ["e"], what: "Correct the row", act: withRow(() => panel.correct()), isOff },
    { keys: ["u"], what: "Undo the row's correction", act: withRow(() => panel.undo()), isOff },
    { keys: ["Escape"], what: "Back to the list from a field", typing: () => true, act: toTheList, isOff },
  ]);
}

/** On a narrow screen the open row lies over the list and its filters. */
function toFilters(act) {
  if (!byId("view-rows").checkVisibility()) panel.close();
  act();
}

function toTheList() {
  const wasOpen = filters.close();
  const lines = view().lines();
  if (!byId("filters").contains(document.activeElement) && !document.activeElement.matches("input, select") && !wasOpen)
    return false;
  if (!lines?.focus(lines.current ?? lines.positions[0])) document.activeElement.blur();
  return true;
}

/** A row was decided on, here or elsewhere. */
async function decidedElsewhere(position) {
  await panel.renew(position);
  if (!list.lines.has(position)) return;
  list.renew(await rowset.read(position));
}

function heard() {
  return {
    live: (now, before) => {
      doneWhenListed ??= now.done;
      if (before && now.done !== before.done) panel.answered().catch(complain);
      if (now.at_work || now.done > doneWhenListed) list.news(Math.max(0, now.done - doneWhenListed));
    },
    row: (position) => {
      files.recount();
      list.recount();
      outcome.spoil();
      decidedElsewhere(position).catch(complain);
    },
    sample: () => {
      outcome.spoil();
      sample.heard();
    },
    width: (said) => sample.narrowed(said),
    plan: () =>
      say("Another run of this keyword has changed what there is to see.", {
        isError: true,
        button: "Load the page anew",
        act: () => location.reload(),
      }),
    back: () => {
      rowset.forget();
      files.recount();
      sample.heard();
      if (state.view() === "rows") list.load();
      if (state.numeric("row") !== null) panel.renew(state.numeric("row")).catch(complain);
    },
  };
}

function anew() {
  doneWhenListed = null;
  rowset.forget();
  list.load();
}

async function start() {
  keys.start();
  run = await ask("api/run");
  byId("run-keyword").textContent = run.keyword;
  byId("run-where").textContent = run.directory;
  byId("run-who").textContent = run.who;
  byId("version").textContent = `batcher ${run.version}`;
  byId("trouble").textContent = run.trouble ?? "";
  byId("trouble").hidden = !run.trouble;
  listKeys();
  files.start(run);
  list.start(run, (position) => panel.open(position));
  sides.start(run, (position) => panel.open(position));
  sample.start(run);
  panel.start(run, view, (row) => {
    list.renew(row);
    outcome.spoil();
    files.recount();
    list.recount();
  });
  byId("rows-news").addEventListener("click", anew);
  for (const name of Object.keys(NAMES))
    byId(`tab-${name}`).addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      if (state.view() === name) return;
      const nothing = Object.fromEntries(
        ["from", "row", "at", "result", "field", "other", "only", "mine", "theirs"].map((each) => [each, null]),
      );
      state.go({ ...nothing, view: name === "rows" ? null : name });
    });
  addEventListener("submit", (event) => event.preventDefault()); // no form leaves the page
  state.onChange(follow);
  follow();
  live.start(heard());
  byId("main").removeAttribute("aria-busy");
}

start().catch((error) => {
  byId("main").replaceChildren(el("p", { class: "fatal", role: "alert" }, error.message));
  if (!error.kind) throw error;
});
