// A Markdown text on the page that grows: only its last block is drawn anew.
//
// A block that another one follows is final, where both are made of whole lines; the line that is still being written
// decides nothing. So the page is the same as if the whole text were drawn at once, at the cost of one block.

import { blocks } from "./markdown.js";

export class Growing {
  /** @param {HTMLElement} home where the blocks go */
  constructor(home) {
    this.home = home;
    this.text = "";
    this.settled = 0; // characters whose blocks are final
    this.kept = 0; // nodes of them
  }

  /** Shows `text`, which begins with what was shown before; anything else is drawn from the start. @param {string} text */
  show(text) {
    if (!text.startsWith(this.text)) this.clear();
    this.text = text;
    this.settle();
    this.replaceTail(blocks(text.slice(this.settled)).map(({ node }) => node));
  }

  clear() {
    this.settled = this.kept = 0;
    this.home.replaceChildren();
  }

  /** Makes final all blocks but the last of those that stand in whole lines. */
  settle() {
    const whole = this.text.slice(this.settled, this.text.lastIndexOf("\n") + 1);
    const found = blocks(whole);
    if (found.length < 2) return;
    this.replaceTail(found.slice(0, -1).map(({ node }) => node));
    this.kept = this.home.childNodes.length;
    const lines = whole.split("\n").slice(0, found.at(-1).line);
    this.settled += lines.reduce((sum, line) => sum + line.length + 1, 0);
  }

  /** @param {Node[]} nodes */
  replaceTail(nodes) {
    while (this.home.childNodes.length > this.kept) this.home.lastChild.remove();
    this.home.append(...nodes);
  }
}
