// How numbers, times and states are written.
// Invariant: pure functions; a state has the same word everywhere.

const numbers = new Intl.NumberFormat("en-US");
const hour = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const date = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric" });

export const number = (value) => numbers.format(value);

export const counted = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

/** Return a share, a confidence or an agreement as a percentage. */
export const percent = (share) => `${Math.round(share * 100)}%`;

export function money(usd) {
  if (usd === null || usd === undefined) return "unknown";
  if (usd === 0) return "$0";
  return usd < 0.01 ? `$${usd.toPrecision(2)}` : `$${usd.toFixed(usd < 1 ? 3 : 2)}`;
}

/** Return a duration given in seconds. */
export function duration(seconds) {
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.round(hours / 24)} days`;
}

/** Return how long a request took, given in seconds. */
export const latency = (seconds) =>
  seconds === null || seconds === undefined ? "" : `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;

/** Return a moment given in seconds since 1970. */
export function moment(epoch) {
  const [at, now] = [new Date(epoch * 1000), new Date()];
  const isToday = at.toDateString() === now.toDateString();
  const on = isToday ? "today" : (at.getFullYear() === now.getFullYear() ? day : date).format(at);
  return `${on} ${hour.format(at)}`.replaceAll(" ", "\u00a0");
}

/** Return the fields of an answer that is a JSON object, each as text, or null. */
export function fieldsOf(answer) {
  if (!answer?.startsWith("{")) return null;
  try {
    const found = JSON.parse(answer);
    return Object.fromEntries(
      Object.entries(found).map(([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)]),
    );
  } catch {
    return null; // text that only looks like one, or is cut
  }
}

/** Return words of the server as a sentence. */
export const sentence = (said) => {
  const text = /^batcher\b/.test(said) ? said : said.charAt(0).toUpperCase() + said.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
};

/** Return an answer that is a vector in words: it is stored as base64 of numbers of four bytes. */
export const vector = (answer) => (answer ? `a vector of ${number(Math.floor((answer.replace(/=+$/, "").length * 3) / 16))} numbers` : "");

/** Return fields on one line. */
export const onOneLine = (fields) =>
  Object.entries(fields)
    .map(([name, value]) => `${name}: ${value}`)
    .join(" · ");

/** Return an answer on one line: its fields if it has some. */
export function shortly(answer) {
  const fields = fieldsOf(answer);
  return fields ? onOneLine(fields) : (answer ?? "");
}

/** The word of each status; the empty one is a row that has no result yet. */
export const STATUS = { ok: "ok", invalid: "invalid", error: "error", "": "no answer yet" };

/** Return the status as the filters name it. */
export const inFilter = (status) => status || "none";
