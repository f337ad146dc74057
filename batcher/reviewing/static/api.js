// Asks the server, and tells it what a person decided.
// Invariant: a decision in the outbox is sent in the order in which it was made, and leaves it only when the server has
// taken it or said why it never will.

const AWAY =
  "batcher does not answer. Is `batcher review` still running in its terminal? If not, start it again and open the new link.";
const SHUT = "This link is no longer valid. Open the link that `batcher review` printed last.";
const WAITS_S = [1, 2, 4, 8, 15, 30];

export class Refused extends Error {
  /**
   * @param {string} message what happened and what to do.
   * @param {string} kind changed, busy, invalid, gone or internal as the server says; away if nothing answers.
   * @param {object} body what the server said.
   */
  constructor(message, kind, body = {}) {
    super(message);
    this.kind = kind;
    this.body = body;
  }
}

/** Return what a promise of the browser's gives; a connection that is lost is told in words. */
async function reached(promise) {
  try {
    return await promise;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(AWAY, "away");
  }
}

async function responded(path, options) {
  const response = await reached(fetch(path, options));
  if (response.ok) return response;
  if (response.status === 403) throw new Refused(SHUT, "shut");
  const said = await response.text();
  let body = {};
  try {
    body = JSON.parse(said);
  } catch {
    body = { error: said.slice(0, 500), kind: response.status < 500 ? "invalid" : "internal" }; // the guard speaks plain text
  }
  throw new Refused(body.error || `batcher could not answer (HTTP ${response.status}).`, body.kind ?? "internal", body);
}

const answered = async (path, options) => reached((await responded(path, options)).json());

/** Return when a file that the browser is to download can be had. */
export async function check(path) {
  const controller = new AbortController();
  await responded(path, { signal: controller.signal });
  controller.abort(); // the browser asks for it itself
}

/** Return what the server answers; `signal` takes the question back. */
export const ask = (path, parameters, signal) => {
  const query = parameters ? new URLSearchParams(parameters).toString() : "";
  return answered(query ? `${path}?${query}` : path, { signal });
};

/** Post, and return what the server answers. */
export const post = (path, body) =>
  answered(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

export const wait = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

/** Whether another try can succeed without a change. */
export const isPassing = (error) => ["busy", "away", "internal"].includes(error.kind);

/** Decisions on their way to the server, one after the other, in the background. */
export class Outbox {
  #queue = [];
  #isWorking = false;
  #wake = null;
  error = null; // why the first of the queue waits
  onChange = () => {};

  get unsent() {
    return this.#queue.length;
  }

  /** What is still to be sent, in its order. */
  get bodies() {
    return this.#queue.map(({ body }) => body);
  }

  /** Send a decision; `taken` and `refused` hear how it went. */
  add(path, body, taken, refused) {
    this.#queue.push({ path, body, taken, refused });
    this.onChange();
    if (!this.#isWorking) this.#work();
  }

  /** Try again now. */
  retry() {
    this.#wake?.();
  }

  async #work() {
    this.#isWorking = true;
    for (let tries = 0; this.#queue.length;) {
      const first = this.#queue[0];
      try {
        const said = await post(first.path, first.body);
        this.#queue.shift();
        this.error = null;
        tries = 0;
        first.taken(said);
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        if (isPassing(error) || error.kind === "shut") {
          this.error = error;
          this.onChange();
          const seconds = WAITS_S[Math.min(tries++, WAITS_S.length - 1)];
          await Promise.race([wait(seconds), new Promise((resolve) => (this.#wake = resolve))]);
          continue;
        }
        this.#queue.shift();
        this.error = null;
        first.refused(error);
      }
      this.onChange();
    }
    this.#isWorking = false;
  }
}
