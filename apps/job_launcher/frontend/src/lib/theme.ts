// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
// Light or dark: as the system says, or as the reader chose.
import { useSyncExternalStore } from "react";

export type Choice = "auto" | "light" | "dark";

const KEY = "theme";
const dark = matchMedia("(prefers-color-scheme: dark)");
const watchers = new Set<() => void>();

function stored(): Choice {
  try {
    const value = localStorage.getItem(KEY);
    return value === "light" || value === "dark" ? value : "auto";
  } catch {
    return "auto"; // storage is forbidden: the choice lasts as long as the page
  }
}

let choice = stored();

function show(): void {
  if (choice === "auto") delete document.documentElement.dataset["theme"];
  else document.documentElement.dataset["theme"] = choice;
}

export function chooseTheme(next: Choice): void {
  choice = next;
  try {
    localStorage.setItem(KEY, next);
  } catch {
    // See stored().
  }
  show();
  watchers.forEach((watcher) => watcher());
}

function watch(watcher: () => void): () => void {
  watchers.add(watcher);
  dark.addEventListener("change", watcher);
  return () => {
    watchers.delete(watcher);
    dark.removeEventListener("change", watcher);
  };
}

export function useThemeChoice(): Choice {
  return useSyncExternalStore(watch, () => choice);
}

export function useTheme(): "light" | "dark" {
  return useSyncExternalStore(watch, () => (choice === "auto" ? (dark.matches ? "dark" : "light") : choice));
}

show();
