// Light or dark: as the system says, until the button says otherwise. What draws on a canvas hears "themechange".

import { byId } from "./dom.js";

export function prepareTheme() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const tell = () => document.dispatchEvent(new Event("themechange"));
  system.addEventListener("change", tell);
  byId("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
    root.dataset.theme = dark ? "light" : "dark";
    localStorage.setItem("vesalius-theme", root.dataset.theme);
    tell();
  });
}
