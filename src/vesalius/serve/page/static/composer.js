// The message field: Enter sends, Shift+Enter begins a line, and the button stops what is being written.

import { byId, fit } from "./dom.js";

export class Composer {
  /** @param {(text: string) => void} send @param {() => void} stop */
  constructor(send, stop) {
    this.field = byId("draft");
    this.button = byId("send");
    this.send = send;
    this.stop = stop;
    this.busy = false;
    this.field.addEventListener("input", () => this.changed());
    this.field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      if (!this.busy) this.submit();
    });
    this.button.addEventListener("click", () => (this.busy ? this.stop() : this.submit()));
    this.changed();
  }

  submit() {
    const text = this.field.value;
    if (!text.trim()) return;
    this.fill("");
    this.send(text);
  }

  /** @param {string} text */
  fill(text) {
    this.field.value = text;
    this.changed();
    this.field.focus();
  }

  /** @param {boolean} busy whether an answer is being written here */
  setBusy(busy) {
    this.busy = busy;
    this.button.textContent = busy ? "Stop" : "Send";
    this.button.classList.toggle("stop", busy);
    this.changed();
  }

  changed() {
    fit(this.field);
    this.button.disabled = !this.busy && !this.field.value.trim();
  }
}
