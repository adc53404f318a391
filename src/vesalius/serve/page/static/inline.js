// Markdown inside a block: code, links, emphasis, line breaks. CommonMark 0.31, section 6, with GitHub's ~~deletion~~
// and bare web addresses.
//
// The text becomes a list of DOM nodes and delimiter runs in one pass; a second pass pairs the runs (the algorithm of
// CommonMark's appendix). Images are shown as links: the page loads nothing from elsewhere. Left out: HTML, reference links
// and all but a few entities, which stay the text they are; only <br> is obeyed, since models write it into tables.

import { el } from "./dom.js";

const SCHEMES = /^(https?:\/\/|mailto:)/i;
const PUNCTUATION = /[!-/:-@[-`{-~\p{P}\p{S}]/u;
const PLAIN = /[^\\`*_~[\]!<&\nh]+/y;
const CODE = /`+/y;
const ADDRESS = /https?:\/\/[^\s<]*[^\s<?!.,:;*_~'")\]]/iy;
const AUTOLINK = /<((?:https?:\/\/|mailto:)[^\s<>]*)>/iy;
const BREAK = /<br\s*\/?>/iy;
const ENTITY = /&(?:#(\d{1,7})|#x([\da-f]{1,6})|(amp|lt|gt|quot|nbsp|copy|mdash|ndash|hellip|times|middot));/iy;
const NAMED = {
  amp: "&", lt: "<", gt: ">", quot: '"', nbsp: "\u00a0", copy: "©", mdash: "—", ndash: "–", hellip: "…", times: "×", middot: "·",
};
const TARGET = /\(\s*(?:<([^<>\n]*)>|((?:[^\s()\\]|\\.|\((?:[^\s()\\]|\\.)*\))*))(?:\s+(?:"[^"]*"|'[^']*'|\([^()]*\)))?\s*\)/y;

/**
 * A run of * _ or ~, or a [ or ![, whose meaning is still open.
 * @typedef {{mark: string, count: number, length: number, opens: boolean, closes: boolean}} Run
 * @typedef {Node | Run} Part
 */

/**
 * The nodes of one block's text.
 * @param {string} text
 * @returns {Node[]}
 */
export function inline(text) {
  /** @type {Part[]} */
  const parts = [];
  /** @type {number[]} places of the [ that may begin a link */
  const brackets = [];
  let at = 0;
  while (at < text.length) at = step(text, at, parts, brackets);
  return paired(parts);
}

/** Reads what stands at `at`; returns where it ends. */
function step(text, at, parts, brackets) {
  const char = text[at];
  if (char === "\\") return escaped(text, at, parts);
  if (char === "`") return code(text, at, parts);
  if ("*_~".includes(char)) return run(text, at, parts);
  if (char === "\n") return lineEnd(text, at, parts);
  if (char === "<") return angle(text, at, parts);
  if (char === "[" || (char === "!" && text[at + 1] === "[")) {
    const mark = char === "[" ? "[" : "![";
    brackets.push(parts.length);
    return push(parts, { mark, count: 1, length: 1, opens: false, closes: false }, at + mark.length);
  }
  if (char === "&") return entity(text, at, parts);
  if (char === "]") return closing(text, at, parts, brackets);
  if (char === "h") {
    const found = !/\w/.test(text[at - 1] ?? "") && match(ADDRESS, text, at);
    if (found) return push(parts, link(found[0], [document.createTextNode(found[0])]), at + found[0].length);
  }
  const plain = match(PLAIN, text, at);
  return say(parts, plain ? plain[0] : char, at);
}

/** @param {RegExp} pattern */
function match(pattern, text, at) {
  pattern.lastIndex = at;
  return pattern.exec(text);
}

function push(parts, node, next) {
  parts.push(node);
  return next;
}

/** Adds text, joined to the text before it. */
function say(parts, words, at) {
  const last = parts.at(-1);
  if (last instanceof Text) last.data += words;
  else parts.push(document.createTextNode(words));
  return at + words.length;
}

function escaped(text, at, parts) {
  const next = text[at + 1];
  if (next === "\n") return push(parts, el("br"), at + 2);
  if (next && /[!-/:-@[-`{-~]/.test(next)) {
    say(parts, next, at);
    return at + 2;
  }
  return say(parts, "\\", at);
}

function code(text, at, parts) {
  const fence = match(CODE, text, at)[0];
  const rest = new RegExp(`(?<!\`)\`{${fence.length}}(?!\`)`, "g");
  rest.lastIndex = at + fence.length;
  const end = rest.exec(text);
  if (!end) return say(parts, fence, at);
  let inside = text.slice(at + fence.length, end.index).replaceAll("\n", " ");
  if (/^ .*[^ ].* $/s.test(inside) || /^ [^ ] $/.test(inside)) inside = inside.slice(1, -1);
  return push(parts, el("code", {}, inside), end.index + fence.length);
}

function lineEnd(text, at, parts) {
  const last = parts.at(-1);
  const hard = last instanceof Text && last.data.endsWith("  ");
  if (last instanceof Text) last.data = last.data.trimEnd();
  if (hard) parts.push(el("br"));
  say(parts, "\n", at);
  let next = at + 1;
  while (text[next] === " ") next += 1;
  return next;
}

function angle(text, at, parts) {
  const found = match(AUTOLINK, text, at);
  if (found) return push(parts, link(found[1], [document.createTextNode(found[1])]), at + found[0].length);
  const broken = match(BREAK, text, at);
  return broken ? push(parts, el("br"), at + broken[0].length) : say(parts, "<", at);
}

function entity(text, at, parts) {
  const found = match(ENTITY, text, at);
  if (!found) return say(parts, "&", at);
  const [whole, decimal, hexadecimal, name] = found;
  const code = Number.parseInt(decimal ?? hexadecimal, decimal ? 10 : 16);
  const valid = code > 0 && code <= 0x10ffff && !(code >= 0xd800 && code < 0xe000);
  say(parts, name ? (NAMED[name] ?? whole) : valid ? String.fromCodePoint(code) : "\ufffd", at);
  return at + whole.length;
}

/** A ] that may end a link: what stood since its [ becomes the link's text, if the address is one we follow. */
function closing(text, at, parts, brackets) {
  const opening = brackets.pop();
  const target = opening !== undefined && match(TARGET, text, at + 1);
  const address = target && (target[1] ?? target[2]).replace(/\\([!-/:-@[-`{-~])/g, "$1");
  if (!target || !SCHEMES.test(address)) return say(parts, "]", at);
  const [{ mark }, ...inside] = parts.splice(opening);
  const image = mark === "![";
  const words = paired(inside);
  parts.push(link(address, words.length ? words : [document.createTextNode(image ? "image" : address)]));
  if (!image) brackets.length = 0; // links hold no links
  return at + 1 + target[0].length;
}

/** @param {string} address @param {Node[]} words */
function link(address, words) {
  if (!SCHEMES.test(address)) throw new Error(`not an address to follow: ${address}`);
  return el("a", { href: address, target: "_blank", rel: "noopener noreferrer" }, ...words);
}

function run(text, at, parts) {
  const mark = text[at];
  let end = at;
  while (text[end] === mark) end += 1;
  const before = at ? text[at - 1] : " ";
  const after = end < text.length ? text[end] : " ";
  const left = flanks(after, before);
  const right = flanks(before, after);
  const inWord = mark === "_";
  parts.push({
    mark,
    count: end - at,
    length: end - at,
    opens: left && (!inWord || !right || PUNCTUATION.test(before)),
    closes: right && (!inWord || !left || PUNCTUATION.test(after)),
  });
  return end;
}

/** Whether a run leans on `near`: that is no blank, and if it is punctuation the other side is none of a word. */
function flanks(near, far) {
  return !/\s/.test(near) && (!PUNCTUATION.test(near) || /\s/.test(far) || PUNCTUATION.test(far));
}

/**
 * Pairs the runs and wraps what is between them; runs that found no partner become text again.
 * @param {Part[]} parts
 * @returns {Node[]}
 */
function paired(parts) {
  /** @type {Part[]} */
  const done = [];
  /** @type {Map<string, number>} where the search for an opener may stop: below are none for such a closer */
  const bottoms = new Map();
  for (const part of parts) {
    done.push(part);
    if (part instanceof Node || !part.closes) continue;
    while (part.count) {
      const kind = `${part.mark}${part.opens}${part.length % 3}`;
      const opener = findOpener(done, part, bottoms.get(kind) ?? 0);
      if (opener < 0) {
        bottoms.set(kind, done.length - 1);
        break;
      }
      wrap(done, opener, part);
    }
  }
  return done.map((part) => (part instanceof Node ? part : document.createTextNode(part.mark.repeat(part.count))));
}

function findOpener(done, closer, bottom) {
  for (let n = done.length - 2; n >= bottom; n -= 1) {
    const run = done[n];
    if (run instanceof Node || run.mark !== closer.mark || !run.opens || !run.count) continue;
    if (closer.mark === "~" && (run.length !== closer.length || run.length > 2)) continue;
    const both = (run.closes || closer.opens) && (run.length + closer.length) % 3 === 0;
    if (closer.mark !== "~" && both && (run.length % 3 || closer.length % 3)) continue;
    return n;
  }
  return -1;
}

function wrap(done, at, closer) {
  const opener = done[at];
  const size = closer.mark === "~" ? closer.length : Math.min(opener.count, closer.count, 2);
  const tag = closer.mark === "~" ? "del" : size === 2 ? "strong" : "em";
  const inside = done.splice(at + 1, done.length - at - 2);
  const nodes = inside.map((part) =>
    part instanceof Node ? part : document.createTextNode(part.mark.repeat(part.count)),
  );
  opener.count -= size;
  closer.count -= size;
  done.splice(at + 1, 0, el(tag, {}, ...nodes));
}
