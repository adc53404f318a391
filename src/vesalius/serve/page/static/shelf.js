// The shelf of conversations: open, search, rename, delete with a way back. On narrow windows it slides over the page.

import { mentions } from "./conversation.js";
import { byId, el, word } from "./dom.js";

/** @typedef {import("./conversation.js").Conversation} Conversation */

const DAY = 86_400_000;

export class Shelf {
  /** @param {import("./chat.js").Chat} chat @param {(message: string, undo: () => void) => void} offerUndo */
  constructor(chat, offerUndo) {
    this.chat = chat;
    this.offerUndo = offerUndo;
    this.element = byId("shelf");
    this.list = byId("conversations");
    this.search = byId("search");
    this.opener = byId("shelf-open");
    this.search.addEventListener("input", () => this.draw());
    this.opener.addEventListener("click", () => this.slide(true));
    byId("shelf-close").addEventListener("click", () => this.slide(false));
    byId("shade").addEventListener("click", () => this.slide(false));
    this.element.addEventListener("keydown", (event) => event.key === "Escape" && this.isOpen && this.slide(false));
  }

  get isOpen() {
    return this.element.classList.contains("open");
  }

  /** @param {boolean} open whether it lies over a narrow window */
  slide(open) {
    if (open === this.isOpen) return;
    this.element.classList.toggle("open", open);
    this.opener.setAttribute("aria-expanded", String(open));
    byId("desk").inert = open;
    byId("shade").hidden = !open;
    (open ? byId("shelf-close") : this.opener).focus();
  }

  draw() {
    const words = this.search.value.trim();
    const found = this.chat.conversations.filter((conversation) => !words || mentions(conversation, words));
    const rows = [];
    let period = "";
    for (const conversation of found) {
      const when = periodOf(conversation.updated);
      if (when !== period) rows.push(el("li", { class: "period" }, when));
      period = when;
      rows.push(this.row(conversation));
    }
    const none = words ? "Nothing found." : "Conversations are kept in this browser.";
    this.list.replaceChildren(...(rows.length ? rows : [el("li", { class: "none" }, none)]));
  }

  /** @param {Conversation} conversation */
  row(conversation) {
    const open = async () => {
      await this.chat.open(conversation);
      this.slide(false);
    };
    const current = conversation === this.chat.current;
    const title = el("button", { type: "button", class: "open-it", onclick: open, "aria-current": current && "page" });
    title.append(conversation.title || "Untitled");
    if (this.chat.isWriting(conversation)) title.append(el("i", { role: "img", "aria-label": "being written" }));
    const row = el(
      "li",
      { class: current ? "current" : undefined },
      title,
      word("Rename", () => this.rename(conversation, row), { "aria-label": `Rename ${conversation.title}` }),
      word("Delete", () => this.remove(conversation), { "aria-label": `Delete ${conversation.title}` }),
    );
    return row;
  }

  /** @param {Conversation} conversation @param {HTMLElement} row */
  rename(conversation, row) {
    const field = el("input", { "aria-label": "Title", maxlength: 120 });
    field.value = conversation.title;
    let left = false; // taking the field away blurs it
    const leave = (title) => {
      if (left) return;
      left = true;
      this.chat.rename(conversation, title);
    };
    field.addEventListener("blur", () => leave(field.value));
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.isComposing) leave(field.value);
      if (event.key === "Escape") leave(conversation.title);
      event.stopPropagation();
    });
    row.replaceChildren(field);
    field.select();
  }

  /** @param {Conversation} conversation */
  async remove(conversation) {
    const restore = await this.chat.remove(conversation);
    this.offerUndo(`Deleted “${conversation.title}”.`, restore);
  }
}

/** @param {number} time */
function periodOf(time) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (time >= midnight) return "Today";
  if (time >= midnight - DAY) return "Yesterday";
  return time >= midnight - 6 * DAY ? "This week" : "Earlier";
}
