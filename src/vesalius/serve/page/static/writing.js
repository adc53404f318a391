// One answer being written: what the stream brings goes into the turn and its tokens, with the times that people ask for.

import { ApiError } from "./api.js";
import { token } from "./surprise.js";

/** @typedef {import("./conversation.js").Turn} Turn */

/**
 * Reads the answer to its end, to a stop or to a failure; the turn says which. Never throws for what a server does.
 * @param {AsyncIterable<any>} chunks
 * @param {Turn} turn
 * @param {import("./surprise.js").Token[]} tokens
 * @param {AbortSignal} signal
 * @param {() => void} grown
 */
export async function write(chunks, turn, tokens, signal, grown) {
  const times = { begin: performance.now(), first: 0, last: 0, pieces: 0 };
  let usage = null;
  try {
    for await (const chunk of chunks) {
      usage = chunk.usage ?? usage;
      const choice = chunk.choices?.[0];
      if (choice) take(choice, turn, tokens, times);
      grown();
    }
    turn.finish ??= "stop";
  } catch (error) {
    fail(turn, error, signal);
  }
  turn.stats = stats(times, usage, tokens.length);
}

/** @param {any} choice @param {Turn} turn */
function take(choice, turn, tokens, times) {
  const entries = choice.logprobs?.content ?? [];
  const { content = "", reasoning_content: thoughts } = choice.delta ?? {};
  if (content || thoughts || entries.length) {
    times.last = performance.now();
    times.first ||= times.last;
    times.pieces += 1;
  }
  turn.content += content ?? "";
  if (thoughts) turn.thoughts = (turn.thoughts ?? "") + thoughts;
  tokens.push(...entries.map(token));
  if (choice.finish_reason) turn.finish = choice.finish_reason;
}

/** @param {Turn} turn @param {unknown} error @param {AbortSignal} signal */
function fail(turn, error, signal) {
  if (signal.aborted) {
    turn.finish = "stopped";
    return;
  }
  turn.finish = "failed";
  if (error instanceof ApiError) turn.error = error.message;
  else if (error instanceof TypeError) turn.error = "The connection broke off.";
  else if (error instanceof SyntaxError) turn.error = "The server sent something that is no answer.";
  else throw error;
}

/** @returns {Turn["stats"]} */
function stats(times, usage, count) {
  const seconds = (from, to) => Math.max(0, to - from) / 1000;
  return {
    prompt: usage?.prompt_tokens ?? null,
    tokens: usage?.completion_tokens ?? (count || times.pieces),
    first: times.first ? seconds(times.begin, times.first) : 0,
    seconds: seconds(times.first, times.last),
  };
}
