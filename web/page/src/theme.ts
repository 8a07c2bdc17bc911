import { signal } from "@preact/signals";

// A choice is kept for this browser; without one, the page follows the system.
const stored = localStorage.getItem("ptn-theme");
const system = matchMedia("(prefers-color-scheme: light)");
export const theme = signal<"dark" | "light">(
  stored === "dark" || stored === "light" ? stored : system.matches ? "light" : "dark",
);

export function applyTheme(): void {
  document.documentElement.dataset["theme"] = theme.value;
}

export function switchTheme(): void {
  theme.value = theme.value === "dark" ? "light" : "dark";
  localStorage.setItem("ptn-theme", theme.value);
}

system.addEventListener("change", () => {
  if (localStorage.getItem("ptn-theme") === null) theme.value = system.matches ? "light" : "dark";
});
