// A conversation as a file: JSON with every branch and token, or Markdown of what is on the screen.

import { path } from "./conversation.js";
import { el } from "./dom.js";

/** @typedef {import("./conversation.js").Conversation} Conversation */

/** @param {Conversation} conversation */
export function asMarkdown(conversation) {
  const parts = [`# ${conversation.title || "Untitled"}`];
  if (conversation.system.trim()) parts.push(`## System\n\n${conversation.system.trim()}`);
  for (const turn of path(conversation)) {
    parts.push(`## ${turn.role === "user" ? "Question" : `Answer${turn.model ? ` (${turn.model})` : ""}`}\n\n${turn.content.trim()}`);
  }
  return `${parts.join("\n\n")}\n`;
}

/** @param {Conversation} conversation @param {Map<string, import("./surprise.js").Token[]>} tokens */
export function asJson(conversation, tokens) {
  const nodes = conversation.nodes.map((node) => (tokens.has(node.id) ? { ...node, tokens: tokens.get(node.id) } : node));
  return JSON.stringify({ format: "vesalius-conversation", version: 1, ...conversation, nodes }, null, 1);
}

/** Hands a text to the person as a file. @param {string} name @param {string} text @param {string} type */
export function download(name, text, type) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  el("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** @param {Conversation} conversation @param {string} ending */
export function fileName(conversation, ending) {
  const words = conversation.title.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "");
  return `${words.slice(0, 60) || "conversation"}.${ending}`;
}
