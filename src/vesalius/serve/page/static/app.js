// Puts the page together: who hears whom. Everything else is in the module that bears its name.

import { Api, ApiError } from "./api.js";
import { Chat } from "./chat.js";
import { Composer } from "./composer.js";
import { messagesBefore, path } from "./conversation.js";
import { askForKey, prepareDialogs, Toast } from "./dialogs.js";
import { byId } from "./dom.js";
import { asJson, asMarkdown, download, fileName } from "./export.js";
import { Models } from "./models.js";
import { Note } from "./note.js";
import { PromptView } from "./prompt.js";
import { preset, Settings } from "./settings.js";
import { Shelf } from "./shelf.js";
import { Store, StoreError } from "./store.js";
import { prepareTheme } from "./theme.js";
import { greeting, Thread } from "./thread.js";

const OPEN = "vesalius-open"; // the conversation a reload comes back to

async function main() {
  prepareTheme();
  prepareDialogs();
  const toast = new Toast();
  const api = new Api(askForKey);
  const store = await openStore(toast);
  const models = new Models(() => refresh());
  const chat = new Chat(api, store, () => models.current?.id ?? "", preset);
  const note = new Note();
  const prompt = new PromptView(api);
  const composer = new Composer((text) => chat.ask(text), () => chat.stop());
  const actions = {
    retry: (turn) => chat.retry(turn),
    edit: (turn, text) => chat.edit(turn, text),
    choose: (turn) => chat.choose(turn),
    versions: (turn) => chat.versions(turn),
    prompt: (turn) => prompt.open(messagesBefore(chat.current, turn)),
  };
  const thread = new Thread(chat, actions, note, () => greeting(models.current?.id ?? "", (text) => composer.fill(text)));
  const shelf = new Shelf(chat, (message, undo) => toast.show(message, "Undo", undo));
  new Settings(chat, () => models.current);

  const refresh = () => {
    const { current } = chat;
    composer.setBusy(chat.isWriting(current));
    models.showUse(current);
    byId("title").textContent = current.title;
    document.title = current.title ? `${current.title} · Vesalius` : "Vesalius";
    byId("export-open").hidden = !current.nodes.length;
    sessionStorage.setItem(OPEN, current.id);
  };
  const begin = () => {
    chat.begin();
    shelf.slide(false);
    composer.fill("");
  };
  listen(chat, thread, shelf, toast, refresh);
  prepareKeys(chat, note, begin);
  prepareExport(chat);
  byId("new").addEventListener("click", begin);
  if (navigator.platform.startsWith("Mac")) byId("new-key").textContent = "⌘ K";
  await chat.load(sessionStorage.getItem(OPEN) ?? "");
  await loadModels(models, api, toast);
  refresh();
  if (!chat.current.nodes.length) thread.show();
  byId("draft").focus();
}

/** Keeps the page in step with what happens. */
function listen(chat, thread, shelf, toast, refresh) {
  const live = byId("live");
  chat.addEventListener("shape", () => {
    thread.show();
    live.textContent = chat.isWriting(chat.current) ? "The answer is being written." : "";
  });
  chat.addEventListener("grow", ({ detail }) => thread.grow(detail));
  chat.addEventListener("end", ({ detail }) => {
    thread.end(detail);
    if (path(chat.current).includes(detail)) live.textContent = detail.error ?? `Answer: ${detail.content}`;
  });
  chat.addEventListener("list", () => {
    shelf.draw();
    refresh();
  });
  chat.addEventListener("problem", ({ detail }) => toast.show(detail));
}

/** Keys that hold everywhere: Esc stops or puts the note away, Ctrl or Cmd with K begins a conversation. */
function prepareKeys(chat, note, begin) {
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !document.querySelector("dialog[open]")) {
      note.hide();
      chat.stop();
    }
    if (event.key.toLowerCase() === "k" && (event.ctrlKey || event.metaKey) && !event.altKey && !event.shiftKey) {
      event.preventDefault();
      if (!document.querySelector("dialog[open]")) begin();
    }
  });
}

function prepareExport(chat) {
  const give = (ending, text, type) => {
    byId("export").hidePopover();
    download(fileName(chat.current, ending), text, type);
  };
  byId("export-markdown").addEventListener("click", () => give("md", asMarkdown(chat.current), "text/markdown"));
  byId("export-json").addEventListener("click", () => give("json", asJson(chat.current, chat.tokens), "application/json"));
}

/** @returns {Promise<Store | null>} null, and a word about it, where the browser keeps nothing */
async function openStore(toast) {
  try {
    return await Store.open();
  } catch (error) {
    if (!(error instanceof StoreError || error instanceof DOMException)) throw error;
    toast.show(`${error.message}. Export what you want to keep.`);
    return null;
  }
}

async function loadModels(models, api, toast) {
  try {
    await models.load(api);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    toast.show(error.message, "Try again", () => loadModels(models, api, toast));
  }
}

main();
