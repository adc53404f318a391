// What all dialogs share, the question for a key, and the message that passes.

import { byId, el, word } from "./dom.js";

const STAYS = 10_000; // ms

/** Dialogs close by their button and by a click beside them; the browser closes them with Esc. */
export function prepareDialogs() {
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", (event) => {
      const beside = event.target === dialog;
      if (beside || (event.target instanceof Element && event.target.closest("[data-close]"))) dialog.close();
    });
  }
}

/** Asks for a key; null where the person declines. @param {string} why @returns {Promise<string | null>} */
export function askForKey(why) {
  const dialog = byId("key");
  const field = byId("key-field");
  byId("key-why").textContent = why;
  field.value = "";
  dialog.showModal();
  return new Promise((resolve) => {
    const finished = new AbortController();
    const end = (/** @type {string | null} */ key) => {
      finished.abort();
      if (dialog.open) dialog.close();
      resolve(key);
    };
    const { signal } = finished;
    dialog.addEventListener("close", () => end(null), { signal });
    byId("key-form").addEventListener(
      "submit",
      (/** @type {Event} */ event) => {
        event.preventDefault();
        end(field.value.trim() || null);
      },
      { signal },
    );
  });
}

/** Says something for a while, with one thing that can be done about it. */
export class Toast {
  constructor() {
    this.element = byId("toast");
    this.timer = 0;
  }

  /** @param {string} message @param {string} [label] @param {() => void} [act] */
  show(message, label, act) {
    clearTimeout(this.timer);
    const hide = () => this.element.replaceChildren();
    const button = label && act && word(label, () => (hide(), act()));
    const dismiss = word("×", hide, { "aria-label": "Dismiss" });
    this.element.replaceChildren(el("div", {}, el("span", {}, message), ...(button ? [button] : []), dismiss));
    const later = () => {
      if (this.element.matches(":hover, :focus-within")) this.timer = setTimeout(later, STAYS);
      else hide();
    };
    this.timer = setTimeout(later, STAYS);
  }
}
