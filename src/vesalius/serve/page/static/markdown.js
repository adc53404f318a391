// Markdown blocks to DOM nodes: headings, lists, tables, code, quotes, rules, paragraphs. CommonMark 0.31, section 4 and
// 5, with GitHub's tables.
//
// Where a block ends is decided line by line, so a text that grows never changes a block that another one follows: see
// growing.js. Left out: HTML, reference links, and headings underlined with --- (models mean a rule by it). Kinder than the
// standard: a list inside a numbered list may be indented by two spaces, as models do.

import { coloured } from "./colour.js";
import { copy, el, word } from "./dom.js";
import { inline } from "./inline.js";

const FENCE = /^( {0,3})(`{3,}(?=[^`]*$)|~{3,})\s*(.*?)\s*$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*?))??(?:[ \t]+#+)?[ \t]*$/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])( +)(?=\S)/;
const INDENTED = /^ {4}/;
const DELIMITERS = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;
const DEEPEST = 12;

/**
 * One block: how many lines it takes, and its node.
 * @typedef {{node: Node, lines: number}} Block
 */

/**
 * All blocks of a text, each with the line at which it begins.
 * @param {string} text
 * @returns {{node: Node, line: number}[]}
 */
export function blocks(text) {
  return read(withoutTabs(text.split("\n")), 0);
}

/** Tabs before a line's text become spaces, except in code that stands at the margin: a Makefile needs them. */
function withoutTabs(lines) {
  let fence = "";
  return lines.map((line) => {
    if (fence) {
      if (line.startsWith(fence) && !line.replaceAll(fence[0], "").trim()) fence = "";
      return line;
    }
    fence = /^(`{3,}(?=[^`]*$)|~{3,})/.exec(line)?.[1] ?? "";
    return line.replace(/^[ \t]+/, (blank) => blank.replaceAll("\t", "    "));
  });
}

/** @param {string[]} lines @param {number} depth */
function read(lines, depth) {
  const found = [];
  let at = 0;
  while (at < lines.length) {
    if (isBlank(lines[at])) {
      at += 1;
      continue;
    }
    const { node, lines: taken } = block(lines.slice(at), depth);
    found.push({ node, line: at });
    at += taken;
  }
  return found;
}

const nodesOf = (lines, depth) => read(lines, depth).map(({ node }) => node);
const isBlank = (line) => line === undefined || !line.trim();

/** @param {string[]} lines beginning with the block @param {number} depth @returns {Block} */
function block(lines, depth) {
  const [first] = lines;
  let found;
  if ((found = FENCE.exec(first))) return fenced(lines, found);
  if (INDENTED.test(first)) return indented(lines);
  if ((found = HEADING.exec(first))) return { node: el(`h${found[1].length}`, {}, ...inline(found[2] ?? "")), lines: 1 };
  if (RULE.test(first)) return { node: el("hr"), lines: 1 };
  if (QUOTE.test(first) && depth < DEEPEST) return quote(lines, depth);
  if (ITEM.test(first) && depth < DEEPEST) return list(lines, depth);
  if (isTable(lines)) return table(lines);
  return paragraph(lines);
}

/** Whether a line ends a paragraph before it. A list counts only from 1, so that a year at a line's start does not. */
function interrupts(line, next) {
  const item = ITEM.exec(line);
  const begins = item && item[1].length < 4 && /^([-*+]|1[.)])$/.test(item[2]);
  return (
    FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || begins || isTable([line, next ?? ""])
  );
}

/** @param {string[]} lines @param {RegExpExecArray} found by FENCE @returns {Block} */
function fenced(lines, found) {
  const [, indent, fence, info] = found;
  const ending = new RegExp(`^ {0,3}\\${fence[0]}{${fence.length},}\\s*$`);
  let end = 1;
  while (end < lines.length && !ending.test(lines[end])) end += 1;
  const strip = new RegExp(`^ {0,${indent.length}}`);
  const inside = lines.slice(1, end).map((line) => line.replace(strip, ""));
  return { node: codeBlock(inside.join("\n"), info.split(/\s+/)[0]), lines: Math.min(end + 1, lines.length) };
}

function indented(lines) {
  let end = 0;
  while (end < lines.length && (INDENTED.test(lines[end]) || isBlank(lines[end]))) end += 1;
  while (isBlank(lines[end - 1])) end -= 1;
  const inside = lines.slice(0, end).map((line) => line.slice(4));
  return { node: codeBlock(inside.join("\n"), ""), lines: end };
}

function codeBlock(code, language) {
  const button = word("Copy", () => copy(code, button), { "aria-label": "Copy the code" });
  const bar = el("figcaption", {}, el("span", {}, language), button);
  const name = `Code${language ? ` in ${language}` : ""}`;
  const body = el("pre", { tabindex: 0, role: "region", "aria-label": name }, el("code", {}, ...coloured(code, language)));
  return el("figure", { class: "code" }, bar, body);
}

/** Lines with the mark, and lines without it that go on with a paragraph. */
function quote(lines, depth) {
  const inside = [];
  for (const [n, line] of lines.entries()) {
    const marked = QUOTE.test(line);
    const goesOn = inside.length && !isBlank(inside.at(-1)) && !isBlank(line) && !interrupts(line, lines[n + 1]);
    if (!marked && !goesOn) break;
    inside.push(line.replace(QUOTE, ""));
  }
  return { node: el("blockquote", {}, ...nodesOf(inside, depth + 1)), lines: inside.length };
}

function list(lines, depth) {
  const [, margin, mark] = ITEM.exec(lines[0]);
  const ordered = /\d/.test(mark);
  const items = [];
  let at = 0;
  let loose = false;
  while (at < lines.length) {
    const begin = ITEM.exec(lines[at]);
    if (!begin || begin[2].at(-1) !== mark.at(-1) || begin[1].length > margin.length + 1 || RULE.test(lines[at])) break;
    const { inside, taken } = item(lines.slice(at), begin);
    at += taken;
    const found = read(inside, depth + 1);
    const gap = isBlank(lines[at - 1]) && ITEM.exec(lines[at] ?? "")?.[2].at(-1) === mark.at(-1);
    loose ||= gap || found.some(({ line }) => line > 0 && isBlank(inside[line - 1]));
    items.push(found.map(({ node }) => node));
  }
  const children = items.map((nodes) => el("li", {}, ...(loose ? nodes : nodes.flatMap(unwrapped))));
  const start = ordered && Number.parseInt(mark, 10) !== 1 ? Number.parseInt(mark, 10) : undefined;
  return { node: el(ordered ? "ol" : "ul", { start }, ...children), lines: at };
}

/**
 * The lines of the item that begins here, without its indent, and how many lines it takes with blank ones after it.
 * @param {string[]} lines @param {string[]} found by ITEM
 */
function item(lines, [whole, margin, , gap]) {
  const width = gap.length > 4 ? whole.length - gap.length + 1 : whole.length;
  const inside = [lines[0].slice(width)];
  let at = 1;
  for (; at < lines.length; at += 1) {
    const line = lines[at];
    const indent = line.length - line.trimStart().length;
    const nested = ITEM.test(line) && indent >= margin.length + 2;
    const goesOn = !isBlank(lines[at - 1]) && !interrupts(line, lines[at + 1]) && !ITEM.test(line);
    if (!isBlank(line) && indent < width && !nested && !goesOn) break;
    inside.push(line.slice(Math.min(indent, width)));
  }
  while (isBlank(inside.at(-1))) inside.pop();
  return { inside, taken: at };
}

/** What an item of a tight list holds: a paragraph's text without the paragraph. */
function unwrapped(node) {
  return node.nodeName === "P" ? [...node.childNodes] : [node];
}

/** Whether a header and its row of dashes begin here. @param {string[]} lines */
function isTable([head, delimiters]) {
  if (!head?.includes("|") || !delimiters?.includes("-") || !DELIMITERS.test(delimiters)) return false;
  return cells(head).length === cells(delimiters).length;
}

/** The cells of a row: parted by |, unless escaped. */
function cells(row) {
  const bare = row.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return bare.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function table(lines) {
  const sides = cells(lines[1]).map((cell) => {
    if (cell.endsWith(":")) return cell.startsWith(":") ? "centre" : "right";
    return cell.startsWith(":") ? "left" : undefined;
  });
  let end = 2;
  const goesOn = (line) => !isBlank(line) && !INDENTED.test(line) && !interrupts(line, undefined);
  while (end < lines.length && goesOn(lines[end])) end += 1;
  const row = (line, tag) => {
    const given = cells(line);
    return el("tr", {}, ...sides.map((side, n) => el(tag, { class: side }, ...inline(given[n] ?? ""))));
  };
  const body = lines.slice(2, end).map((line) => row(line, "td"));
  const whole = el("table", {}, el("thead", {}, row(lines[0], "th")), ...(body.length ? [el("tbody", {}, ...body)] : []));
  return { node: el("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "Table" }, whole), lines: end };
}

function paragraph(lines) {
  let end = 1;
  while (end < lines.length && !isBlank(lines[end]) && !interrupts(lines[end], lines[end + 1])) end += 1;
  const text = lines.slice(0, end).map((line) => line.trimStart()).join("\n").trimEnd();
  return { node: el("p", {}, ...inline(text)), lines: end };
}
