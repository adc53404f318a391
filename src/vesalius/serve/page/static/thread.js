// The messages on the screen, kept in step with the conversation; it follows an answer down as long as the reader does.

import { AnswerView } from "./answer.js";
import { path } from "./conversation.js";
import { byId, el } from "./dom.js";
import { QuestionView } from "./question.js";

/** @typedef {import("./conversation.js").Turn} Turn */

const NEAR = 48; // px from the end that count as being at it
const SHARE = 5; // drawing may take one part in so many of the time

export class Thread {
  /**
   * @param {import("./chat.js").Chat} chat
   * @param {import("./answer.js").Actions} actions
   * @param {import("./note.js").Note} note
   * @param {() => Node} blank what stands where no message is
   */
  constructor(chat, actions, note, blank) {
    this.chat = chat;
    this.actions = actions;
    this.note = note;
    this.blank = blank;
    this.home = byId("plate");
    this.scroller = byId("thread");
    this.latest = byId("latest");
    /** @type {Map<string, AnswerView | QuestionView>} */
    this.views = new Map();
    this.following = true;
    this.top = 0; // how far down it was
    this.nextDrawing = 0;
    this.scroller.addEventListener("scroll", () => this.scrolled());
    this.latest.addEventListener("click", () => this.toEnd());
    new ResizeObserver(() => this.following && this.chat.current.nodes.length && this.toEnd()).observe(this.home);
  }

  /** Shows the conversation that is open, at its end. */
  show() {
    const shown = path(this.chat.current);
    this.note.hide();
    const turns = shown.map((turn) => this.view(turn).element);
    this.home.replaceChildren(...(turns.length ? turns : [this.blank()]));
    if (turns.length) this.toEnd();
    else this.scroller.scrollTop = 0;
  }

  /** @param {Turn} turn */
  view(turn) {
    let view = this.views.get(turn.id);
    if (!view && turn.role === "user") view = new QuestionView(turn, this.actions);
    if (!view) view = new AnswerView(turn, this.chat.tokens.get(turn.id) ?? [], this.actions, this.note);
    else view.redraw();
    this.views.set(turn.id, view);
    return view;
  }

  /** An answer got longer: it is drawn with the next frame, or later where drawing has become slow. @param {Turn} turn */
  grow(turn) {
    if (this.pending) return;
    this.pending = requestAnimationFrame((now) => {
      this.pending = 0;
      if (now < this.nextDrawing) return this.grow(turn);
      const view = this.views.get(turn.id);
      const begin = performance.now();
      if (!turn.finish && view instanceof AnswerView) view.grow();
      this.nextDrawing = now + (performance.now() - begin) * SHARE;
      return undefined;
    });
  }

  /** @param {Turn} turn */
  end(turn) {
    this.views.get(turn.id)?.redraw();
  }

  scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    const near = scrollHeight - scrollTop - clientHeight < NEAR;
    if (near || scrollTop < this.top) this.following = near; // text that grew below is no sign that the reader left
    this.top = scrollTop;
    this.latest.hidden = this.following;
    this.note.follow();
  }

  toEnd() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.scrolled();
  }
}

/** What greets a new conversation. @param {string} model @param {(text: string) => void} ask */
export function greeting(model, ask) {
  const ideas = [
    "Why is the sky blue? Answer in three sentences.",
    "Write a Python function that reverses a linked list.",
    "Who was Andreas Vesalius, and what did he correct?",
  ];
  return el(
    "section",
    { class: "greeting" },
    el("h2", {}, "Ask, then look ", el("em", {}, "inside"), " the answer."),
    el("p", {}, `${model || "The model"} answers word by word. The strip below each answer shows where it was sure and where `,
      "it was surprised by its own words; dissect an answer to see what it might have said instead."),
    el("ul", {}, ...ideas.map((idea) => el("li", {}, el("button", { type: "button", onclick: () => ask(idea) }, idea)))),
  );
}
