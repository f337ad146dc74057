// Hears what happens elsewhere: the run at work, and decisions in other tabs; shows the run in the strip at the top.
// Invariant: a tab that is not seen holds no connection, because a browser allows six to one server; seen again, it asks
// for everything that may have changed.

import { post } from "./api.js";
import { byId } from "./dom.js";
import { complain, say } from "./messages.js";
import { counted, duration, money, number } from "./texts.js";

const LOST_MS = 5000; // without the stream, before people are told

let stream = null;
let lost = 0;
let listeners = {};
let last = null;

function words(live) {
  const parts = [`${number(live.done)} of ${counted(live.rows, "row")}`];
  if (live.rate) parts.push(`${live.rate < 10 ? live.rate.toFixed(1) : number(Math.round(live.rate))} rows/s`);
  if (live.in_flight) parts.push(`${number(live.in_flight)} in flight`);
  if (live.cost_usd !== null && live.cost_usd !== undefined) parts.push(money(live.cost_usd));
  if (live.left_s && !live.paused) parts.push(`${duration(live.left_s)} left`);
  return parts.join(" · ");
}

function show(live) {
  byId("strip").hidden = !live.at_work;
  if (!live.at_work) {
    if (last?.at_work) say(live.said ? `The run has ended: ${live.said}` : "The run has ended.");
    return;
  }
  byId("strip-bar").max = live.rows || 1;
  byId("strip-bar").value = live.done;
  byId("strip-words").textContent = words(live);
  byId("strip-failed").textContent = [
    live.invalid && `${number(live.invalid)} invalid`,
    live.error && counted(live.error, "error"),
  ]
    .filter(Boolean)
    .join(" · ");
  byId("strip-pauses").textContent = live.pauses.join(" ");
  byId("strip-state").textContent = live.paused ? "Paused" : live.state === "planning" ? "Planning" : "Running";
  byId("strip").classList.toggle("is-paused", live.paused);
  byId("pause").textContent = live.paused ? "Resume" : "Pause";
}

function open() {
  if (stream || document.hidden) return;
  stream = new EventSource("api/live");
  stream.addEventListener("open", () => {
    clearTimeout(lost);
    lost = 0;
    byId("lost").hidden = true;
  });
  stream.addEventListener("error", () => {
    lost ||= setTimeout(() => (byId("lost").hidden = false), LOST_MS);
    if (stream?.readyState === EventSource.CLOSED) {
      stream = null; // the browser gave up
      setTimeout(open, LOST_MS);
    }
  });
  stream.addEventListener("live", (event) => {
    const live = JSON.parse(event.data);
    show(live);
    listeners.live(live, last);
    last = live;
  });
  stream.addEventListener("row", (event) => listeners.row(JSON.parse(event.data).position));
  stream.addEventListener("sample", (event) => listeners.sample(JSON.parse(event.data).drawn));
  stream.addEventListener("width", (event) => listeners.width(JSON.parse(event.data)));
  stream.addEventListener("plan", () => listeners.plan());
}

function seen() {
  if (document.hidden) {
    stream?.close();
    stream = null;
    clearTimeout(lost);
    lost = 0;
    return;
  }
  if (stream) return;
  open();
  listeners.back();
}

async function pause() {
  const button = byId("pause");
  button.disabled = true;
  try {
    say((await post(last?.paused ? "api/resume" : "api/pause", {})).said);
  } catch (error) {
    complain(error);
  } finally {
    button.disabled = false;
  }
}

/** @param {{live: function, row: function, sample: function, width: function, plan: function, back: function}} given called at each event. */
export function start(given) {
  listeners = given;
  byId("pause").addEventListener("click", pause);
  document.addEventListener("visibilitychange", seen);
  addEventListener("pagehide", () => stream?.close());
  open();
}
