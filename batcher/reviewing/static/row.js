// One row: what went in, what came out, what it cost, and what people said of it.
// Invariant: a step to a row that was read ahead shows it at once; what the person unfolded stays unfolded.

import { byId, data, el } from "./dom.js";
import { badge } from "./list.js";
import { fieldsOf, latency, moment, money, number, percent, shortly, vector } from "./texts.js";

const FOLDED_FROM = 1500; // characters of a text that is shown cut
const OTHERS_FOLDED_FROM = 7; // columns beside the prompt's
const unfolded = new Map(); // part -> whether the person opened it

/** Return a text, of which only the beginning is shown if it is very long. */
export function text(content, attributes = {}) {
  const { class: kind = "", ...rest } = attributes;
  if ((content ?? "").length <= FOLDED_FROM) return data("div", content, { ...rest, class: `text ${kind}` });
  const shown = data("div", `${content.slice(0, FOLDED_FROM)}…`, { ...rest, class: `text ${kind}` });
  const all = el(
    "button",
    { type: "button", class: "quiet", click: () => (shown.replaceChildren(content), all.remove()) },
    `Show all ${number(content.length)} characters`,
  );
  return el("div", null, shown, all);
}

function part(title, ...children) {
  return el("section", { class: "part" }, el("h3", null, title), children);
}

/** Return a part that is folded until the person opens it, once for all rows. `make` is called when it opens. */
function folded(name, title, make, isOpen = false) {
  const details = el("details", { class: "part", open: unfolded.get(name) ?? isOpen });
  const fill = () => details.open && details.children.length === 1 && details.append(...[make()].flat());
  details.append(el("summary", null, title));
  details.addEventListener("toggle", () => {
    unfolded.set(name, details.open);
    fill();
  });
  fill();
  return details;
}

function cells(pairs) {
  return el(
    "dl",
    { class: "cells" },
    pairs.map(([name, content]) =>
      el(
        "div",
        null,
        data("dt", name),
        el("dd", null, content ? text(content) : el("span", { class: "muted" }, "empty")),
      ),
    ),
  );
}

/** Return the pictures that the last question of a prompt shows. */
function pictures(messages) {
  const shown = (messages ?? []).map(({ parts }) => parts.filter((each) => "image" in each)).filter((each) => each.length);
  const last = shown.at(-1);
  return last ? [el("div", { class: "pictures" }, last.map((each) => picture(each.image)))] : [];
}

/** Return the input: pictures, what the prompt reads, then the other columns, folded if there are many. */
export function input(row, run) {
  return [...pictures(row.prompt), ...columns(row, run)];
}

function columns(row, run) {
  const isRead = ([name]) => run.prompt_columns.includes(name);
  const read = row.cells.filter(isRead);
  const others = row.cells.filter((cell) => !isRead(cell));
  if (!read.length || !others.length) return [cells(row.cells)];
  if (others.length < OTHERS_FOLDED_FROM) return [cells(read), el("div", { class: "others" }, cells(others))];
  return [cells(read), folded("others", `${others.length} other columns`, () => cells(others))];
}

function picture(address) {
  if (address.startsWith("data:image/"))
    return el("img", { src: address, alt: "Picture of this row", loading: "lazy" });
  return el("p", { class: "text" }, "Picture (not loaded: it is not on this machine): ", data("span", address));
}

/** Return the messages of a prompt. */
export const prompt = (messages) =>
  messages.map(({ role, parts }) =>
    el(
      "div",
      { class: "said" },
      el("h4", null, role),
      parts.map((each) => ("image" in each ? picture(each.image) : text(each.text))),
    ),
  );

/** Return a table; `isNumber` says of each column whether it is set to the right. */
function table(heads, lines, isNumber = []) {
  const kind = (at) => (isNumber[at] ? { class: "number" } : {});
  return el(
    "div",
    { class: "wide", role: "group", tabindex: "0", "aria-label": `Table: ${heads.join(", ")}` },
    el(
      "table",
      null,
      el(
        "thead",
        null,
        el(
          "tr",
          null,
          heads.map((head, at) => el("th", { scope: "col", ...kind(at) }, head)),
        ),
      ),
      el(
        "tbody",
        null,
        lines.map((line) =>
          el(
            "tr",
            null,
            line.map((cell, at) => el("td", { dir: "auto", ...kind(at) }, cell)),
          ),
        ),
      ),
    ),
  );
}

const or = (value) => (value === null || value === undefined ? "" : number(value));

function attempts(row) {
  const isMixed = row.attempts.some((each) => each.model && each.model !== row.attempts[0].model);
  const heads = ["Sent", "Took", "Outcome", isMixed && "Model", "Tokens in", "Tokens out", "Cost"].filter(Boolean);
  const lines = row.attempts.map((each) => [
    moment(each.sent),
    latency(each.seconds),
    each.outcome,
    ...(isMixed ? [each.model ?? ""] : []),
    or(each.prompt_tokens) + (each.cached_tokens ? ` (${number(each.cached_tokens)} cached)` : ""),
    or(each.completion_tokens) + (each.reasoning_tokens ? ` (${number(each.reasoning_tokens)} thinking)` : ""),
    money(each.cost_usd),
  ]);
  const total = row.cost_usd === null || row.cost_usd === undefined ? "" : `, ${money(row.cost_usd)}`;
  const title = `${row.attempts.length} ${row.attempts.length === 1 ? "attempt" : "attempts"}${total}`;
  const isNumber = heads.map((head) => !["Sent", "Outcome", "Model"].includes(head));
  return folded("attempts", title, () => table(heads, lines, isNumber), true);
}

function votes(row) {
  const lines = row.votes.map((each) => [
    each.answer || each.error || "",
    each.status,
    each.model ?? "",
    each.confidence === null || each.confidence === undefined ? "" : percent(each.confidence),
  ]);
  return part(`${row.votes.length} votes`, table(["Answer", "Status", "Model", "Confidence"], lines, [0, 0, 0, 1]));
}

const state = (one) => (one?.answer ? data("strong", shortly(one.answer)) : badge(one?.status ?? ""));

/** Return what changed: of fields only those that differ. */
function change(from, to) {
  const [before, after] = [fieldsOf(from?.answer), fieldsOf(to?.answer)];
  if (!before || !after) return [state(from), " → ", state(to)];
  const names = [...new Set([...Object.keys(before), ...Object.keys(after)])].filter(
    (name) => before[name] !== after[name],
  );
  const value = (text) => (text === undefined ? "nothing" : data("strong", text));
  return names.map((name, at) => [
    at ? ", " : "",
    data("span", name),
    ": ",
    value(before[name]),
    " → ",
    value(after[name]),
  ]);
}

function past(row) {
  const lines = [...row.history]
    .reverse()
    .map(({ at, who, origin, why, is_undo, from, to }) =>
      el(
        "li",
        null,
        el("p", null, is_undo ? "Taken back: " : "Corrected: ", change(from, to)),
        why && data("p", why, { class: "text" }),
        el(
          "p",
          { class: "muted" },
          data("span", who || "unknown"),
          `, ${moment(at)}`,
          origin && origin !== "review" ? [", from ", data("span", origin)] : "",
        ),
      ),
    );
  return part("Corrections", el("ol", { class: "past" }, lines));
}

/** Return an answer with fields as a list. */
const fields = (row) =>
  el(
    "dl",
    { class: "fields" },
    Object.entries(row.fields).map(([name, value]) =>
      el("div", null, data("dt", name), data("dd", value, { class: "text" })),
    ),
  );

function measures(row) {
  const found = [
    row.agreement !== null && row.agreement !== undefined && `agreement ${percent(row.agreement)}`,
    row.confidence !== null && row.confidence !== undefined && `confidence ${percent(row.confidence)}`,
    row.model && `model ${row.model}`,
    row.is_cut && "cut at max_tokens",
    row.finish_reason && row.finish_reason !== "stop" && `finish reason ${row.finish_reason}`,
    row.is_kept && "kept from an earlier question",
  ].filter(Boolean);
  return el("p", { class: "muted" }, data("span", found.join(" · ")));
}

/** Return what the row had before people corrected it since the last time that they took everything back. */
function model(row) {
  const undone = row.history.findLastIndex((each) => each.is_undo);
  return row.history[undone + 1]?.from;
}

function answer(row, run) {
  const said = run.task === "embedding" ? vector(row.answer) : row.answer;
  const last = row.history?.at(-1);
  const before =
    row.is_corrected && last
      ? el(
          "p",
          { class: "was" },
          el("span", { class: "mark by-hand" }, "by hand"),
          " by ",
          data("span", last.who || "unknown"),
          row.fields ? [": ", change(model(row), row)] : [", was ", state(model(row))],
        )
      : null;
  return el(
    "section",
    { class: `part answer ${row.status || "none"}` },
    el("h3", null, "Answer ", badge(row.status)),
    row.fields ? fields(row) : said ? text(said, { class: "big" }) : null,
    row.error && text(row.error, { class: "why" }),
    before,
    measures(row),
  );
}

function sampled({ gold, note, who, at }, row) {
  if (!gold)
    return el(
      "p",
      { class: "muted" },
      "This row is in the sample and has no label by hand yet. Having seen its answer here, you cannot label it blind any more: skip it there, or let somebody else label it.",
    );
  const isSame = gold === row.answer;
  return part(
    "Label by hand",
    el("p", null, data("strong", gold), isSame ? " (the same)" : " (differs from the answer)"),
    note && text(note),
    el("p", { class: "muted" }, data("span", who || "unknown"), at ? `, ${moment(at)}` : ""),
  );
}

/** Show a row in the panel. */
export function show(row, run) {
  const raw = run.task !== "embedding" && row.raw !== null && row.raw !== undefined && row.raw !== row.answer;
  byId("row-body").replaceChildren(
    ...[
      answer(row, run),
      el(
        "section",
        { class: "part" },
        el("h3", null, "Input"),
        row.cells?.length
          ? input(row, run)
          : el("p", { class: "muted" }, row.cells_why || "The cells of this row cannot be read."),
      ),
      row.sample && sampled(row.sample, row),
      row.history?.length > 0 && past(row),
      row.votes?.length > 0 && votes(row),
      raw &&
        folded("raw", "Text as the model wrote it", () => text(row.raw, { class: "raw" }), row.status === "invalid"),
      row.reasoning && folded("reasoning", "Reasoning", () => text(row.reasoning)),
      row.prompt
        ? folded("prompt", "Prompt as sent", () => prompt(row.prompt))
        : row.prompt_why && folded("prompt", "Prompt as sent", () => el("p", { class: "muted" }, row.prompt_why)),
      row.attempts?.length > 0 && attempts(row),
    ].filter(Boolean),
  );
}
