// How far the labelling is: rows done, the interval's half-width as it narrows, and what is not saved yet.
// Invariant: it never shows where the interval lies, because labelling stays blind.

import { byId, svg } from "./dom.js";
import { counted, number } from "./texts.js";

/** Draw how the interval's half-width has narrowed; where the interval lies stays hidden. */
function curve(widths) {
  if (widths.length < 2) return null;
  const [most, last] = [Math.max(...widths.map(([, width]) => width)), widths.at(-1)];
  const place = ([count, width]) => [
    2 + (96 * (count - widths[0][0])) / Math.max(1, last[0] - widths[0][0]),
    26 - (23 * width) / most,
  ];
  const points = widths
    .map((each) =>
      place(each)
        .map((value) => value.toFixed(1))
        .join(","),
    )
    .join(" ");
  const [x, y] = place(last);
  return svg(
    "svg",
    {
      class: "curve",
      viewBox: "0 0 100 28",
      role: "img",
      "aria-label": `Half-width of the interval, from ${widths[0][1].toFixed(1)} to ${last[1].toFixed(1)} points`,
    },
    svg("line", { x1: "2", x2: "98", y1: "26", y2: "26", class: "base" }),
    svg("polyline", { points, fill: "none" }),
    svg("circle", { cx: x, cy: y, r: "2.5" }),
  );
}

/** Show how far it is: `count` of `total` rows have a label. */
export function show(info, { total, count, skipped }) {
  byId("sample-bar").max = total || 1;
  byId("sample-bar").value = count;
  const later = skipped ? `, ${number(skipped)} skipped` : "";
  byId("sample-count").textContent = `${number(count)} of ${number(total)} labelled${later}`;
  const hasWidth = info.width !== null && info.width !== undefined;
  const at = info.width_at ? `, at ${info.width_at} labels` : "";
  byId("sample-width").textContent = hasWidth ? `interval ± ${info.width.toFixed(1)} points` : "";
  byId("sample-width").title = `Half the width of the 95% interval of the accuracy, in percentage points${at}`;
  byId("sample-curve").replaceChildren(...[curve(info.widths ?? [])].filter(Boolean));
  byId("sample-more").textContent = info.how_many_more ?? "";
  const problem = [info.problem, ...(info.notes ?? [])].filter(Boolean).join(" ");
  byId("sample-problem").textContent = problem;
  byId("sample-problem").hidden = !problem;
}

/** Say what is on its way to the server, and why it is not there yet. */
export function sending(count, error) {
  const place = byId("sample-sent");
  if (error)
    place.textContent = `${counted(count, "label")} not saved yet: ${error.message} They are kept here and sent again.`;
  else place.textContent = count > 1 ? `Saving ${counted(count, "label")}` : "";
  place.classList.toggle("is-error", Boolean(error));
  byId("sample-retry").hidden = !error;
  byId("sample-move").hidden = !["away", "shut"].includes(error?.kind);
}
