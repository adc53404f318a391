// One answer on the page: to read or to dissect, its strip, its figures, and what can be done with it.

import { copy, el, word } from "./dom.js";
import { Dissection } from "./dissection.js";
import { Growing } from "./growing.js";
import { Strip } from "./strip.js";
import { LEVELS, meanBits } from "./surprise.js";
import { turning } from "./versions.js";

/**
 * @typedef {import("./conversation.js").Turn} Turn
 * @typedef {import("./surprise.js").Token} Token
 * @typedef {{retry: (turn: Turn) => void, edit: (turn: Turn, text: string) => void, choose: (turn: Turn) => void,
 *   prompt: (turn: Turn) => void, versions: (turn: Turn) => Turn[]}} Actions
 */

const ENDS = { length: "Stopped at the length limit.", stopped: "Stopped." };

export class AnswerView {
  /**
   * @param {Turn} turn
   * @param {Token[]} tokens
   * @param {Actions} actions
   * @param {import("./note.js").Note} note
   */
  constructor(turn, tokens, actions, note) {
    this.turn = turn;
    this.tokens = tokens;
    this.actions = actions;
    this.note = note;
    this.prose = el("div", { class: "prose" });
    this.growing = new Growing(this.prose);
    this.strip = new Strip(tokens, (n) => this.point(n, this.strip), (n) => this.pick(n));
    this.thoughts = el("p");
    const folded = el("details", { class: "thoughts", hidden: true }, el("summary", {}, "Thoughts"), this.thoughts);
    this.reading = el("div", {}, folded, this.prose);
    this.body = el("div", { class: "body" }, this.reading);
    this.foot = el("footer");
    this.element = el("article", { class: "answer", "aria-label": "Answer" }, this.body, this.strip.element, this.foot);
    this.dissection = null;
    this.redraw();
  }

  /** Shows what came since. */
  grow() {
    if (this.dissection) this.dissection.grow();
    else this.growing.show(this.turn.content);
    this.thoughts.textContent = this.turn.thoughts ?? "";
    this.thoughts.parentElement.hidden = !this.turn.thoughts;
    this.strip.element.hidden = !this.tokens.length;
    this.strip.draw();
  }

  /** Shows everything: text, figures and actions. */
  redraw() {
    this.grow();
    const writing = !this.turn.finish;
    this.element.setAttribute("aria-busy", String(writing));
    this.element.classList.toggle("writing", writing);
    if (this.tokens.length) this.strip.describe();
    this.foot.replaceChildren(...this.end(), ...(writing ? [] : [this.figures(), this.bar()]));
  }

  /** Points at token `n`, from the text or from the strip. @param {number | null} n @param {Dissection | Strip} from */
  point(n, from) {
    this.strip.mark(n);
    this.dissection?.mark(n);
    if (n === null) return this.note.hide();
    const place = `token ${n + 1} of ${this.tokens.length}`;
    return this.note.show(this.tokens[n], place, () => from.place(n), this.body);
  }

  /** Opens the dissection at a token. @param {number} n */
  pick(n) {
    if (!this.dissection) this.toggle();
    this.dissection.focus(n);
  }

  toggle() {
    this.note.hide();
    if (this.dissection) {
      this.dissection = null;
      this.body.replaceChildren(this.reading);
    } else {
      this.dissection = new Dissection(this.tokens, (n) => this.point(n, this.dissection));
      this.body.replaceChildren(this.dissection.element, legend());
    }
    this.redraw();
  }

  end() {
    const { finish, error, content } = this.turn;
    if (finish === "failed") return [el("p", { class: "problem", role: "alert" }, error ?? "This failed.")];
    if (finish === "stop" && !content) return [el("p", { class: "end" }, "The answer is empty.")];
    return finish && ENDS[finish] ? [el("p", { class: "end" }, ENDS[finish])] : [];
  }

  figures() {
    const { tokens = 0, first = 0, seconds = 0 } = this.turn.stats ?? {};
    const figures = [];
    if (tokens) figures.push([tokens.toLocaleString("en"), tokens === 1 ? "token" : "tokens"]);
    if (tokens > 1 && seconds > 0) figures.push([rate((tokens - 1) / seconds), "tokens/s"]);
    if (first) figures.push([`${first.toFixed(2)} s`, "to the first"]);
    if (this.tokens.length) figures.push([meanBits(this.tokens).toFixed(2), "bits per token"]);
    return el("p", { class: "figures" }, ...figures.map(([value, name]) => el("span", {}, el("b", {}, value), ` ${name}`)));
  }

  bar() {
    const copying = word("Copy", () => copy(this.turn.content, copying), { "aria-label": "Copy the answer" });
    const again = this.turn.finish === "failed" ? "Try again" : "Retry";
    const dissect = word(this.dissection ? "Read" : "Dissect", () => this.turnOver(), { class: "word main" });
    return el(
      "div",
      { class: "actions", role: "group", "aria-label": "Answer actions" },
      ...(this.tokens.length ? [dissect] : []),
      word("Prompt", () => this.actions.prompt(this.turn), { "aria-label": "Exact prompt of this answer" }),
      ...(this.turn.content ? [copying] : []),
      word(again, () => this.actions.retry(this.turn)),
      ...turning(this.turn, this.actions),
    );
  }

  /** The button that was pressed is made anew: the focus goes to its successor. */
  turnOver() {
    this.toggle();
    this.foot.querySelector(".main").focus();
  }
}

/** Three figures, and never an exponent. @param {number} perSecond */
function rate(perSecond) {
  return perSecond >= 100 ? Math.round(perSecond).toLocaleString("en") : perSecond.toPrecision(3);
}

function legend() {
  const steps = LEVELS.map(([, label], n) => el("span", {}, el("span", { class: `t t${n}` }, "token"), ` ${label}`));
  return el("p", { class: "legend" }, el("span", {}, "probability"), ...steps);
}
