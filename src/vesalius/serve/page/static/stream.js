// Server-sent events out of a response's body: the data of each, as it comes.
//
// WHATWG HTML, section 9.2.6. The browser's EventSource can't post and can't send a key. Left out: event names, ids and
// reconnection, which an answer does not use, and lines ended by a lone carriage return.

/**
 * @param {ReadableStream<Uint8Array>} body
 * @returns {AsyncGenerator<string>}
 */
export async function* events(body) {
  /** @type {string[]} */
  let data = [];
  for await (const line of lines(body)) {
    if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
    if (line || !data.length) continue;
    yield data.join("\n");
    data = [];
  }
}

/** @param {ReadableStream<Uint8Array>} body */
async function* lines(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + decoder.decode(value, { stream: true })).split("\n");
      rest = parts.pop() ?? "";
      for (const part of parts) yield part.endsWith("\r") ? part.slice(0, -1) : part;
    }
  } finally {
    await reader.cancel().catch(() => undefined); // one who stops reading frees the connection; it may be gone already
  }
}
