// The panel of a conversation: its system prompt and how the model draws its tokens.
//
// An empty field means the model's own default, shown in it in grey and never sent. Changes hold from the next answer on.

import { byId, el, word } from "./dom.js";

/**
 * @typedef {{name: string, label: string, about: string, least: number, most?: number, step: number | "any", slides?: number}} Field
 */

/** @type {Field[]} `slides` is the far end of the slider of those that have one */
const FIELDS = [
  number("temperature", "Temperature", "0 always takes the likeliest token", { least: 0, slides: 2 }),
  number("top_p", "Top-p", "keeps the likeliest tokens that add up to p", { least: 0.01, most: 1, slides: 1 }),
  number("min_p", "Min-p", "drops tokens less likely than p times the likeliest", { least: 0, most: 1, slides: 1 }),
  number("top_k", "Top-k", "keeps the k likeliest tokens", { least: 1, step: 1 }),
  number("repetition_penalty", "Repetition penalty", "above 1, words used before are less likely", { least: 0.01, slides: 2 }),
  number("max_tokens", "Most tokens", "of one answer", { least: 1, step: 1 }),
  number("seed", "Seed", "the same seed draws the same answer", { least: 0, step: 1 }),
];
const PRESET = "vesalius-preset";

/** What new conversations begin with. @returns {{system: string, sampling: Record<string, any>}} */
export function preset() {
  return JSON.parse(localStorage.getItem(PRESET) ?? '{"system": "", "sampling": {}}');
}

/**
 * @param {string} name @param {string} label @param {string} about
 * @param {{least: number, most?: number, step?: number, slides?: number}} range
 * @returns {Field}
 */
function number(name, label, about, range) {
  return { name, label, about, step: "any", ...range };
}

export class Settings {
  /** @param {import("./chat.js").Chat} chat @param {() => import("./api.js").Model | undefined} model */
  constructor(chat, model) {
    this.chat = chat;
    this.model = model;
    this.dialog = byId("settings");
    this.body = byId("settings-body");
    byId("settings-open").addEventListener("click", () => this.open());
    this.dialog.addEventListener("close", () => chat.save(chat.current));
  }

  open() {
    this.draw();
    this.dialog.showModal();
  }

  draw() {
    this.body.replaceChildren(this.system(), ...FIELDS.map((field) => this.number(field)), this.stop(), this.foot());
  }

  system() {
    const { current } = this.chat;
    const field = el("textarea", { id: "system", rows: 4, placeholder: "How the model is to answer" });
    field.addEventListener("input", () => (current.system = field.value));
    field.value = current.system;
    return el("div", { class: "setting tall" }, el("label", { for: "system" }, "System prompt"), field);
  }

  /** @param {Field} field */
  number({ name, label, about, least, most, step, slides }) {
    const { sampling } = this.chat.current;
    const given = this.model()?.sampling?.[name];
    const range = { type: "number", inputmode: "decimal", min: least, max: most, step };
    const input = el("input", { id: name, ...range, placeholder: given ?? "default", "aria-describedby": `${name}-about` });
    const slider = el("input", { type: "range", min: 0, max: slides, step: 0.01, "aria-label": label, tabindex: -1 });
    const show = () => {
      slider.value = sampling[name] ?? given ?? (name === "min_p" ? 0 : 1);
      slider.classList.toggle("unset", sampling[name] === undefined);
    };
    input.value = sampling[name] ?? "";
    input.addEventListener("input", () => {
      if (!input.checkValidity()) return;
      if (input.value === "") delete sampling[name];
      else sampling[name] = Number(input.value);
      show();
    });
    slider.addEventListener("input", () => {
      sampling[name] = Math.max(least, Number(slider.value));
      input.value = sampling[name];
      show();
    });
    show();
    const words = [el("label", { for: name }, label), el("small", { id: `${name}-about` }, about)];
    return el("div", { class: "setting" }, el("div", {}, ...words), ...(slides ? [slider] : []), input);
  }

  stop() {
    const { sampling } = this.chat.current;
    const field = el("textarea", { id: "stop-texts", rows: 2, "aria-describedby": "stop-about", placeholder: "none" });
    field.value = (sampling.stop ?? []).map((text) => text.replaceAll("\\", "\\\\").replaceAll("\n", "\\n")).join("\n");
    field.addEventListener("input", () => {
      const texts = field.value.split("\n").filter(Boolean);
      if (texts.length) sampling.stop = texts.map(unescaped);
      else delete sampling.stop;
    });
    const words = [el("label", { for: "stop-texts" }, "Stop texts"), el("small", { id: "stop-about" }, "one a line; \\n is a line end")];
    return el("div", { class: "setting tall" }, el("div", {}, ...words), field);
  }

  foot() {
    const { current } = this.chat;
    const keep = word("Use for new conversations", () => {
      localStorage.setItem(PRESET, JSON.stringify({ system: current.system, sampling: current.sampling }));
      keep.textContent = "New conversations begin like this";
    });
    const reset = word("Back to the model's defaults", () => {
      for (const name of Object.keys(current.sampling)) delete current.sampling[name];
      this.draw();
    });
    return el("div", { class: "actions" }, keep, reset);
  }
}

/** @param {string} text */
function unescaped(text) {
  return text.replace(/\\(\\|n|t)/g, (_, sign) => ({ n: "\n", t: "\t" })[sign] ?? "\\");
}
