// The rows as a list: a page of 200 by position.
// Invariant: what is shown changes when the person asks for it, never because the run goes on; a row that somebody
// decided on changes in its place.

import { ask } from "./api.js";
import { byId, data, el, marked } from "./dom.js";
import * as filters from "./filters.js";
import { Lines, head as lineHead } from "./lines.js";
import { complain } from "./messages.js";
import * as state from "./state.js";
import { STATUS, counted, inFilter, number, onOneLine, percent } from "./texts.js";

const LIMIT = 200;
const MOST_COLUMNS = 3; // of the input, beside the answer
const AGAIN_MS = 400; // while a search or the reading of the table goes on
const RECOUNT_MS = 500; // after the last of several decisions
const SLOW_MS = 150; // an answer that takes longer dims the list

let run;
let shown = null; // the page of rows that is shown, as the server sent it
let asked = null; // the question under way: {key, controller}
let again = 0;
let counting = 0;
let ahead = null; // {key, said}: the next page
export let lines;

/** Return the columns of the input that the list shows: what the prompt reads, else the first. */
function columns() {
  const read = run.prompt_columns.filter((name) => run.columns.includes(name));
  return (read.length ? read : run.columns).slice(0, MOST_COLUMNS);
}

export const badge = (status) => el("span", { class: `badge ${inFilter(status)}` }, STATUS[status]);

/** Return the answer of a line or, if it has none, why. */
function answer(row) {
  const words = state.get("text");
  if (run.task === "embedding" && row.status === "ok") return el("td", { class: "answer muted" }, "vector");
  const said = row.fields ? onOneLine(row.fields) : (row.answer ?? "");
  if (row.status === "ok" || !row.error)
    return data("td", marked(said, words), { class: run.labels ? "answer is-label" : "answer" });
  return data(
    "td",
    [row.answer && el("span", null, marked(row.answer, words)), el("span", { class: "why" }, marked(row.error, words))],
    {
      class: "answer",
    },
  );
}

function line(row) {
  const words = state.get("text");
  const cells = columns().map((name) =>
    data("td", marked(row.cells?.[run.columns.indexOf(name)] ?? "", words), { class: "cell" }),
  );
  const measures = [
    run.has.agreement && el("td", { class: "measure" }, row.agreement === null ? "" : percent(row.agreement)),
    run.has.confidence && el("td", { class: "measure" }, row.confidence === null ? "" : percent(row.confidence)),
  ];
  const marks = [
    row.is_corrected && el("span", { class: "mark by-hand" }, "by hand"),
    row.in_sample && el("span", { class: "mark" }, "sample"),
  ];
  return el(
    "tr",
    { "data-position": row.position, class: `line ${inFilter(row.status)}` },
    lineHead(row.position),
    el("td", { class: "status" }, badge(row.status)),
    cells,
    answer(row),
    measures,
    el("td", { class: "marks" }, marks),
  );
}

function head() {
  const names = [
    "Row",
    "Status",
    ...columns(),
    "Answer",
    run.has.agreement && "Agreement",
    run.has.confidence && "Confidence",
    "Marks",
  ];
  byId("rows-head").replaceChildren(
    el(
      "tr",
      null,
      names.filter(Boolean).map((name) => el("th", { scope: "col", dir: "auto" }, name)),
    ),
  );
  const widths = [
    "5.5rem",
    "7.5rem",
    ...columns().map((_, at) => (at ? "minmax(6rem, 1fr)" : "minmax(10rem, 2.4fr)")),
    "minmax(9rem, 1.2fr)",
    run.has.agreement && "5.5rem",
    run.has.confidence && "5.5rem",
    "7.5rem",
  ];
  byId("rows-table").style.setProperty("--widths", widths.filter(Boolean).join(" "));
}

/** Show where the page is among all rows that the filters show. */
function place() {
  const { total, before, rows, next, previous, searching, reading, indexing } = shown;
  const of = total === run.rows ? counted(total, "row") : `${number(total)} of ${counted(run.rows, "row")}`;
  const part = total > rows.length && rows.length ? ` · ${number(before + 1)} to ${number(before + rows.length)}` : "";
  const going = searching ?? indexing ?? reading;
  const doing = searching ? "searching" : indexing ? "counting" : "reading the table";
  byId("rows-total").textContent =
    of + part + (going ? ` · ${doing}, ${percent(going.done / Math.max(1, going.of))}` : "");
  const [back, on] = [byId("page-previous"), byId("page-next")];
  back.setAttribute("aria-disabled", String(previous === null));
  on.setAttribute("aria-disabled", String(next === null));
  byId("rows-table").hidden = !rows.length;
  if (rows.length || going) byId("rows-empty").hidden = true;
  else if (total) nothing("There is no row from this number on.");
  else nothing(state.filtered().length ? "No row fits these filters." : "This run has no rows.");
}

/** Say why no row is shown; a button leads to those that there are. */
function nothing(why) {
  byId("rows-empty").hidden = false;
  byId("rows-table").hidden = true;
  byId("rows-empty").querySelector("p").textContent = why;
  const isFiltered = state.filtered().length > 0;
  byId("empty-clear").textContent = isFiltered ? "Remove all filters" : "Show the first rows";
  byId("empty-clear").hidden = !isFiltered && !shown?.total;
}

const parameters = (from) => {
  const query = state.filters();
  query.set("from", from);
  query.set("limit", LIMIT);
  return query;
};

const wanted = () => parameters(state.numeric("from") ?? 0);

/** Show a page that the server has sent. */
function render(said, key) {
  const isOther = shown?.key !== key;
  shown = { ...said, key };
  byId("view-rows").removeAttribute("aria-busy"); // also of a question that was given up for this page
  lines.show(said.rows.map(line));
  filters.show(said.counts);
  place();
  if (isOther) byId("rows-scroll").scrollTop = 0;
  const row = state.numeric("row");
  if (row !== null) lines.mark(row);
  byId("rows-news").hidden = true;
  clearTimeout(again);
  if (said.searching || said.indexing || (said.reading && said.rows.some((row) => !row.cells)))
    again = setTimeout(load, AGAIN_MS);
  if (isOther && row !== null && !lines.has(row) && state.get("from") === null) state.go({ from: row }, "replace"); // a link to a row
}

/** Ask for the page that the address names, and show it. */
export function load() {
  clearTimeout(again);
  const query = wanted();
  const key = query.toString();
  if (asked?.key === key) return asked.done;
  asked?.controller.abort();
  asked = null;
  if (ahead?.key === key && ahead.said) {
    render(ahead.said, key);
    ahead = null;
    return Promise.resolve();
  }
  const mine = { key, controller: new AbortController() };
  asked = mine;
  mine.done = fetched(query, mine);
  return mine.done;
}

async function fetched(query, mine) {
  const slow = setTimeout(() => byId("view-rows").setAttribute("aria-busy", "true"), SLOW_MS);
  try {
    const said = await ask("api/rows", query, mine.controller.signal);
    if (asked === mine) render(said, mine.key);
  } catch (error) {
    if (error.kind === "invalid" && !shown && state.filtered().length)
      nothing(`This link has a filter that cannot be used: ${error.message.replace(/[.]$/, "")}.`);
    else complain(error);
  } finally {
    clearTimeout(slow);
    if (asked === mine) {
      asked = null;
      byId("view-rows").removeAttribute("aria-busy");
    }
  }
}

/** Bring the list in line with the address. */
export function follow() {
  filters.follow();
  if (shown?.key !== wanted().toString()) return load();
  const row = state.numeric("row");
  if (row !== null && row !== lines.current) lines.mark(row);
  return Promise.resolve();
}

/** Read the next page ahead when the last lines of this one are near. */
async function readAhead() {
  if (!shown || shown.next === null) return;
  const query = parameters(shown.next);
  const key = query.toString();
  if (ahead?.key === key) return;
  ahead = { key, said: null };
  const mine = ahead;
  try {
    const said = await ask("api/rows", query);
    if (ahead === mine && !said.searching && !said.reading && !said.indexing) mine.said = said;
  } catch {
    if (ahead === mine) ahead = null; // the page is asked for again when it is wanted, and then an error is shown
  }
}

export async function turn(by, how = "push") {
  const from = by > 0 ? shown?.next : shown?.previous;
  if (from === null || from === undefined) return false;
  state.go({ from }, how);
  await load();
  return true;
}

/** Return the position `by` rows on; turns the page at its end. */
export async function beside(position, by) {
  const next = await lines.on(position, by, () => turn(by, "step"));
  if (next !== null && by > 0 && lines.after(next, 25).length < 25) readAhead();
  return next;
}

/** Return positions that come after one, for reading ahead. */
export const after = (position, count) => lines.after(position, count);

/** Move the current line; without one, start at the first. */
export const move = (by) => lines.move(by, beside);

/** Show a row that somebody decided on in its line. */
export function renew(row) {
  if (!shown || !lines.has(row.position)) return;
  const at = shown.rows.findIndex((each) => each.position === row.position);
  const { status, error, by, is_corrected, agreement, confidence } = row;
  shown.rows[at] = {
    ...shown.rows[at],
    status,
    error,
    by,
    is_corrected,
    agreement,
    confidence,
    fields: row.fields,
    answer: row.answer ?? "",
  };
  lines.renew(row.position, line(shown.rows[at]));
  ahead = null;
}

/** Bring the counts of the filters up to date after a decision; the lines stay. */
export function recount() {
  clearTimeout(counting);
  counting = setTimeout(async () => {
    const query = wanted();
    const key = query.toString();
    query.set("limit", 1);
    try {
      const { counts } = await ask("api/rows", query);
      if (shown?.key !== key) return;
      shown.counts = counts;
      filters.show(counts);
    } catch (error) {
      complain(error);
    }
  }, RECOUNT_MS);
}

/** Say that the run has brought answers; they are shown when the person asks. */
export function news(count) {
  const button = byId("rows-news");
  button.textContent = `${counted(count, "new answer")}: show`;
  button.hidden = !count;
}

export function start(about, open) {
  run = about;
  lines = new Lines(byId("rows-body"));
  lines.onOpen(open);
  head();
  filters.start(run, () => shown && filters.show(shown.counts));
  for (const [id, by] of [
    ["page-previous", -1],
    ["page-next", 1],
  ])
    byId(id).addEventListener("click", () => turn(by).then((is) => is && (byId("rows-scroll").scrollTop = 0)));
  byId("jump").addEventListener("submit", (event) => {
    event.preventDefault();
    const field = byId("jump-to");
    const position = Number(field.value.replace(/[\s,._]/g, ""));
    const last = Math.max(0, run.rows - 1);
    field.setCustomValidity(
      Number.isInteger(position) && position >= 0 && position <= last
        ? ""
        : `A row is a number from 0 to ${number(last)}.`,
    );
    if (!field.reportValidity() || !field.value.trim()) return;
    state.go({ from: position });
    load().then(() => lines.focus(lines.positions[0]));
    field.value = "";
  });
  byId("jump-to").addEventListener("input", () => byId("jump-to").setCustomValidity(""));
  byId("empty-clear").addEventListener("click", () => {
    if (state.filtered().length) filters.clear();
    else state.go({ from: null });
    byId("filter-text").focus();
  });
}
