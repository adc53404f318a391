// Making and finding elements. Text always goes in as text: nothing on this page is made from markup.

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element with attributes, listeners (`onclick: f`) and children. An attribute that is undefined or false is left out.
 * @param {string} tag
 * @param {Record<string, string | number | boolean | undefined | ((event: any) => void)>} [attributes]
 * @param {...(Node | string)} children
 * @returns {any}
 */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== undefined && value !== false) made.setAttribute(name, String(value));
  }
  made.append(...children);
  return made;
}

/**
 * A small button that reads as a word.
 * @param {string} label
 * @param {(event: Event) => void} onclick
 * @param {Record<string, string | boolean | undefined>} [attributes]
 */
export function word(label, onclick, attributes = {}) {
  return el("button", { type: "button", class: "word", onclick, ...attributes }, label);
}

/**
 * The element of index.html with this id.
 * @param {string} id
 * @returns {any}
 */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`index.html has no #${id}`);
  return found;
}

/** An icon of one path in a square of 16. @param {string} path */
export function icon(path) {
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("viewBox", "0 0 16 16");
  drawing.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(SVG, "path");
  line.setAttribute("d", path);
  drawing.append(line);
  return drawing;
}

/** Lets a text field be as high as its text. @param {HTMLTextAreaElement} field */
export function fit(field) {
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + field.offsetHeight - field.clientHeight}px`;
}

/**
 * Copies text, also over plain HTTP where the browser withholds its clipboard, and says so on the button.
 * @param {string} text
 * @param {HTMLButtonElement} button
 */
export async function copy(text, button) {
  const label = button.textContent;
  if (navigator.clipboard) await navigator.clipboard.writeText(text);
  else copyBySelection(text);
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = label), 1500);
}

/** @param {string} text */
function copyBySelection(text) {
  const field = el("textarea", { class: "unseen" });
  field.value = text;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}
