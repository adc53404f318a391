// One question on the page, as it was typed; editing it begins another branch of the conversation.

import { copy, el, fit, word } from "./dom.js";
import { turning } from "./versions.js";

const SHORT = 280;

export class QuestionView {
  /**
   * @param {import("./conversation.js").Turn} turn
   * @param {import("./answer.js").Actions} actions
   */
  constructor(turn, actions) {
    this.turn = turn;
    this.actions = actions;
    this.element = el("article", { class: "question", "aria-label": "Question" });
    this.redraw();
  }

  redraw() {
    const { content } = this.turn;
    const plain = content.length > SHORT || content.includes("\n");
    const copying = word("Copy", () => copy(content, copying), { "aria-label": "Copy the question" });
    this.element.replaceChildren(
      el("p", { class: plain ? "said long" : "said" }, content),
      el(
        "div",
        { class: "actions", role: "group", "aria-label": "Question actions" },
        word("Edit", () => this.edit(), { "aria-label": "Edit the question" }),
        copying,
        ...turning(this.turn, this.actions),
      ),
    );
  }

  edit() {
    const field = el("textarea", { rows: 1, "aria-label": "Edited question", oninput: () => fit(field) });
    field.value = this.turn.content;
    const leave = () => {
      this.redraw();
      this.element.querySelector(".actions button").focus();
    };
    const send = () => (field.value.trim() ? this.actions.edit(this.turn, field.value) : leave());
    field.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Enter" && !event.shiftKey) send();
      else if (event.key === "Escape") leave();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    const buttons = [
      el("button", { type: "button", class: "primary", onclick: send }, "Ask this instead"),
      word("Cancel", leave),
    ];
    this.element.replaceChildren(field, el("div", { class: "actions" }, ...buttons));
    fit(field);
    field.focus();
  }
}
