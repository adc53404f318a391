// The versions of a message: ‹ 2/3 ›.

import { el, word } from "./dom.js";

/**
 * Buttons that turn from one version to the next; nothing where there is only one.
 * @param {import("./conversation.js").Turn} turn
 * @param {import("./answer.js").Actions} actions
 */
export function turning(turn, actions) {
  const all = actions.versions(turn);
  if (all.length < 2) return [];
  const at = all.indexOf(turn);
  const to = (n, sign, label) =>
    word(sign, () => actions.choose(all[n]), { "aria-label": label, class: "word glyph", disabled: !all[n] });
  const place = el("span", { "aria-label": `Version ${at + 1} of ${all.length}`, role: "img" }, `${at + 1}/${all.length}`);
  return [
    el("span", { class: "versions" }, to(at - 1, "‹", "Earlier version"), place, to(at + 1, "›", "Later version")),
  ];
}
