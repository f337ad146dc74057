// Says how many corrections the files do not have yet, and lets them be written.
// Invariant: the number is the server's; it is asked for after each decision.

import { ask, post } from "./api.js";
import { byId } from "./dom.js";
import { complain, say } from "./messages.js";
import { counted } from "./texts.js";

const AFTER_MS = 300; // decisions in a row are one question
let timer = 0;

export function show(pending) {
  byId("files").hidden = !pending;
  byId("files-pending").textContent = pending ? `${counted(pending, "change")} not in the files yet` : "";
}

/** Ask how many are pending. */
export function recount() {
  clearTimeout(timer);
  timer = setTimeout(
    () =>
      ask("api/run")
        .then((run) => show(run.pending))
        .catch(complain),
    AFTER_MS,
  );
}

async function write() {
  const button = byId("files-write");
  button.disabled = true;
  try {
    say((await post("api/files", {})).said);
    show((await ask("api/run")).pending);
  } catch (error) {
    complain(error);
  } finally {
    button.disabled = false;
  }
}

export const start = (run) => {
  show(run.pending);
  byId("files-write").addEventListener("click", write);
};
