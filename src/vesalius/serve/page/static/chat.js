// What the page does, without the page: conversations that are opened, asked, stopped, repeated, edited and kept.
//
// Tells what happened by events: "shape" (other messages are shown), "grow" (an answer got longer), "end" (an answer is
// whole), "list" (the conversations changed), "problem" (something to tell the person). Answers go on in conversations that
// are not on the screen.

import { add, afterReload, choose, messagesBefore, newConversation, path, versions } from "./conversation.js";
import { Store, StoreError } from "./store.js";
import { write } from "./writing.js";

/**
 * @typedef {import("./conversation.js").Conversation} Conversation
 * @typedef {import("./conversation.js").Turn} Turn
 * @typedef {import("./surprise.js").Token} Token
 */

const SAVE_EVERY = 2000; // ms between two savings of an answer that is being written
const RIVALS = 5;

export class Chat extends EventTarget {
  /**
   * @param {import("./api.js").Api} api
   * @param {Store | null} store null where the browser keeps nothing
   * @param {() => string} model the chosen model's id
   * @param {() => {system: string, sampling: Record<string, any>}} preset of new conversations
   */
  constructor(api, store, model, preset) {
    super();
    this.api = api;
    this.store = store;
    this.model = model;
    this.preset = preset;
    /** @type {Conversation[]} */
    this.conversations = [];
    this.current = this.blank();
    /** @type {Map<string, Token[]>} by turn */
    this.tokens = new Map();
    /** @type {Map<string, AbortController>} by turn that is being written */
    this.writing = new Map();
  }

  /** Reads what the browser has kept, and opens the conversation with this id, if it is among it. @param {string} id */
  async load(id) {
    if (!this.store) return;
    const kept = await this.store.all();
    const mine = new Map(this.conversations.map((conversation) => [conversation.id, conversation]));
    const busy = (conversation) => mine.has(conversation.id) && this.isWriting(mine.get(conversation.id));
    this.conversations = kept.map((found) => (busy(found) ? mine.get(found.id) : afterReload(found)));
    const wanted = this.conversations.find((conversation) => conversation.id === id);
    if (wanted) await this.open(wanted);
    else this.tell("list");
  }

  /** @param {Conversation} conversation */
  async open(conversation) {
    if (this.store) {
      for (const [turn, tokens] of await this.store.tokens(conversation.id)) {
        if (!this.tokens.has(turn)) this.tokens.set(turn, tokens);
      }
    }
    this.current = conversation;
    this.tell("shape");
    this.tell("list");
  }

  /** Begins a new conversation; it is kept from its first question on. */
  begin() {
    this.current = this.blank();
    this.tell("shape");
    this.tell("list");
  }

  blank() {
    const { system, sampling } = this.preset();
    return newConversation(system, sampling);
  }

  /** @param {string} text */
  ask(text) {
    const parent = path(this.current).at(-1)?.id ?? null;
    return this.answer(add(this.current, parent, { role: "user", content: text }));
  }

  /** Asks in other words, beside the question as it was. @param {Turn} turn @param {string} text */
  edit(turn, text) {
    return this.answer(add(this.current, turn.parent, { role: "user", content: text }));
  }

  /** Another answer to the same question, beside the one that is there. @param {Turn} turn */
  retry(turn) {
    const question = this.current.nodes.find((node) => node.id === turn.parent);
    return this.answer(question);
  }

  /** @param {Turn} turn */
  async choose(turn) {
    choose(this.current, turn);
    this.tell("shape");
    await this.save(this.current);
  }

  /** @param {Turn} turn */
  versions(turn) {
    return versions(this.current, turn);
  }

  /** Stops what is being written in the conversation on the screen. */
  stop() {
    for (const node of this.current.nodes) this.writing.get(node.id)?.abort();
  }

  /** @param {Conversation} conversation */
  isWriting(conversation) {
    return conversation.nodes.some((node) => this.writing.has(node.id));
  }

  /** Writes one answer to a question, from the request to its last figure. @param {Turn} question */
  async answer(question) {
    const conversation = this.current;
    const turn = add(conversation, question.id, { role: "assistant", model: this.model(), finish: null });
    /** @type {Token[]} */
    const tokens = [];
    const controller = new AbortController();
    this.tokens.set(turn.id, tokens);
    this.writing.set(turn.id, controller);
    if (!this.conversations.includes(conversation)) this.conversations.unshift(conversation);
    this.tell("shape");
    this.tell("list");
    await this.save(conversation);
    let saved = performance.now();
    await write(this.api.complete(this.request(conversation, turn), controller.signal), turn, tokens, controller.signal, () => {
      this.tell("grow", turn);
      if (performance.now() - saved < SAVE_EVERY) return;
      saved = performance.now();
      this.save(conversation);
    });
    this.writing.delete(turn.id);
    this.tell("end", turn);
    this.tell("list");
    await this.save(conversation, turn);
  }

  /** @param {Conversation} conversation @param {Turn} turn */
  request(conversation, turn) {
    return {
      model: turn.model,
      messages: messagesBefore(conversation, turn),
      ...conversation.sampling,
      stream: true,
      stream_options: { include_usage: true },
      logprobs: true,
      top_logprobs: RIVALS,
    };
  }

  /** @param {Conversation} conversation @param {string} title */
  async rename(conversation, title) {
    conversation.title = title.trim() || conversation.title;
    this.tell("list");
    await this.save(conversation);
  }

  /** Deletes a conversation; returns what brings it back. @param {Conversation} conversation */
  async remove(conversation) {
    for (const node of conversation.nodes) this.writing.get(node.id)?.abort();
    const place = this.conversations.indexOf(conversation);
    this.conversations.splice(place, 1);
    if (this.current === conversation) this.begin();
    else this.tell("list");
    const restore = await this.store?.remove(conversation);
    return async () => {
      this.conversations.splice(place, 0, conversation);
      await restore?.();
      await this.open(conversation);
    };
  }

  /** @param {Conversation} conversation @param {Turn} [turn] whose tokens are whole now */
  async save(conversation, turn) {
    if (!this.store || !this.conversations.includes(conversation)) return;
    try {
      await this.store.put(conversation);
      if (turn) await this.store.putTokens(conversation.id, turn.id, this.tokens.get(turn.id) ?? []);
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
      this.tell("problem", error.message);
    }
  }

  /** @param {string} what @param {any} [detail] */
  tell(what, detail) {
    this.dispatchEvent(new CustomEvent(what, { detail }));
  }
}
