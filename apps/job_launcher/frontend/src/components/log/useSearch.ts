// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
import { useCallback, useEffect, useMemo, useState } from "react";
import type { Rows } from "../../lib/logstore";
import { Search } from "../../lib/search";
import type { OpenLog } from "../../lib/useLog";

const TURN = 8; // ms of searching between two chances to draw
const TYPING = 150; // ms without a key before a search begins

export interface Found {
  needle: string;
  count: number;
  full: boolean;
  done: boolean;
  /** The match that is shown, counted from 1; 0 for none. */
  place: number;
  row: number | null;
  step: (direction: 1 | -1) => number | null;
}

/** Search the shown rows for `text` as it is typed; rows that come later are searched too. */
export function useSearch(log: OpenLog | null, rows: Rows | null, text: string, version: number): Found {
  const needle = useSettled(text.trim() === "" ? "" : text);
  const search = useMemo(
    () => (log === null || rows === null || needle === "" ? null : new Search(log.store, rows, needle)),
    [log, rows, needle],
  );
  const [, setProgress] = useState(0);
  const [done, setDone] = useState(false);
  const [row, setRow] = useState<number | null>(null);

  useEffect(() => setRow(null), [search]);
  useEffect(() => {
    if (search === null || log === null) return;
    let timer: ReturnType<typeof setTimeout>;
    const turn = () => {
      search.trim(log.store.firstRow);
      const ended = search.step(TURN);
      setDone(ended);
      setProgress((value) => value + 1);
      if (!ended) timer = setTimeout(turn, 0);
    };
    turn();
    return () => clearTimeout(timer);
  }, [search, log, version]);

  const step = useCallback((direction: 1 | -1): number | null => {
    const matches = search?.matches ?? [];
    if (matches.length === 0) return null;
    const before = row ?? (direction === 1 ? -1 : Number.MAX_SAFE_INTEGER);
    const at = direction === 1 ? matches.findIndex((each) => each > before) : matches.findLastIndex((each) => each < before);
    const next = matches.at(at === -1 && direction === 1 ? 0 : at) ?? null;
    setRow(next);
    return next;
  }, [search, row]);

  const matches = search?.matches ?? [];
  return {
    needle: needle.toLowerCase(),
    count: matches.length,
    full: search?.full ?? false,
    done,
    place: row === null ? 0 : matches.indexOf(row) + 1,
    row,
    step,
  };
}

function useSettled(text: string): string {
  const [settled, setSettled] = useState(text);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(text), TYPING);
    return () => clearTimeout(timer);
  }, [text]);
  return settled;
}
