// What a token's probability says: its surprise in bits, the level that colours it, and how it is written.

/**
 * A token of an answer, as it is stored: its text, the natural logarithm of its probability, and the likeliest tokens in
 * its place with theirs, best first.
 * @typedef {[text: string, logprob: number, rivals: [text: string, logprob: number][]]} Token
 */

/** @type {[number, string][]} The same steps as in the run's report: from hardly a surprise to a great one. */
export const LEVELS = [
  [0.8, "80\u202f% and more"],
  [0.5, "50 to 80\u202f%"],
  [0.2, "20 to 50\u202f%"],
  [0.05, "5 to 20\u202f%"],
  [0, "below 5\u202f%"],
];

/** -log2 of the probability. @param {number} logprob */
export const bits = (logprob) => Math.max(0, -logprob / Math.LN2);

/** From 0, hardly a surprise, to 4. @param {number} logprob */
export function level(logprob) {
  const probability = Math.exp(logprob);
  return LEVELS.findIndex(([least]) => probability >= least);
}

/** Counted from 1 among the likeliest; 0 where the token was none of them. @param {Token} token */
export function rank([text, , rivals]) {
  return rivals.findIndex(([rival]) => rival === text) + 1;
}

/** @param {number} logprob */
export function percent(logprob) {
  const share = Math.exp(logprob) * 100;
  if (share >= 99.95) return "100\u202f%";
  if (share < 0.01) return "< 0.01\u202f%";
  return `${share.toPrecision(share >= 10 ? 3 : 2)}\u202f%`;
}

/** A token as the API gives it, made small. @param {any} entry @returns {Token} */
export function token(entry) {
  const rivals = (entry.top_logprobs ?? []).map((rival) => [readable(rival), rival.logprob]);
  return [readable(entry), entry.logprob, rivals];
}

/** Bytes that are no whole character are written as such. @param {{token: string, bytes?: number[] | null}} entry */
function readable({ token, bytes }) {
  if (!token.includes("\ufffd") || !bytes) return token;
  return `‹${bytes.map((byte) => byte.toString(16).toUpperCase().padStart(2, "0")).join(" ")}›`;
}

/** The text with blanks and line ends as signs, for a label. @param {string} text */
export function inSigns(text) {
  return text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "·") || "(nothing)";
}

/** Mean surprise. @param {Token[]} tokens */
export function meanBits(tokens) {
  return tokens.reduce((sum, [, logprob]) => sum + bits(logprob), 0) / tokens.length;
}

/** The place of the most surprising token. @param {Token[]} tokens */
export function mostSurprising(tokens) {
  return tokens.reduce((best, [, logprob], n) => (logprob < tokens[best][1] ? n : best), 0);
}
