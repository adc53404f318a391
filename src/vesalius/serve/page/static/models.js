// The server's models: which one answers, and how much of its context is used.

import { byId, el } from "./dom.js";
import { path } from "./conversation.js";

const CHOSEN = "vesalius-model";
const TIGHT = 0.9;

export class Models {
  /** @param {() => void} changed */
  constructor(changed) {
    /** @type {import("./api.js").Model[]} */
    this.all = [];
    this.select = byId("model");
    this.select.addEventListener("change", () => {
      localStorage.setItem(CHOSEN, this.select.value);
      changed();
    });
  }

  /** @param {import("./api.js").Api} api */
  async load(api) {
    this.all = await api.models();
    this.select.replaceChildren(...this.all.map(({ id }) => el("option", { value: id }, id)));
    const chosen = localStorage.getItem(CHOSEN);
    if (this.all.some(({ id }) => id === chosen)) this.select.value = chosen;
    this.select.hidden = this.all.length < 2;
    byId("model-name").textContent = this.all.length === 1 ? this.all[0].id : "";
  }

  /** @returns {import("./api.js").Model | undefined} */
  get current() {
    return this.all.find(({ id }) => id === this.select.value);
  }

  /** Shows how much of the context the conversation takes, as its last answer counted. */
  showUse(conversation) {
    const answer = path(conversation).findLast((turn) => turn.stats?.prompt);
    const room = this.current?.context_length;
    const use = byId("use");
    use.hidden = !answer || !room;
    if (use.hidden) return;
    const taken = answer.stats.prompt + answer.stats.tokens;
    use.textContent = `${taken.toLocaleString("en")} of ${room.toLocaleString("en")} tokens of context`;
    use.classList.toggle("tight", taken > TIGHT * room);
  }
}
