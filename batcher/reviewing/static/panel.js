// The panel beside a list: opens a row, steps to the next, and holds the correction of the one that it shows.
// Invariant: the address says which row is open; closing brings the focus back to the row's line.

import { Refused, post } from "./api.js";
import { Correction } from "./correct.js";
import { byId, data, el } from "./dom.js";
import * as keys from "./keys.js";
import { complain, say } from "./messages.js";
import * as row from "./row.js";
import * as rowset from "./rowset.js";
import * as state from "./state.js";
import { STATUS, number, sentence } from "./texts.js";

const AHEAD = 20; // rows read before they are opened
const SLOW_MS = 120; // a row that takes longer is said to be on its way

let run;
let view = () => null; // the view whose lines the panel steps along
let decided = () => {}; // told of each row that was decided on here
let shown = null; // the row in the panel
let wanted = null; // its position, also while it is on its way
let correction = null;
let unlisten = null;
let unlistenCorrection = null;

export const isOpen = () => wanted !== null;

/** Open a row; `isStep` if the panel goes on from another one. */
export function open(position, isStep = false) {
  state.go({ row: position }, isStep || isOpen() ? "step" : "push");
}

export const close = () => state.leave({ row: null });

/** Go to the row `by` lines on. */
export async function step(by) {
  const next = await view()?.beside(wanted, by);
  if (next !== null && next !== undefined) open(next, true);
  else say(by > 0 ? "This is the last row." : "This is the first row.");
}

function readAhead() {
  const next = view()?.after(wanted, AHEAD) ?? [];
  rowset.ahead(next).catch(() => null); // a row that is not here is asked for when it is opened
}

function render(found) {
  shown = found;
  byId("row-title").textContent = `Row ${number(found.position)}`;
  row.show(found, run);
  byId("row-scroll").scrollTop = 0;
  byId("row-heard").replaceChildren(
    `Row ${number(found.position)}: `,
    data("span", (run.task !== "embedding" && found.answer) || STATUS[found.status]),
  );
  byId("row").removeAttribute("aria-busy");
  byId("row-undo").hidden = !found.is_corrected;
  byId("row-correct").hidden = run.task === "embedding";
  byId("row-correct").disabled = found.result === null;
  byId("row-correct").title = found.result === null ? "A row can be corrected once it has a result." : "";
}

async function show(position) {
  const isOther = wanted !== position;
  wanted = position;
  const found = rowset.here(position);
  if (found) render(found);
  else {
    const slow = setTimeout(() => {
      byId("row-title").textContent = `Row ${number(position)}`;
      byId("row").setAttribute("aria-busy", "true");
    }, SLOW_MS);
    try {
      const read = await rowset.read(position);
      if (wanted !== position) return;
      render(read);
    } catch (error) {
      if (wanted !== position) return;
      shown = null;
      byId("row").removeAttribute("aria-busy");
      byId("row-undo").hidden = byId("row-correct").disabled = true;
      byId("row-title").textContent = `Row ${number(position)}`;
      byId("row-body").replaceChildren(el("p", { class: "why" }, sentence(error.message)));
      if (!(error instanceof Refused)) throw error;
    } finally {
      clearTimeout(slow);
    }
  }
  if (isOther) setTimeout(readAhead); // after the row is on the screen
}

function hide() {
  const before = wanted;
  wanted = shown = null;
  byId("row").hidden = true;
  document.body.classList.remove("has-row");
  unlisten?.();
  unlisten = null;
  if (byId("row").contains(document.activeElement) || document.activeElement === document.body)
    view()?.lines()?.focus(before);
}

/** Bring the panel in line with the address. */
export function follow() {
  const position = state.numeric("row");
  if (position === wanted) return;
  if (correction) {
    if (correction.isChanged) {
      const left = wanted;
      say(`The correction of row ${number(left)} was not saved.`, {
        button: `Back to row ${number(left)}`,
        act: () => open(left),
      });
    }
    leave();
  }
  if (position === null) return hide();
  if (!isOpen()) {
    byId("row").hidden = false;
    document.body.classList.add("has-row");
    unlisten = keys.listen("The open row", ENTRIES);
  }
  show(position);
  if (!byId("row").contains(document.activeElement)) byId("row-title").focus({ preventScroll: true });
}

/** Show the open row anew if somebody decided on it, unless it is being corrected. */
export async function renew(position) {
  rowset.forget(position);
  if (wanted !== position || correction) return;
  const before = shown;
  const now = await rowset.read(position);
  const isSame = before?.result === now.result && before.sample?.gold === now.sample?.gold; // it was decided here
  if (wanted === position && !correction && !isSame) render(now);
}

/** New answers have come, perhaps to the open row. */
export async function answered() {
  rowset.forgetOpen();
  if (shown && shown.result === null) await renew(shown.position);
}

function leave() {
  const hadFocus = correction?.element.contains(document.activeElement);
  correction?.close();
  correction = null;
  unlistenCorrection?.();
  unlistenCorrection = null;
  document.body.classList.remove("is-correcting");
  if (hadFocus) byId("row-title").focus({ preventScroll: true });
}

/** Show a row as the server has it after a decision. */
function take({ row: found, said }, isNew = true) {
  rowset.replace(found);
  leave();
  if (wanted === found.position) render(found);
  say(said, found.is_corrected && isNew ? { button: "Undo", act: () => undo(found) } : {});
  decided(found);
}

/** Open the form for the row that is shown. */
export function correct() {
  if (!shown || correction) return correction?.focus();
  if (shown.result === null) return say("A row can be corrected once it has a result.");
  if (run.task === "embedding") return say("A vector cannot be corrected by hand.");
  const { position } = shown;
  const saved = ({ row: found, said, isKept }) =>
    isKept
      ? take({ row: found, said }, false)
      : take({ row: found, said: `Row ${number(position)} is corrected: ${said.replace(/\.$/, "")}.` });
  correction = new Correction(shown, run, saved, leave);
  byId("row-body").prepend(correction.element);
  byId("row-scroll").scrollTop = 0;
  document.body.classList.add("is-correcting");
  const mine = correction;
  unlistenCorrection = keys.listen(
    "The correction",
    [
      ...mine.keys,
      {
        keys: ["Enter"],
        what: "Save (first take the label found, if you search)",
        act: (event) => confirm(event, mine),
      },
      { keys: ["Ctrl+Enter"], what: "Save from a text of several lines", typing: () => true, act: () => mine.save() },
      { keys: ["Escape"], what: "Cancel", typing: () => true, act: leave },
    ],
    true,
  );
  correction.focus();
}

function confirm(event, mine) {
  if (event.target.closest("button") && !mine.chooser?.confirms(event.target)) return false;
  if (event.target.closest("button") && !mine.chooser?.isAt(event.target)) return false;
  return mine.save();
}

/** Take back the correction of a row. */
export async function undo(of = shown) {
  if (!of) return;
  if (!of.is_corrected) return say(`Row ${number(of.position)} has no correction to take back.`);
  try {
    const { row: found, said } = await post("api/undo", { position: of.position, seen: of.result, why: "" });
    take({ row: found, said: `Row ${number(of.position)} has the model's answer again: ${said.replace(/\.$/, "")}.` });
  } catch (error) {
    complain(error);
    if (error.kind === "changed") take({ row: error.body.row, said: "The row is shown as it is now." }, false);
  }
}

const ENTRIES = [
  { keys: ["j", "ArrowDown"], what: "Next row", act: () => void step(1) },
  { keys: ["k", "ArrowUp"], what: "Previous row", act: () => void step(-1) },
  { keys: ["e"], what: "Correct the answer", act: () => void correct() },
  { keys: ["u"], what: "Undo the correction", act: () => void undo() },
  {
    keys: ["Escape"],
    what: "Close the row",
    act: () => (byId("filters").contains(document.activeElement) ? false : close()),
  },
];

/**
 * @param {object} about the run.
 * @param {function} current returns the view that is shown: `beside`, `after` and `lines`.
 * @param {function} tell called with each row that was decided on here.
 */
export function start(about, current, tell) {
  run = about;
  view = current;
  decided = tell;
  byId("row-next").addEventListener("click", () => step(1));
  byId("row-previous").addEventListener("click", () => step(-1));
  byId("row-correct").addEventListener("click", correct);
  byId("row-undo").addEventListener("click", () => undo());
  byId("row-close").addEventListener("click", close);
}
