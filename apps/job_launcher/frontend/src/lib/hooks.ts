// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
// Small things that several pages need.
import { useEffect, useState } from "react";

/** The time, for durations that grow; it stands still where nothing grows. */
export function useNow(running: boolean): number {
  const [now, setNow] = useState(() => Date.now());
  useEffect(() => {
    if (!running) return;
    setNow(Date.now());
    const timer = setInterval(() => setNow(Date.now()), 1000);
    return () => clearInterval(timer);
  }, [running]);
  return now;
}

export function useTitle(title: string): void {
  useEffect(() => {
    document.title = `${title} · Job launcher`;
  }, [title]);
}

const listeners = new Set<(text: string) => void>();

/** Have a screen reader say `text` when it is free. */
export function announce(text: string): void {
  listeners.forEach((listener) => listener(text));
}

export function useAnnouncement(): string {
  const [text, setText] = useState("");
  useEffect(() => {
    listeners.add(setText);
    return () => void listeners.delete(setText);
  }, []);
  return text;
}
