// The form in which a person corrects a row's answer.
// Invariant: it sends with the answer that the person saw; what it holds is kept until it is saved or left on purpose.

import { isPassing, post, wait } from "./api.js";
import { Chooser } from "./chooser.js";
import { data, el } from "./dom.js";
import { Fields } from "./fields.js";
import { onOneLine } from "./texts.js";

const WAITS_S = [2, 4, 8, 15];

export class Correction {
  #row;
  #run;
  #seen;
  #saved;
  #isOpen = true;
  #wake = () => {};
  keys = [];

  /**
   * @param {object} row as the person sees it.
   * @param {(said: object) => void} saved called with the server's answer.
   * @param {() => void} left called when the person gives up.
   */
  constructor(row, run, saved, left) {
    this.#row = row;
    this.#run = run;
    this.#seen = row.result;
    this.#saved = saved;
    this.why = el("input", { type: "text", id: "correct-why", dir: "auto", autocomplete: "off", maxlength: "2000" });
    this.said = el("div", { class: "said-here", role: "status" });
    this.button = el("button", { type: "submit", class: "main" }, "Save the correction");
    this.element = el(
      "form",
      {
        class: "correct",
        id: "correct",
        "aria-label": `Correct row ${row.position}`,
        novalidate: true,
        submit: (event) => (event.preventDefault(), this.save()),
      },
      this.#editor(),
      el("label", { for: "correct-why" }, "Why (optional)"),
      this.why,
      this.said,
      el(
        "div",
        { class: "buttons" },
        this.button,
        el("button", { type: "button", click: left }, "Cancel"),
        el("span", { class: "hint" }, this.isLong ? "Ctrl+Enter saves, Esc cancels" : "Enter saves, Esc cancels"),
      ),
    );
  }

  #editor() {
    if (this.#run.labels) {
      this.chooser = new Chooser(this.#run.labels, "Right label", () => this.said.replaceChildren());
      this.keys = this.chooser.keys;
      if (this.#run.labels.includes(this.#row.answer)) this.chooser.show(this.#row.answer);
      return this.chooser.element;
    }
    const before = this.#row.fields ?? (this.#run.fields.length ? {} : { "": this.#row.answer ?? "" });
    const names = this.#run.fields.length ? this.#run.fields : [""];
    this.fields = new Fields(names, this.#run.schema, before, "correct");
    this.isLong = this.fields.isLong;
    return this.fields.element;
  }

  focus() {
    if (this.fields) this.fields.focus();
    else this.chooser.focus();
  }

  /** Whether the person has changed anything. */
  get isChanged() {
    return (
      this.why.value !== "" || (this.fields ? this.fields.isChanged : this.chooser.value !== (this.#row.answer ?? ""))
    );
  }

  close() {
    this.#isOpen = false;
    this.element.remove();
  }

  #body() {
    const { position } = this.#row;
    const common = { position, seen: this.#seen, why: this.why.value };
    if (this.chooser) return { ...common, answer: this.chooser.value };
    if (this.#run.fields.length) return { ...common, fields: this.fields.values };
    return { ...common, answer: this.fields.values[""] };
  }

  #say(...parts) {
    this.said.replaceChildren(el("p", null, parts));
  }

  async save() {
    if (this.button.disabled) return;
    if (this.chooser && !this.chooser.value) return this.#say("Pick a label first.");
    const wrong = this.fields?.wrong();
    if (wrong) return this.#say(wrong);
    this.button.disabled = true;
    for (let tries = 0; this.#isOpen; tries++) {
      try {
        const said = await post("api/correct", this.#body());
        if (this.#isOpen) this.#saved(said);
        return;
      } catch (error) {
        if (!error.kind) throw error;
        if (error.kind === "changed") this.#both(error);
        else if (error.kind === "busy" && this.#isOpen) {
          const seconds = WAITS_S[Math.min(tries, WAITS_S.length - 1)];
          await this.#waits(error, seconds);
          continue;
        } else this.#say(error.message, isPassing(error) ? " Nothing is lost: press Enter to try again." : "");
      }
      break;
    }
    this.button.disabled = false;
  }

  /** Say why it waits, and until when; a button tries at once. */
  async #waits(error, seconds) {
    const now = new Promise((resolve) => (this.#wake = resolve));
    this.said.replaceChildren(
      el("p", null, error.message, ` Not saved yet; the next try is in ${seconds} s.`),
      el("button", { type: "button", click: () => this.#wake() }, "Try now"),
    );
    await Promise.race([wait(seconds), now]);
  }

  /** The row has another answer by now: show both and let the person decide. */
  #both({ message, body }) {
    const { row } = body;
    const shown = (answer, values) => (values ? onOneLine(values) : answer) || "no answer";
    const mine = this.#body();
    const anyway = () => {
      this.#seen = row.result;
      this.said.replaceChildren();
      this.save();
    };
    this.said.replaceChildren(
      el("p", null, message),
      el(
        "dl",
        { class: "both" },
        el("div", null, el("dt", null, "Its answer now"), data("dd", shown(row.answer, row.fields))),
        el("div", null, el("dt", null, "Yours"), data("dd", shown(mine.answer, mine.fields))),
      ),
      el(
        "div",
        { class: "buttons" },
        el("button", { type: "button", click: anyway }, "Save mine"),
        el(
          "button",
          {
            type: "button",
            click: () =>
              this.#saved({ row, said: `Row ${row.position} keeps the answer that it has now.`, isKept: true }),
          },
          "Keep its answer",
        ),
      ),
    );
    this.said.querySelector("button").focus();
  }
}
