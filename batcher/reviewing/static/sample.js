// The sample: a person labels its rows without seeing what the model said.
// Invariant: nothing that the model answered reaches this view before the estimate is asked for; each decision is in the
// outbox before the next row shows, and stays there until the server has it.

import { Outbox, ask } from "./api.js";
import { Chooser } from "./chooser.js";
import { byId, data, el } from "./dom.js";
import * as draw from "./draw.js";
import { Fields } from "./fields.js";
import * as keys from "./keys.js";
import { complain, say } from "./messages.js";
import * as narrowing from "./narrowing.js";
import * as outcome from "./outcome.js";
import { input, prompt } from "./row.js";
import * as state from "./state.js";
import { counted } from "./texts.js";

const AHEAD = 20; // rows that are here before they are shown
const AT_ONCE = 50; // rows that are asked for when fewer are
const HEARD_MS = 1000; // after the last label of another tab
const MOVED = "labels="; // begins the part of a link that holds labels
const outbox = new Outbox();
const rows = new Map(); // drawn -> the row as it is shown, or the promise of it
const done = new Set(); // drawn numbers that have a label
const decisions = new Map(); // drawn -> {gold, golds, note}, as decided here
const skipped = new Set();
const undos = [];

let run;
let info = null;
let loading = null;
let current = null; // drawn number of the row that is shown
let chooser = null;
let fields = null;
let unlisten = null;
let heardOn = ""; // the part of the view whose keys are heard
let refresh = 0;
let isMoving = false; // to the page of a later start

const order = () => info.rows.filter((row) => row.is_here).map((row) => row.drawn);

/** Return the row to label after one: the next without a label, then those that were skipped. */
function next(after) {
  const drawn = order();
  const at = drawn.indexOf(after);
  const round = [...drawn.slice(at + 1), ...drawn.slice(0, at + 1)].filter((each) => !done.has(each) && each !== after);
  return round.find((each) => !skipped.has(each)) ?? round[0] ?? (done.has(after) || after === null ? null : after);
}

async function fetched(wanted) {
  const missing = wanted.filter((each) => !rows.has(each));
  if (!missing.length) return;
  const asked = ask("api/sample/rows", { at: missing.join(",") }).then(
    ({ rows: found }) => new Map(found.map((row) => [row.drawn, row])),
  );
  for (const each of missing) {
    const one = asked.then(
      (found) => found.get(each) ?? Promise.reject(new Error(`Row ${each} of the sample is not there.`)),
    );
    rows.set(each, one);
    one.then(
      (row) => rows.set(each, row),
      () => rows.delete(each), // asked for again when it is shown
    );
  }
}

function readAhead() {
  const drawn = order();
  const at = drawn.indexOf(current);
  const coming = drawn.slice(at + 1).filter((each) => !done.has(each));
  if (coming.slice(0, AHEAD).some((each) => !rows.has(each))) fetched(coming.slice(0, AT_ONCE));
}

/** Return what is decided for a row: here, or before. */
const known = ({ drawn, gold, golds, note }) =>
  decisions.get(drawn) ?? { gold: gold ?? "", golds: golds ?? {}, note: note ?? "" };

/** Show a row of the sample. */
async function show(drawn) {
  current = drawn;
  if (drawn === null) return finish();
  state.go({ at: drawn, result: null }, "step");
  if (!rows.has(drawn)) fetched([drawn]);
  let row = rows.get(drawn);
  if (row instanceof Promise) {
    try {
      row = await row;
    } catch (error) {
      if (current === drawn)
        say(error.message, { isError: true, button: "Show the next row", act: () => show(drawn) });
      return;
    }
    if (current !== drawn) return;
  }
  render(row);
  setTimeout(readAhead);
}

function render(row) {
  page("desk");
  const said = known(row);
  byId("sample-text").replaceChildren(
    ...(row.is_here === false ? [el("p", { class: "muted" }, row.why)] : input(row, run)),
    row.prompt?.length
      ? el("details", { class: "part" }, el("summary", null, "Prompt as sent"), prompt(row.prompt))
      : "",
  );
  byId("sample-stage").scrollTop = 0;
  const at = order().indexOf(row.drawn);
  byId("sample-heard").replaceChildren(
    data("span", byId("sample-text").querySelector("dd")?.textContent.slice(0, 500)),
  );
  byId("sample-title").textContent = `Row ${at + 1} of the sample`;
  byId("sample-given").textContent = done.has(row.drawn)
    ? "You have labelled this row; Enter keeps what is picked."
    : "";
  if (chooser) chooser.show(said.gold);
  else fields.values = info.fields?.length ? said.golds : { "": said.gold };
  byId("sample-note").value = said.note;
  byId("sample-note-line").hidden = !said.note;
  byId("sample-next").disabled = false;
  progress();
  focus();
}

function focus() {
  if (chooser && !chooser.isSearch) byId("sample-title").focus({ preventScroll: true });
  else if (matchMedia("(pointer: coarse)").matches)
    byId("sample-title").focus({ preventScroll: true }); // no keyboard on the screen
  else (chooser ?? fields).focus();
}

/** Show one part of the view: the desk, its end, the form that draws rows, or the outcome. */
function page(name) {
  for (const each of ["desk", "end", "draw", "outcome"]) byId(`sample-${each}`).hidden = each !== name;
  byId("sample-progress").hidden = name === "draw";
  byId("sample-result").hidden = name === "outcome" || name === "end";
  if (name === heardOn) return;
  unlisten?.();
  heardOn = name;
  unlisten =
    { desk: () => keys.listen("Labelling", entries()), end: () => keys.listen("Labelling", afterwards()) }[name]?.() ??
    null;
}

function progress() {
  const drawn = order();
  const count = drawn.filter((each) => done.has(each)).length;
  narrowing.show(info, { total: drawn.length, count, skipped: skipped.size });
  byId("sample-undo").disabled = !undos.length && !done.has(current);
  sending();
}

const sending = () => narrowing.sending(outbox.unsent, outbox.error);

/** Take what the server says of the interval: its half-width follows every tenth label, or it would tell of each. */
export function narrowed({ width, width_at: at, widths, how_many_more: more }) {
  if (!info) return;
  info.width = width;
  info.width_at = at;
  info.widths = widths ?? info.widths;
  info.how_many_more = more ?? info.how_many_more;
  if (!byId("view-sample").hidden) progress();
}

/** Send a decision in the background. */
function send(drawn, decision, before) {
  decisions.set(drawn, decision);
  if (isLabelled(decision)) done.add(drawn);
  else done.delete(drawn);
  const value = info.fields?.length ? { golds: decision.golds } : { gold: decision.gold };
  outbox.add(
    "api/sample/label",
    { drawn, ...value, note: decision.note },
    (said) => {
      narrowed(said);
      const last = undos.findLast((each) => each.drawn === drawn && each.decision === decision);
      if (last && said.earlier) last.before = { ...last.before, ...said.earlier, golds: said.earlier.golds ?? {} }; // another tab may have labelled it
    },
    (error) => {
      if (decisions.get(drawn) === decision) {
        decisions.set(drawn, before);
        if (!isLabelled(before)) done.delete(drawn);
      }
      say(error.message, { isError: true, button: "Back to the row", act: () => show(drawn) });
      progress();
    },
  );
}

const isLabelled = ({ gold, golds }) =>
  info.fields?.length ? Object.values(golds).some((value) => value?.trim()) : gold !== "";

const held = () => (rows.get(current) instanceof Promise ? null : rows.get(current));

/** Return what the person has entered. */
function entered() {
  const note = byId("sample-note").value.trim();
  if (chooser) return { gold: chooser.value, golds: {}, note };
  const { values } = fields;
  return info.fields?.length ? { gold: "", golds: values, note } : { gold: values[""], golds: {}, note };
}

function accept() {
  const row = held();
  if (!row) return current === null || rows.has(current) ? undefined : show(current); // it could not be read before
  const decision = entered();
  const wrong = chooser ? (chooser.value ? "" : "Pick a label first, or skip the row with S.") : fields.wrong();
  if (wrong) return say(wrong);
  const before = known(row);
  skipped.delete(current);
  if (!done.has(current) || JSON.stringify(decision) !== JSON.stringify(before)) {
    undos.push({ drawn: current, before, decision });
    send(current, decision, before);
  }
  show(next(current));
}

function skip() {
  if (current === null) return;
  if (!done.has(current)) skipped.add(current);
  const to = next(current);
  if (to === current) say("This is the only row that has no label.");
  show(to);
}

/** Take back the label of this row or, if it has none, the last decision. */
function undo() {
  const row = held();
  const isHere = row && done.has(current) && undos.at(-1)?.drawn !== current;
  const last = isHere ? { drawn: current, before: { gold: "", golds: {}, note: known(row).note } } : undos.pop();
  if (!last) return say("There is no label to take back.");
  send(last.drawn, last.before, decisions.get(last.drawn) ?? known(row));
  say("The label of this row is taken back.");
  show(last.drawn);
}

function note() {
  byId("sample-note-line").hidden = false;
  byId("sample-note").focus();
}

/** Look at the row beside, whether it has a label or not. */
function look(by) {
  const drawn = order();
  const to = drawn[(current === null ? drawn.length : drawn.indexOf(current)) + by];
  if (to !== undefined) show(to);
}

function finish() {
  page("end");
  state.go({ at: null }, "step");
  const left = order().filter((each) => !done.has(each)).length;
  byId("sample-end-title").textContent = left
    ? `${counted(left, "row")} left`
    : `All ${counted(order().length, "row")} are labelled`;
  progress();
  byId("sample-end-result").focus(); // Enter goes on with what comes next
}

const isCommand = (event) => event.shiftKey && chooser?.isAt(event.target) && chooser.isIdle();

const isIdleSearch = (event) => Boolean(chooser?.isAt(event.target) && chooser.isIdle());

function enter(event) {
  const { target } = event;
  if (byId("sample-move").contains(target)) return false;
  if (target === byId("sample-note")) return focus();
  if (target.closest?.("button, summary, a") && !(chooser?.isAt(target) && chooser.confirms(target))) return false;
  return accept();
}

function entries() {
  const shift = chooser && !chooser.isSearch ? "" : chooser ? " (Shift while you search)" : "";
  return [
    ...(chooser?.keys ?? []),
    {
      keys: ["Enter"],
      what: "Take the label and go to the next row",
      act: enter,
      typing: (event) => !event.target.matches("textarea"),
    },
    {
      keys: ["Ctrl+Enter"],
      what: "The same, from a text of several lines",
      act: accept,
      typing: () => true,
      isOff: () => Boolean(chooser),
    },
    { keys: ["u"], what: `Undo: take the last label back${shift}`, act: undo, typing: isCommand },
    { keys: ["Ctrl+z"], what: "", act: undo, typing: isIdleSearch },
    { keys: ["s"], what: `Skip: the row comes again at the end${shift}`, act: skip, typing: isCommand },
    { keys: ["n"], what: `Note on the row${shift}`, act: note, typing: isCommand },
    { keys: ["ArrowLeft"], what: "Look at the row before", act: () => look(-1), typing: isIdleSearch },
    { keys: ["ArrowRight"], what: "Look at the row after", act: () => look(1), typing: isIdleSearch },
    {
      keys: ["Escape"],
      what: "Leave a field",
      typing: () => true,
      act: (event) => (event.target === byId("sample-note") ? focus() : event.target.blur()),
    },
  ];
}

const afterwards = () => [
  { keys: ["u"], what: "Undo: take the last label back", act: undo },
  { keys: ["ArrowLeft"], what: "Look at the row before", act: () => look(-1) },
];

function editor() {
  const labels = info.labels ?? run.labels;
  chooser = fields = null;
  if (labels && !info.fields?.length) chooser = new Chooser(labels, "Label", () => {});
  else fields = new Fields(info.fields?.length ? info.fields : [""], run.schema, {}, "sample");
  byId("sample-editor").replaceChildren((chooser ?? fields).element);
  byId("sample-desk").classList.toggle("is-search", Boolean(chooser?.isSearch));
  byId("sample-hint").textContent = !chooser
    ? "Esc leaves the field: then the letters are commands."
    : chooser.isSearch
      ? "Type to search. Enter takes the first, Enter again goes on."
      : "";
  for (const [id, key] of [
    ["undo", "U"],
    ["skip", "S"],
    ["note-button", "N"],
  ])
    byId(`sample-${id}`).querySelector("kbd").textContent = chooser?.isSearch ? `⇧${key}` : key;
}

function take(said) {
  info = said;
  const own = new Set(info.rows.filter((row) => row.is_done).map((row) => row.drawn));
  for (const each of own) if (!decisions.has(each)) done.add(each);
  for (const each of [...done]) if (!own.has(each) && !decisions.has(each)) done.delete(each);
}

async function load() {
  try {
    take(await ask("api/sample"));
    if (info.exists) editor();
    return true;
  } catch (error) {
    complain(error);
    loading = null;
    return false;
  }
}

/** Bring the view in line with the address. */
export async function follow() {
  loading ??= load();
  if (!(await loading) || state.view() !== "sample") return;
  if (!info.exists) return drawing();
  if (state.get("result")) {
    page("outcome");
    progress();
    return outcome.follow(run);
  }
  const at = state.numeric("at");
  if (at !== null && at === current) return byId("sample-desk").hidden ? show(at) : undefined;
  if (at !== null && order().includes(at)) return show(at);
  if (byId("sample-end").hidden || state.get("at")) return show(current ?? next(null));
  return page("end");
}

/** Stop hearing keys: another view is shown. */
export function leave() {
  unlisten?.();
  unlisten = null;
  heardOn = "";
  byId("sample-desk").hidden = true; // shown anew when the person comes back
}

/** Another tab, or this one, has labelled a row or drawn some: ask what is done. */
export function heard() {
  if (!info) return;
  clearTimeout(refresh);
  refresh = setTimeout(async () => {
    if (outbox.unsent) return heard();
    for (const each of rows.keys()) if (each !== current && done.has(each)) rows.delete(each); // read anew when they are looked at
    for (const each of decisions.keys()) if (each !== current) decisions.delete(each); // the server has them
    try {
      const wasThere = info.exists;
      take(await ask("api/sample"));
      if (!wasThere && info.exists) editor();
      if (byId("view-sample").hidden || state.get("result")) return undefined;
      return wasThere ? progress() : follow();
    } catch (error) {
      return complain(error);
    }
  }, HEARD_MS);
}

/** Show the form that draws rows. */
function drawing() {
  page("draw");
  draw.show(info);
}

/** Begin with the rows that were drawn. */
function begin(said) {
  take(said);
  current = null;
  skipped.clear();
  editor();
  state.go({ result: null, at: null }, "replace");
  return show(next(null));
}

function result() {
  if (outbox.unsent)
    return say(`${counted(outbox.unsent, "label")} still on the way: the estimate can be shown when all are saved.`);
  state.go({ result: "1", at: null });
}

/** Go to the page of a later start with the labels that are not saved: they travel in the part of its link that no server sees. */
function move() {
  const link = byId("sample-link").value.match(/https?:\/\/[^\s/]+\/[\w-]+/)?.[0];
  if (!link) return say("Paste the whole link that `batcher review` has printed.");
  isMoving = true;
  const kept = JSON.stringify({ keyword: run.keyword, labels: outbox.bodies });
  return location.assign(`${link}/?view=sample#${MOVED}${encodeURIComponent(kept)}`);
}

/** Take labels that an older page could not save. */
function arrive() {
  const { hash } = location;
  if (!hash.startsWith(`#${MOVED}`)) return;
  history.replaceState(history.state, "", location.pathname + location.search);
  const { keyword, labels } = JSON.parse(decodeURIComponent(hash.slice(MOVED.length + 1)));
  const count = counted(labels.length, "label");
  if (keyword !== run.keyword)
    return say(
      `${count} of the run '${keyword}' came with this link, which is of '${run.keyword}': they are not saved. The history of your browser has the link that holds them.`,
      { isError: true },
    );
  let waiting = labels.length;
  const taken = () => {
    waiting -= 1;
    if (waiting) return;
    say(`Saved from the page before: ${count}.`);
    heard();
  };
  for (const each of labels) outbox.add("api/sample/label", each, taken, complain);
}

export function start(about) {
  run = about;
  outbox.onChange = sending;
  arrive();
  addEventListener("beforeunload", (event) => {
    if (outbox.unsent && !isMoving) event.preventDefault();
  });
  byId("sample-move").addEventListener("submit", move);
  for (const [id, act] of [
    ["next", accept],
    ["skip", skip],
    ["undo", undo],
    ["note-button", note],
    ["retry", () => outbox.retry()],
  ])
    byId(`sample-${id}`).addEventListener("click", act);
  for (const id of ["sample-result", "sample-end-result"]) byId(id).addEventListener("click", result);
  for (const id of ["sample-again", "sample-end-look"])
    byId(id).addEventListener("click", () => (state.go({ result: null }), look(-1)));
  for (const id of ["sample-draw-more", "sample-end-draw"]) byId(id).addEventListener("click", drawing);
  draw.start(begin, () => (state.go({ result: null }), show(next(null))));
}
