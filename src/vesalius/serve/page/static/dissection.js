// An answer as its tokens: each shaded by its surprise, one of them under the pointer or the keyboard.
//
// Depth of shade, weight of the line below and the note say the same, so that no one depends on colour. Only one token can
// be reached with Tab; arrows go on from there, as in any list of options.

import { el } from "./dom.js";
import { spoken } from "./note.js";
import { level } from "./surprise.js";

/** @typedef {import("./surprise.js").Token} Token */

export class Dissection {
  /**
   * @param {Token[]} tokens may grow later
   * @param {(n: number | null) => void} onPoint the token pointed at, or none
   */
  constructor(tokens, onPoint) {
    this.tokens = tokens;
    this.onPoint = onPoint;
    this.current = 0;
    const at = (event) => this.indexOf(event.target);
    this.element = el("div", {
      class: "tokens",
      role: "listbox",
      "aria-label": "Tokens of the answer",
      "aria-orientation": "horizontal",
      onpointerover: (event) => this.onPoint(at(event)),
      onpointerleave: () => this.onPoint(null),
      onfocusin: (event) => this.reach(at(event)),
      onfocusout: () => this.onPoint(null),
      onclick: (event) => this.focus(at(event)),
      onkeydown: (event) => this.press(event),
    });
    this.grow();
  }

  /** Shows the tokens that came since the last call. */
  grow() {
    const from = this.element.childElementCount;
    this.element.append(...this.tokens.slice(from).map((token, n) => piece(token, from + n)));
    this.element.children[this.current]?.setAttribute("tabindex", "0");
  }

  /** @param {number | null} n */
  mark(n) {
    this.element.querySelector(".pointed")?.classList.remove("pointed");
    if (n !== null) this.element.children[n]?.classList.add("pointed");
  }

  /** Where a token is on the screen: the last part of it, where it runs over a line's end. @param {number} n */
  place(n) {
    return [...this.element.children[n].getClientRects()].at(-1) ?? this.element.getBoundingClientRect();
  }

  /** @param {number | null} n */
  focus(n) {
    if (n !== null) this.element.children[n]?.focus();
  }

  /** @param {EventTarget | null} target */
  indexOf(target) {
    const token = target instanceof Element && target.closest(".t");
    return token ? Number(token.getAttribute("data-n")) : null;
  }

  /** The keyboard has come to token `n`. @param {number | null} n */
  reach(n) {
    if (n === null) return;
    this.element.children[this.current].setAttribute("tabindex", "-1");
    this.element.children[this.current].setAttribute("aria-selected", "false");
    this.current = n;
    const token = this.element.children[n];
    token.setAttribute("tabindex", "0");
    token.setAttribute("aria-selected", "true");
    token.setAttribute("aria-label", spoken(this.tokens[n]));
    this.onPoint(n);
  }

  /** @param {KeyboardEvent} event */
  press(event) {
    const last = this.element.childElementCount - 1;
    const to = {
      ArrowRight: Math.min(this.current + 1, last),
      ArrowLeft: Math.max(this.current - 1, 0),
      Home: 0,
      End: last,
      ArrowDown: event.key === "ArrowDown" ? this.inNextLine(1) : 0,
      ArrowUp: event.key === "ArrowUp" ? this.inNextLine(-1) : 0,
    }[event.key];
    if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.focus(to);
  }

  /** The token above or below the current one. @param {1 | -1} direction */
  inNextLine(direction) {
    const here = this.place(this.current);
    let best = this.current;
    let line = null;
    for (let n = this.current + direction; this.element.children[n]; n += direction) {
      const there = this.place(n);
      if (Math.abs(there.top - here.top) < 2) continue;
      line ??= there.top;
      if (Math.abs(there.top - line) >= 2) break;
      if (best === this.current || Math.abs(there.left - here.left) < Math.abs(this.place(best).left - here.left)) best = n;
    }
    return best;
  }
}

/** @param {Token} token @param {number} n */
function piece([text, logprob], n) {
  return el(
    "span",
    { class: `t t${level(logprob)}`, role: "option", tabindex: -1, "aria-selected": "false", "data-n": n },
    ...visible(text),
  );
}

/** The text; line ends, tabs and tokens of blanks get an element that the style draws as a sign. @param {string} text */
export function visible(text) {
  if (text && !text.trim() && !text.includes("\n")) return [...text].map((blank) => el("i", { class: "space" }, blank));
  return text.split(/(\n|\t)/).map((part) => {
    if (part === "\n") return el("i", { class: "newline" }, "\n");
    return part === "\t" ? el("i", { class: "tab" }, "\t") : part;
  });
}
