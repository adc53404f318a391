// The strip of an answer: a cell for each token, in order, as high and as deep in colour as it surprised the model.
//
// Drawn on a canvas, since an answer may have thousands of tokens. Where there are more tokens than pixels, a column shows
// the most surprising of its tokens: a spike is never averaged away.

import { el } from "./dom.js";
import { bits, level, meanBits, mostSurprising, inSigns } from "./surprise.js";

/** @typedef {import("./surprise.js").Token} Token */

const HEIGHT = 26;
const WIDEST = 8;
const MOST = 6; // bits at full height
const DEPTHS = [0, 0.34, 0.55, 0.78, 1]; // of the accent, by level; level 0 is grey

export class Strip {
  /**
   * @param {Token[]} tokens may grow later
   * @param {(n: number | null) => void} onPoint
   * @param {(n: number) => void} onPick
   */
  constructor(tokens, onPoint, onPick) {
    this.tokens = tokens;
    this.pointed = null;
    const at = (event) => this.indexAt(event.offsetX);
    this.element = el("canvas", {
      class: "strip",
      role: "img",
      height: HEIGHT,
      onpointermove: (event) => onPoint(at(event)),
      onpointerdown: (event) => onPoint(at(event)),
      onpointerleave: () => onPoint(null),
      onclick: (event) => at(event) !== null && onPick(at(event)),
    });
    new ResizeObserver(() => this.draw()).observe(this.element);
    document.addEventListener("themechange", () => this.draw());
  }

  /** Width of a cell. */
  get cell() {
    return Math.min(WIDEST, this.element.clientWidth / Math.max(1, this.tokens.length));
  }

  /** @param {number} x */
  indexAt(x) {
    const n = Math.floor(x / this.cell);
    return n >= 0 && n < this.tokens.length ? n : null;
  }

  /** Where a token's cell is on the screen. @param {number} n */
  place(n) {
    const { left, top, height } = this.element.getBoundingClientRect();
    return new DOMRect(left + n * this.cell, top, Math.max(1, this.cell), height);
  }

  /** @param {number | null} n */
  mark(n) {
    if (n === this.pointed) return;
    this.pointed = n;
    this.draw();
  }

  /** Says in words what the drawing shows. */
  describe() {
    const most = mostSurprising(this.tokens);
    const [text, logprob] = this.tokens[most];
    const mean = `${meanBits(this.tokens).toFixed(2)} bits on average`;
    const peak = `most at ${inSigns(text)}, ${bits(logprob).toFixed(1)} bits`;
    this.element.setAttribute("aria-label", `Surprise of ${this.tokens.length} tokens: ${mean}, ${peak}`);
  }

  draw() {
    const width = this.element.clientWidth;
    if (!width || !this.tokens.length) return;
    const scale = devicePixelRatio;
    this.element.width = Math.round(width * scale);
    this.element.height = Math.round(HEIGHT * scale);
    const pen = this.element.getContext("2d");
    pen.scale(scale, scale);
    const { color: accent, outlineColor: grey, caretColor: ink } = getComputedStyle(this.element);
    for (const { x, wide, n } of this.columns()) {
      const [, logprob] = this.tokens[n];
      const depth = level(logprob);
      const high = 3 + (HEIGHT - 3) * Math.min(1, bits(logprob) / MOST);
      pen.globalAlpha = 1;
      pen.fillStyle = n === this.pointed ? ink : depth ? accent : grey;
      if (n === this.pointed) pen.fillRect(x, 0, Math.max(2, wide), HEIGHT);
      pen.globalAlpha = depth && n !== this.pointed ? DEPTHS[depth] : 1;
      pen.fillRect(x, HEIGHT - high, wide, high);
    }
  }

  /** What is drawn where: one column a token, or one a pixel with the most surprising of its tokens. */
  *columns() {
    const { cell, tokens } = this;
    if (cell >= 1) {
      const gap = cell >= 3 ? 1 : cell >= 2 ? 0.5 : 0;
      for (let n = 0; n < tokens.length; n += 1) yield { x: n * cell, wide: cell - gap, n };
      return;
    }
    for (let x = 0, from = 0; from < tokens.length; x += 1) {
      const to = Math.max(from + 1, Math.min(tokens.length, Math.round((x + 1) / cell)));
      const pointed = this.pointed !== null && this.pointed >= from && this.pointed < to;
      yield { x, wide: 1, n: pointed ? this.pointed : from + mostSurprising(tokens.slice(from, to)) };
      from = to;
    }
  }
}
