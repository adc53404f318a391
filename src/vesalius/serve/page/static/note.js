// The note on a token: probability, rank, surprise and rivals. Where the window is wide it stands in the margin, joined to
// the token by a line, as in an anatomical plate; else beside the token; on a phone above the message field.

import { byId, el } from "./dom.js";
import { bits, inSigns, percent, rank } from "./surprise.js";

const DROP = 3; // px from a token down to its line, so that it is not taken for one of the text
const GAP = 24; // px between the text and a note in the margin
const NARROWEST = 184;
const WIDEST = 248;
const PHONE = 640;

export class Note {
  constructor() {
    this.box = byId("note");
    this.leader = byId("leader");
    this.move = () => undefined;
  }

  /**
   * @param {import("./surprise.js").Token} token
   * @param {string} place which token of how many
   * @param {() => DOMRect} anchor where the token is at the moment
   * @param {HTMLElement} column the text it stands in
   */
  show(token, place, anchor, column) {
    this.box.replaceChildren(...contents(token, place));
    this.move = () => this.settle(anchor(), column.getBoundingClientRect());
    this.move();
  }

  /** Follows a token that moved, as when the page was scrolled; a token out of sight has no note. */
  follow() {
    if (!this.box.hidden) this.move();
  }

  hide() {
    this.box.hidden = this.leader.hidden = true;
  }

  /** @param {DOMRect} anchor @param {DOMRect} column */
  settle(anchor, column) {
    const { top, bottom } = byId("thread").getBoundingClientRect();
    if (anchor.bottom < top || anchor.top > bottom) return this.hide();
    this.box.hidden = false;
    if (innerWidth < PHONE) return this.dock();
    if (innerWidth - column.right > GAP + NARROWEST + GAP / 2) return this.inMargin(anchor, column);
    return this.beside(anchor);
  }

  dock() {
    this.box.className = "docked";
    this.leader.hidden = true;
    this.box.style.left = this.box.style.top = this.box.style.width = "";
    this.box.style.bottom = `${innerHeight - byId("composer").getBoundingClientRect().top}px`;
  }

  /** @param {DOMRect} anchor @param {DOMRect} column */
  inMargin(anchor, column) {
    this.box.className = "margin";
    const left = column.right + GAP;
    this.box.style.width = `${Math.min(WIDEST, innerWidth - left - GAP / 2)}px`;
    this.place(left, Math.min(anchor.bottom + DROP, innerHeight - this.box.offsetHeight - 12));
    this.leader.hidden = false;
    this.leader.style.left = `${anchor.left}px`;
    this.leader.style.top = `${anchor.bottom + DROP}px`;
    this.leader.style.width = `${left - anchor.left}px`;
  }

  /** @param {DOMRect} anchor */
  beside(anchor) {
    this.box.className = "floating";
    this.box.style.width = "";
    this.leader.hidden = true;
    const { offsetWidth: width, offsetHeight: height } = this.box;
    const below = anchor.bottom + 8;
    const fits = below + height < byId("composer").getBoundingClientRect().top;
    this.place(Math.max(12, Math.min(anchor.left, innerWidth - width - 12)), fits ? below : anchor.top - height - 8);
  }

  /** @param {number} left @param {number} top */
  place(left, top) {
    this.box.style.bottom = "";
    this.box.style.left = `${left}px`;
    this.box.style.top = `${Math.max(12, top)}px`;
  }
}

/** What the note says, in one sentence for those who hear it. @param {import("./surprise.js").Token} token */
export function spoken(token) {
  const [text, logprob, rivals] = token;
  const others = rivals.filter(([rival]) => rival !== text).map(([rival, chance]) => `${inSigns(rival)} ${percent(chance)}`);
  const instead = others.length ? `; instead: ${others.join(", ")}` : "";
  return `${inSigns(text)}: ${percent(logprob)}, ${bits(logprob).toFixed(2)} bits, ${place(token)}${instead}`;
}

/** @param {import("./surprise.js").Token} token */
function place(token) {
  const found = rank(token);
  if (found) return `rank ${found}`;
  return token[2].length ? `rank below ${token[2].length}` : "rank unknown";
}

/** @param {import("./surprise.js").Token} token @param {string} where */
function contents(token, where) {
  const [text, logprob, rivals] = token;
  const rows = rank(token) ? rivals : [...rivals, /** @type {[string, number]} */ ([text, logprob])];
  const figures = [
    ["probability", percent(logprob)],
    ["surprise", `${bits(logprob).toFixed(2)} bits`],
  ];
  return [
    el("p", { class: "where" }, where, el("span", {}, place(token))),
    el("p", { class: "what" }, inSigns(text)),
    el("dl", {}, ...figures.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))),
    el("ol", {}, ...rows.map((rival) => bar(rival, rival[0] === text))),
  ];
}

/** @param {[string, number]} rival @param {boolean} taken */
function bar([text, logprob], taken) {
  const track = el("i", {});
  track.style.setProperty("--share", String(Math.exp(logprob)));
  return el("li", { class: taken ? "taken" : undefined }, el("span", {}, inSigns(text)), track, el("b", {}, percent(logprob)));
}
