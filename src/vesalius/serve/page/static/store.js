// Conversations in the browser's IndexedDB, the tokens of their answers apart: the texts are needed to search, the
// tokens, a hundred times as large, only when an answer is looked at.

/** @typedef {import("./conversation.js").Conversation} Conversation */
/** @typedef {import("./surprise.js").Token} Token */

const NAME = "vesalius";
const CAP = 500;

/** The browser cannot keep something; the message says what to do. */
export class StoreError extends Error {}

export class Store {
  /** @param {IDBDatabase} database */
  constructor(database) {
    this.database = database;
  }

  /** StoreError where the browser keeps nothing, as in some private windows. */
  static async open() {
    const opening = indexedDB.open(NAME, 1);
    opening.onupgradeneeded = () => {
      opening.result.createObjectStore("conversations", { keyPath: "id" });
      opening.result.createObjectStore("tokens");
    };
    return new Store(await done(opening));
  }

  /** @returns {Promise<Conversation[]>} last used first */
  async all() {
    const found = await done(this.read("conversations").getAll());
    return found.sort((a, b) => b.updated - a.updated);
  }

  /** Keeps a conversation; StoreError where there are too many or the disk is full. @param {Conversation} conversation */
  async put(conversation) {
    const known = await done(this.read("conversations").getKey(conversation.id));
    if (!known && (await done(this.read("conversations").count())) >= CAP) {
      throw new StoreError(`This browser keeps ${CAP} conversations. Delete one to keep this one too.`);
    }
    await this.write((stores) => stores("conversations").put(conversation));
  }

  /** The tokens of a conversation's answers. @param {string} id @returns {Promise<Map<string, Token[]>>} */
  async tokens(id) {
    const store = this.read("tokens");
    const [keys, values] = await Promise.all([done(store.getAllKeys(within(id))), done(store.getAll(within(id)))]);
    return new Map(keys.map(([, node], n) => [node, values[n]]));
  }

  /** @param {string} id @param {string} node @param {Token[]} tokens */
  async putTokens(id, node, tokens) {
    await this.write((stores) => stores("tokens").put(tokens, [id, node]));
  }

  /** Removes a conversation; returns what brings it back. @param {Conversation} conversation */
  async remove(conversation) {
    const tokens = await this.tokens(conversation.id);
    await this.write((stores) => {
      stores("conversations").delete(conversation.id);
      stores("tokens").delete(within(conversation.id));
    });
    return async () => {
      await this.put(conversation);
      for (const [node, list] of tokens) await this.putTokens(conversation.id, node, list);
    };
  }

  /** @param {string} store @returns {any} */
  read(store) {
    return this.database.transaction(store).objectStore(store);
  }

  /** @param {(stores: (name: string) => IDBObjectStore) => void} change */
  async write(change) {
    const transaction = this.database.transaction(["conversations", "tokens"], "readwrite");
    change((name) => transaction.objectStore(name));
    await new Promise((resolve, reject) => {
      transaction.oncomplete = () => resolve(undefined);
      transaction.onabort = transaction.onerror = () => reject(failure(transaction.error));
    });
  }
}

/** All keys that begin with a conversation's id. @param {string} id */
function within(id) {
  return IDBKeyRange.bound([id], [id, []]);
}

/** @param {IDBRequest} request @returns {Promise<any>} */
function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(failure(request.error));
  });
}

/** @param {DOMException | null} error */
function failure(error) {
  if (error?.name === "QuotaExceededError") {
    return new StoreError("This browser's storage is full. Export or delete conversations to keep new ones.");
  }
  return new StoreError(`This browser does not keep conversations: ${error?.message ?? "it did not say why"}`);
}
