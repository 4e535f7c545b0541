// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
// Figures and times as a reader takes them in. Null is "not yet" or "not measured" and is never shown as 0.
import type { Counts, RunStatus, Unit, UnitStatus } from "./types";

export const NONE = "–";

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export function count(value: number | null): string {
  return value === null ? NONE : WHOLE.format(value);
}

export function credits(value: number | null): string {
  return value === null ? NONE : `${WHOLE.format(value)} ${Math.abs(value) === 1 ? "credit" : "credits"}`;
}

export function plural(value: number, one: string, many = `${one}s`): string {
  return `${WHOLE.format(value)} ${value === 1 ? one : many}`;
}

/** Bytes with binary prefixes, at most three digits before the unit. */
export function bytes(value: number | null): string {
  if (value === null) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let size = value;
  let at = 0;
  while (size >= 999.5 && at < units.length - 1) {
    size /= 1024;
    at += 1;
  }
  const digits = at === 0 || size >= 99.95 ? 0 : 1;
  return `${size.toFixed(digits)} ${units[at] ?? ""}`;
}

/** Milliseconds as "0.4 s", "12 s", "3 min 05 s", "2 h 07 min". */
export function duration(milliseconds: number | null): string {
  if (milliseconds === null) return NONE;
  const seconds = Math.max(0, milliseconds) / 1000;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  const minutes = Math.round(whole / 60);
  return `${Math.floor(minutes / 60)} h ${two(minutes % 60)} min`;
}

function two(value: number): string {
  return String(value).padStart(2, "0");
}

export function between(start: string | null, end: string | null, now: number): number | null {
  if (start === null) return null;
  return (end === null ? now : Date.parse(end)) - Date.parse(start);
}

/** A moment in the reader's own time zone: today's without its date. */
export function moment(iso: string | null, now: number = Date.now()): string {
  if (iso === null) return NONE;
  const at = new Date(iso);
  const time = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  if (at.toDateString() === new Date(now).toDateString()) return time;
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${time}`;
}

/** Which shape, beside its colour, says a status. */
export const UNIT_SIGNS: Record<UnitStatus, string> = {
  waiting: "○", running: "▶", succeeded: "✓", failed: "✕", stopped: "■",
};

export const RUN_SIGNS: Record<RunStatus, string> = {
  queued: "○", running: "▶", stopping: "◧", succeeded: "✓", partly: "◑", failed: "✕", stopped: "■",
};

export const RUN_WORDS: Record<RunStatus, string> = {
  queued: "queued", running: "running", stopping: "stopping", succeeded: "succeeded",
  partly: "partly succeeded", failed: "failed", stopped: "stopped",
};

/** "3 running, 2 waiting, 1 failed": only what there is. */
export function countsText(counts: Counts): string {
  const order = ["running", "waiting", "succeeded", "failed", "stopped", "retried"] as const;
  const parts = order.filter((each) => counts[each] > 0).map((each) => `${count(counts[each])} ${each}`);
  return parts.length > 0 ? parts.join(", ") : "no units yet";
}

/** A tunable's value with its unit; a list of nothing and null are said as such. */
export function withUnit(value: unknown, unit: string): string {
  if (value === null || value === undefined) return NONE;
  const text = typeof value === "number" && Number.isInteger(value) && Math.abs(value) >= 10000 ? WHOLE.format(value) : String(value);
  return unit === "" ? text : `${text} ${unit}`;
}

/** How far a running unit says it is, in whole percent; null where it says nothing. */
export function progressOf(unit: Unit): number | null {
  const progress = unit.status === "running" ? unit.report?.["progress"] : null;
  if (typeof progress !== "object" || progress === null || !("done" in progress) || !("of" in progress)) return null;
  const share = Number(progress.done) / Number(progress.of);
  return share >= 0 && share <= 1 ? Math.floor(share * 100) : null;
}

/** What a program said, as a sentence. */
export function sentence(text: string): string {
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return text === "" || /[.!?]$/.test(text) ? first : `${first}.`;
}
