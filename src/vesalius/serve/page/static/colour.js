// Code in a little colour: comments, texts, numbers and keywords, told apart well enough to read by.
//
// One regular expression for a family of languages, not a grammar: it is right about nearly all of what models write and
// never wrong about the text itself, which goes through unchanged. An unknown language stays plain.

import { el } from "./dom.js";

const WORDS = `abstract and as assert async await auto bool boolean break case catch char class const continue def default
  del do double elif else enum except export extends extern false False final finally float fn for from func function
  global go if impl implements import in instanceof int interface is lambda let local long loop match mod module mut
  namespace new nil None nonlocal not null or package pass private protected pub public raise readonly return self short
  static string struct super switch template then this throw throws trait true True try type typeof union unsafe unsigned
  use using val var virtual void where while with yield`.split(/\s+/);
const SQL = `select from where and or not in is null as join left right inner outer full on group by order having limit
  insert into values update set delete create table view index drop alter distinct union all case when then else end
  primary key references default between like exists count sum avg min max`.split(/\s+/);
const SHELL = `if then else elif fi for in do done while until case esac function return export local echo cd exit set
  source sudo`.split(/\s+/);

const END = String.raw`(?![\s\S])`; // of the whole code: $ is the end of a line here
const STRING = String.raw`"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'`;
const HASH = String.raw`#.*`;
const SLASHES = String.raw`\/\/.*|\/\*[\s\S]*?(?:\*\/|${END})`;
const DASHES = String.raw`--.*`;
const TRIPLE = String.raw`"""[\s\S]*?(?:"""|${END})|'''[\s\S]*?(?:'''|${END})`;
const TICKS = String.raw`\x60(?:[^\x60\\]|\\.)*\x60`;

/** @type {[string, string, string, string[], boolean?][]} languages, comments, texts, keywords, whether case is ignored */
const FAMILIES = [
  ["python py", HASH, `${TRIPLE}|${STRING}`, WORDS],
  ["bash sh shell zsh console", String.raw`(?<=^|\s)#.*`, STRING, SHELL],
  ["ruby rb r perl yaml yml toml ini makefile dockerfile julia elixir", HASH, STRING, WORDS],
  ["javascript js jsx typescript ts tsx json jsonc go golang", SLASHES, `${STRING}|${TICKS}`, WORDS],
  ["c cpp c++ h cuda java kotlin rust rs swift csharp cs c# php scala dart css scss", SLASHES, STRING, WORDS],
  ["sql postgresql mysql sqlite", DASHES, STRING, SQL, true],
  ["lua haskell hs ada", DASHES, STRING, WORDS],
];

/**
 * The code as nodes: plain text and spans of class comment, text, number or keyword.
 * @param {string} code
 * @param {string} language as written after the fence
 * @returns {(Node | string)[]}
 */
export function coloured(code, language) {
  const family = FAMILIES.find(([names]) => names.split(" ").includes(language.toLowerCase()));
  if (!family) return [code];
  const [, comment, text, keywords, ignoresCase] = family;
  const pattern = new RegExp(`(${comment})|(${text})|\\b(\\d[\\w.]*)|([A-Za-z_]\\w*)`, ignoresCase ? "gim" : "gm");
  const known = new Set(keywords);
  const nodes = [];
  let from = 0;
  for (const found of code.matchAll(pattern)) {
    const kind = kindOf(found, (name) => known.has(ignoresCase ? name.toLowerCase() : name));
    if (!kind) continue;
    nodes.push(code.slice(from, found.index), el("span", { class: kind }, found[0]));
    from = found.index + found[0].length;
  }
  return [...nodes, code.slice(from)];
}

/** @param {RegExpMatchArray} found @param {(name: string) => boolean} isKeyword */
function kindOf([, comment, text, number, name], isKeyword) {
  if (comment !== undefined) return "comment";
  if (text !== undefined) return "text";
  if (number !== undefined) return "number";
  return isKeyword(name) ? "keyword" : "";
}
