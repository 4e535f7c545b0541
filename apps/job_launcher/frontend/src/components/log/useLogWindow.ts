// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
import { useVirtualizer } from "@tanstack/react-virtual";
import { type RefObject, useCallback, useEffect, useLayoutEffect, useRef, useState } from "react";
import type { Rows } from "../../lib/logstore";
import type { OpenLog } from "../../lib/useLog";

/** Rows that the scroll bar spans at once: a browser can't lay out an element of some ten million pixels or more. */
const SPAN = 200_000;
const ROW_HEIGHT = 20;
const NEAR = 100; // rows from the span's edge where it moves on

interface Options {
  log: OpenLog | null;
  rows: Rows;
  /** How many of the rows are shown. */
  shown: number;
  version: number;
  wrap: boolean;
  follow: boolean;
  setFollow: (follow: boolean) => void;
  frame: RefObject<HTMLDivElement | null>;
}

interface Target {
  row: number;
  align: "start" | "center";
}

/** The part of a long log that the scroll bar spans, moved along as the reader goes. */
export function useLogWindow({ log, rows, shown, version, wrap, follow, setFollow, frame }: Options) {
  const [firstRow, setFirstRow] = useState(0);
  const [moves, setMoves] = useState(0);
  const target = useRef<Target | null>(null);
  const lastTop = useRef(0);
  const topRow = useRef(0);
  const start = Math.min(rows.placeOf(firstRow), Math.max(0, shown - 1));
  const count = Math.max(0, Math.min(SPAN, shown - start));
  const getItemKey = useCallback((index: number) => rows.at(start + index), [rows, start]);
  const virtualizer = useVirtualizer({
    count,
    getScrollElement: () => frame.current,
    estimateSize: () => ROW_HEIGHT,
    overscan: 12,
    getItemKey,
  });

  useEffect(() => virtualizer.measure(), [virtualizer, wrap]);

  // While following, the span goes on in halves of itself.
  useEffect(() => {
    if (follow && shown - start > SPAN) setFirstRow(rows.at(shown - SPAN / 2));
  }, [follow, shown, start, rows]);

  // Rows let go at the log's begin: the reader's place stays.
  const held = log?.store.firstRow ?? 0;
  const heldBefore = useRef(held);
  if (heldBefore.current !== held) {
    heldBefore.current = held;
    if (!follow) target.current ??= { row: topRow.current, align: "start" };
  }

  const size = virtualizer.getTotalSize();
  useLayoutEffect(() => {
    const element = frame.current;
    if (element === null) return;
    if (target.current !== null) {
      const { row, align } = target.current;
      const place = rows.placeOf(row) - start;
      if (place >= 0 && place < count) {
        target.current = null;
        virtualizer.scrollToIndex(place, { align });
        lastTop.current = element.scrollTop;
      }
    } else if (follow) {
      element.scrollTop = element.scrollHeight;
      lastTop.current = element.scrollTop;
    }
  }, [version, size, start, count, follow, rows, virtualizer, frame, moves]);

  const move = useCallback((row: number, newStart: number, align: Target["align"]) => {
    target.current = { row, align };
    setFirstRow(rows.at(Math.max(0, newStart)));
    setMoves((before) => before + 1); // the span may be the same; the place in it isn't
  }, [rows]);

  const onScroll = useCallback(() => {
    const element = frame.current;
    if (element === null || target.current !== null) return;
    const up = element.scrollTop < lastTop.current - 1;
    lastTop.current = element.scrollTop;
    const first = virtualizer.getVirtualItemForOffset(element.scrollTop)?.index ?? 0;
    topRow.current = rows.at(start + first);
    const atEnd = element.scrollHeight - element.scrollTop - element.clientHeight < ROW_HEIGHT;
    if (up && !atEnd) setFollow(false);
    else if (atEnd && start + count >= shown) setFollow(true);
    if (up && first < NEAR && start > 0) move(topRow.current, start - SPAN / 2, "start");
    else if (!up && first > count - NEAR * 2 && start + count < shown) move(topRow.current, start + SPAN / 2, "start");
  }, [frame, virtualizer, rows, start, count, shown, setFollow, move]);

  /** Show a row in the middle. */
  const reveal = useCallback((row: number) => {
    setFollow(false);
    const place = rows.placeOf(row);
    if (place < start || place >= start + count) {
      move(row, place - SPAN / 2, "center");
      return;
    }
    virtualizer.scrollToIndex(place - start, { align: "center" });
  }, [rows, start, count, virtualizer, setFollow, move]);

  const toBegin = useCallback(() => {
    setFollow(false);
    move(rows.at(0), 0, "start");
  }, [rows, setFollow, move]);

  return { virtualizer, start, onScroll, reveal, toBegin };
}
