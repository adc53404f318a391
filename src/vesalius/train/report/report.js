"use strict";
// Two comforts on a page that is complete without them: a theme button, and values under the pointer.

const tip = document.getElementById("tip");

document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

function showTip(event, lines) {
  tip.replaceChildren(...lines);
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = event.clientX + 16 + width > innerWidth - 12 ? event.clientX - 16 - width : event.clientX + 16;
  tip.style.left = `${Math.max(12, left)}px`;
  tip.style.top = `${Math.max(12, Math.min(event.clientY + 18, innerHeight - height - 12))}px`;
}

function element(tag, ...children) {
  const made = document.createElement(tag);
  made.append(...children);
  return made;
}

// A token's title becomes its tip at the first touch, so that the browser's slow one does not show as well.
document.addEventListener("pointerover", (event) => {
  const token = event.target.closest(".text .t");
  if (!token) return;
  if (token.title) {
    token.dataset.tip = token.title;
    token.removeAttribute("title");
  }
  showTip(event, [token.dataset.tip]);
});
document.addEventListener("pointerout", (event) => {
  if (event.target.closest(".text .t")) tip.hidden = true;
});

const NAMES = ["Training loss", "Learning rate", "Gradient norm", "Tokens per second", "MFU", "Last validation loss"];

for (const strip of document.querySelectorAll(".strip")) {
  const rows = JSON.parse(strip.querySelector("script").textContent);
  const steps = rows.map((row) => row[0]);
  const [first, last] = strip.dataset.span.split(" ").map(Number);
  const cursor = element("i");
  cursor.className = "cursor";
  cursor.hidden = true;
  strip.append(cursor);

  strip.addEventListener("pointermove", (event) => {
    const panel = [...strip.querySelectorAll(".role-scope > g > .background")].find((path) => path.checkVisibility());
    const { left, width } = panel.getBoundingClientRect();
    const wanted = first + ((event.clientX - left) / width) * (last - first);
    const nearest = steps.reduce((best, step, n) => (Math.abs(step - wanted) < Math.abs(steps[best] - wanted) ? n : best), 0);
    const [step, ...values] = rows[nearest];
    cursor.style.left = `${left + ((step - first) / (last - first)) * width - strip.getBoundingClientRect().left}px`;
    cursor.hidden = false;
    const lines = NAMES.flatMap((name, n) => (values[n] ? [element("div", name, element("b", values[n]))] : []));
    showTip(event, [element("strong", `Step ${step.toLocaleString("en")}`), ...lines]);
  });
  strip.addEventListener("pointerleave", () => {
    cursor.hidden = tip.hidden = true;
  });
}
