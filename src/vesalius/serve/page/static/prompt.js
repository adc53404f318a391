// The exact prompt of an answer, as the server's template renders it: special tokens marked, ids on demand.

import { byId, copy, el } from "./dom.js";
import { ApiError } from "./api.js";
import { visible } from "./dissection.js";

const SPECIAL = /^(<[^<>\s]+>|\[\/?[A-Z_]+\])$/; // where the server does not say which tokens are

export class PromptView {
  /** @param {import("./api.js").Api} api */
  constructor(api) {
    this.api = api;
    this.dialog = byId("prompt");
    this.body = byId("prompt-body");
    this.count = byId("prompt-count");
    this.text = "";
    const copying = byId("prompt-copy");
    copying.addEventListener("click", () => copy(this.text, copying));
    byId("prompt-ids").addEventListener("change", (event) => this.body.classList.toggle("ids", event.target.checked));
  }

  /** @param {import("./api.js").Message[]} messages */
  async open(messages) {
    this.fill("", "", []);
    this.dialog.showModal();
    try {
      const { text, tokens } = await this.api.render(messages);
      const count = `${tokens.length.toLocaleString("en")} tokens, ${text.length.toLocaleString("en")} characters`;
      this.fill(text, count, tokens.map(piece));
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.fill("", "", [el("p", { class: "problem", role: "alert" }, error.message)]);
    }
  }

  /** @param {string} text @param {string} count @param {Node[]} nodes */
  fill(text, count, nodes) {
    this.text = text;
    this.count.textContent = count;
    this.body.replaceChildren(...nodes);
    this.body.scrollTop = 0;
  }
}

/** @param {{id: number, text: string, special?: boolean}} token */
function piece({ id, text, special }) {
  const marked = special ?? SPECIAL.test(text);
  return el("span", { class: marked ? "p special" : "p", title: `id ${id}`, "data-id": id }, ...visible(text));
}
