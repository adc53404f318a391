// The server's API as the page uses it: models, the rendered prompt, and a streamed answer.
//
// Addresses are relative to the page, so that it also works behind a proxy's path. A key that the server asks for is kept
// for this tab only.

import { events } from "./stream.js";

const KEY = "vesalius-key";

/** Why a request failed, in words for a person. `status` is 0 where no answer came at all. */
export class ApiError extends Error {
  /** @param {string} message @param {number} status */
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/**
 * @typedef {{id: string, context_length?: number, sampling?: Record<string, any>}} Model
 * @typedef {{role: string, content: string}} Message
 */

export class Api {
  /** @param {(why: string) => Promise<string | null>} askForKey null where the person declines */
  constructor(askForKey) {
    this.askForKey = askForKey;
  }

  /** @returns {Promise<Model[]>} */
  async models() {
    return (await (await this.request("v1/models", {})).json()).data;
  }

  /** @param {Message[]} messages @returns {Promise<{text: string, tokens: {id: number, text: string, special?: boolean}[]}>} */
  async render(messages) {
    return (await this.request("render", posted({ messages }))).json();
  }

  /**
   * The chunks of an answer as they come.
   * @param {object} body @param {AbortSignal} signal
   */
  async *complete(body, signal) {
    const response = await this.request("v1/chat/completions", { ...posted(body), signal });
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.message, 500);
      yield chunk;
    }
    throw new ApiError("The connection ended before the answer did.", 0);
  }

  /** @param {string} path @param {RequestInit} options @returns {Promise<Response>} */
  async request(path, options) {
    const key = sessionStorage.getItem(KEY);
    const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
    const response = await reached(path, { ...options, headers });
    if (response.ok) return response;
    const error = await refusal(response);
    if (response.status !== 401) throw error;
    const entered = await this.askForKey(key ? error.message : "This server asks for a key.");
    if (entered === null) throw error;
    sessionStorage.setItem(KEY, entered);
    return this.request(path, options);
  }
}

/** @param {object} body @returns {RequestInit} */
function posted(body) {
  return { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
}

/** @param {string} path @param {RequestInit} options */
async function reached(path, options) {
  try {
    return await fetch(new URL(path, document.baseURI), options);
  } catch (error) {
    if (error instanceof TypeError) throw new ApiError("The server cannot be reached. Is it still running?", 0);
    throw error;
  }
}

/** @param {Response} response */
async function refusal(response) {
  if (response.status === 429) return new ApiError(busy(response.headers.get("Retry-After")), 429);
  const body = await response.text();
  return new ApiError(message(body) ?? `The server answered ${response.status} ${response.statusText}.`, response.status);
}

/** The message of an error body in OpenAI's form. @param {string} body */
function message(body) {
  try {
    const found = JSON.parse(body)?.error?.message;
    return typeof found === "string" ? found : null;
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}

/** @param {string | null} wait seconds, or a date */
function busy(wait) {
  const seconds = wait && (/^\d+$/.test(wait) ? Number(wait) : Math.ceil((Date.parse(wait) - Date.now()) / 1000));
  if (!seconds || !(seconds > 0)) return "The server is busy with other answers. Try again in a moment.";
  return `The server is busy with other answers. Try again in ${seconds} ${seconds === 1 ? "second" : "seconds"}.`;
}
