// Keeps rows that were read, and reads the next ones ahead.
// Invariant: a row is shown as it was last read; what somebody decided on is forgotten or replaced, never kept, and no
// row stays without an answer because it was read too early.

import { ask } from "./api.js";

const KEPT = 400;
const AT_ONCE = 50;
const rows = new Map(); // position -> ROW or the promise of one

function keep(position, row) {
  rows.delete(position);
  rows.set(position, row);
  if (rows.size > KEPT) rows.delete(rows.keys().next().value);
  return row;
}

/** Return a row if it is here. */
export function here(position) {
  const row = rows.get(position);
  return row instanceof Promise ? null : (row ?? null);
}

/** Return a row, asked for if it is not here. */
export async function read(position) {
  if (rows.has(position)) {
    const row = await Promise.resolve(rows.get(position)).catch(() => null); // read ahead in vain: asked for again
    if (row) return row;
  }
  const asked = ask(`api/row/${position}`).then(
    (row) => (rows.get(position) === asked ? keep(position, row) : row),
    (error) => {
      if (rows.get(position) === asked) rows.delete(position);
      throw error;
    },
  );
  return keep(position, asked);
}

/** Read rows ahead of being shown. */
export async function ahead(positions) {
  const wanted = positions.filter((position) => !rows.has(position)).slice(0, AT_ONCE);
  if (!wanted.length) return;
  const asked = ask("api/rowset", { at: wanted.join(",") });
  const each = asked.then((said) => new Map(said.rows.map((row) => [row.position, row])));
  for (const position of wanted) {
    const one = each.then((found) => found.get(position) ?? Promise.reject(new Error("not sent")));
    keep(position, one);
    one.then(
      (row) => rows.get(position) === one && keep(position, row),
      () => rows.get(position) === one && rows.delete(position), // the row itself is asked for when it is opened
    );
  }
}

/** Put a row that the server has just sent in place of the one before. */
export const replace = (row) => keep(row.position, row);

/** Forget a row, or all of them: somebody else may have decided. */
export const forget = (position) => (position === undefined ? rows.clear() : rows.delete(position));

/** Forget the rows that had no answer: new answers have come. */
export function forgetOpen() {
  for (const [position, row] of rows) if (row instanceof Promise || row.result === null) rows.delete(position);
}
