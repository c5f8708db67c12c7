/** Light or dark: as the system has it, until the user says otherwise. */
import type { Theme } from "./palette.ts";

const KEY = "faultline-theme";
const system = matchMedia("(prefers-color-scheme: light)");
const listeners = new Set<() => void>();

export function currentTheme(): Theme {
  const chosen = localStorage.getItem(KEY);
  if (chosen === "light" || chosen === "dark") return chosen;
  return system.matches ? "light" : "dark";
}

export function toggleTheme(): void {
  localStorage.setItem(KEY, currentTheme() === "light" ? "dark" : "light");
  apply();
}

/** What draws on canvases has to draw anew. */
export function onTheme(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** A colour of style.css, for canvases. */
export function styleColour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

export function startTheme(): void {
  system.addEventListener("change", apply);
  apply();
}

function apply(): void {
  document.documentElement.dataset.theme = currentTheme();
  for (const listener of listeners) listener();
}
