// A conversation is a tree: an edited question and a repeated answer stand beside the first one, and nothing is lost.
//
// `nodes` holds all messages in the order they were made; `chosen` says, for each message, which of those after it is shown.
// What is shown is one path from the root. Pure data, so that it can be stored and exported as it is.

/**
 * @typedef {object} Turn one message
 * @property {string} id
 * @property {string | null} parent the message before it
 * @property {"user" | "assistant"} role
 * @property {string} content
 * @property {string} [thoughts] what a model that thinks wrote before its answer
 * @property {string} [model]
 * @property {"stop" | "length" | "stopped" | "failed" | null} [finish] null while it is being written
 * @property {string} [error]
 * @property {{prompt: number | null, tokens: number, first: number, seconds: number}} [stats] seconds to and from the first token
 *
 * @typedef {object} Conversation
 * @property {string} id
 * @property {string} title empty until the first question
 * @property {number} created
 * @property {number} updated
 * @property {string} system
 * @property {Record<string, any>} sampling only what differs from the model's defaults
 * @property {Turn[]} nodes
 * @property {Record<string, string>} chosen
 */

const ROOT = "root";
const TITLE = 60;

/** Also over plain HTTP, where crypto.randomUUID is withheld. */
function newId() {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {string} system @param {Record<string, any>} sampling @returns {Conversation} */
export function newConversation(system = "", sampling = {}) {
  const now = Date.now();
  return { id: newId(), title: "", created: now, updated: now, system, sampling: { ...sampling }, nodes: [], chosen: {} };
}

/** The messages shown, first to last. @param {Conversation} conversation @returns {Turn[]} */
export function path(conversation) {
  const byId = new Map(conversation.nodes.map((node) => [node.id, node]));
  const shown = [];
  let next = byId.get(conversation.chosen[ROOT]);
  while (next) {
    shown.push(next);
    next = byId.get(conversation.chosen[next.id]);
  }
  return shown;
}

/** The versions of a message, itself among them. @param {Conversation} conversation @param {Turn} node */
export function versions(conversation, node) {
  return conversation.nodes.filter((other) => other.parent === node.parent);
}

/** Shows this version of a message. @param {Conversation} conversation @param {Turn} node */
export function choose(conversation, node) {
  conversation.chosen[node.parent ?? ROOT] = node.id;
}

/**
 * Adds a message after `parent` and shows it.
 * @param {Conversation} conversation
 * @param {string | null} parent
 * @param {Partial<Turn> & {role: "user" | "assistant"}} turn
 * @returns {Turn}
 */
export function add(conversation, parent, turn) {
  const node = { content: "", ...turn, id: newId(), parent };
  conversation.nodes.push(node);
  choose(conversation, node);
  conversation.updated = Date.now();
  if (!conversation.title && node.role === "user") conversation.title = shortened(node.content);
  return node;
}

/** @param {string} text */
function shortened(text) {
  const line = text.trim().replace(/\s+/g, " ");
  return line.length <= TITLE ? line : `${line.slice(0, TITLE).replace(/\s+\S*$/, "")}…`;
}

/**
 * What the model is given to write this answer: the system prompt and the messages shown before it.
 * @param {Conversation} conversation
 * @param {Turn} answer
 */
export function messagesBefore(conversation, answer) {
  const byId = new Map(conversation.nodes.map((node) => [node.id, node]));
  const messages = [];
  for (let node = byId.get(answer.parent); node; node = byId.get(node.parent)) {
    messages.unshift({ role: node.role, content: node.content });
  }
  if (conversation.system.trim()) messages.unshift({ role: "system", content: conversation.system });
  return messages;
}

/** An answer that nobody was there to finish writing counts as stopped. @param {Conversation} conversation */
export function afterReload(conversation) {
  for (const node of conversation.nodes) if (node.role === "assistant") node.finish ??= "stopped";
  return conversation;
}

/** Whether a search finds the conversation by its title or by what was said. @param {Conversation} conversation */
export function mentions(conversation, words) {
  const text = [conversation.title, ...conversation.nodes.map((node) => node.content)].join("\n").toLowerCase();
  return words.toLowerCase().split(/\s+/).every((part) => text.includes(part));
}
