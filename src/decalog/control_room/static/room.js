// What a page does by itself: its theme, its live parts, its parts that load late, and its keys. No other script runs.
"use strict";
const root = document.documentElement;
root.dataset.theme = localStorage.getItem("theme") || "";

const EVERY_MS = 2000;
const fetched = async (path, options) => {
  const answer = await fetch(path, { credentials: "same-origin", redirect: "error", ...options });
  return new DOMParser().parseFromString(await answer.text(), "text/html");
};

async function refresh() {
  const live = [...document.querySelectorAll("[data-live]")];
  if (!document.hidden && live.length) {
    try {
      const page = await fetched(location.href);
      for (const old of live) {
        const fresh = page.getElementById(old.id);
        // What somebody is in the middle of stays: a field, a selection, details that are open.
        const busy = old.contains(document.activeElement) || old.querySelector("details[open]") || !getSelection().isCollapsed;
        if (fresh && !busy) old.replaceChildren(...fresh.childNodes);
      }
    } catch { /* The server is away: what is shown stays, and the next try may find it. */ }
  }
  setTimeout(refresh, EVERY_MS);
}

async function load(place, path, options) {
  place.setAttribute("aria-busy", "true");
  try {
    const part = (await fetched(path, options)).getElementById("part");
    place.replaceChildren(...(part ? part.childNodes : []));
  } catch { place.textContent = "No answer. Open the page again."; }
  place.removeAttribute("aria-busy");
}

function select(rows, step) {
  const now = rows.findIndex((row) => row.getAttribute("aria-selected") === "true");
  const next = rows[Math.min(Math.max(now + step, 0), rows.length - 1)];
  rows.forEach((row) => row.removeAttribute("aria-selected"));
  next.setAttribute("aria-selected", "true");
  next.querySelector("a").focus();
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  const rows = [...document.querySelectorAll("[data-keys] tbody tr")].filter((row) => row.querySelector("a"));
  if (rows.length && (event.key === "j" || event.key === "k")) select(rows, event.key === "j" ? 1 : -1);
  const buttons = document.querySelectorAll("[data-digits] button");
  if (buttons.length && buttons[event.key - 1]) buttons[event.key - 1].click();
  if (event.key === "Escape") document.querySelector("[data-escape]")?.click();
}

document.addEventListener("DOMContentLoaded", () => {
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    localStorage.setItem("theme", (root.dataset.theme = dark ? "light" : "dark"));
  });
  document.querySelectorAll("[data-load]").forEach((place) => load(place, place.dataset.load));
  document.querySelectorAll("form[data-into]").forEach((form) => form.addEventListener("submit", (event) => {
    event.preventDefault();
    load(document.getElementById(form.dataset.into), form.action, { method: "POST", body: new URLSearchParams(new FormData(form)) });
  }));
  document.addEventListener("keydown", keys);
  setTimeout(refresh, EVERY_MS);
});
