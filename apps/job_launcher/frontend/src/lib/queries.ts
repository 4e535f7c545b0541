// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
// What the pages read. All of it is kept up to date by the push, and asked for again only while the socket is down.
import { useInfiniteQuery, useQuery } from "@tanstack/react-query";
import { api } from "./api";
import { usePolling } from "./context";
import type { NumberStatus, Page, RunStatus } from "./types";

const LISTED = 50;
export const UNITS_PAGE = 200;

type Cursor = string | number | null;

function paged<Item>(read: (cursor: Cursor, signal: AbortSignal) => Promise<Page<Item>>) {
  return {
    initialPageParam: null as Cursor,
    queryFn: ({ pageParam, signal }: { pageParam: Cursor; signal: AbortSignal }) => read(pageParam, signal),
    getNextPageParam: (last: Page<Item>) => last.next,
  };
}

export function useStatus() {
  const refetchInterval = usePolling("status_poll_interval");
  return useQuery({ queryKey: ["status"], queryFn: ({ signal }) => api.status(signal), refetchInterval });
}

export function useBalance() {
  const refetchInterval = usePolling("status_poll_interval");
  return useQuery({ queryKey: ["balance"], queryFn: ({ signal }) => api.balance(signal), refetchInterval });
}

export function useRuns(status: RunStatus | "") {
  const refetchInterval = usePolling("status_poll_interval");
  const read = paged((before, signal) => api.runs(status, before, LISTED, signal));
  return useInfiniteQuery({ queryKey: ["runs", status], ...read, refetchInterval });
}

export function useRun(id: string) {
  const refetchInterval = usePolling("status_poll_interval");
  return useQuery({ queryKey: ["run", id], queryFn: ({ signal }) => api.run(id, signal), refetchInterval });
}

export function useUnits(id: string) {
  const refetchInterval = usePolling("status_poll_interval");
  const read = paged((after, signal) => api.units(id, after, UNITS_PAGE, signal));
  return useInfiniteQuery({ queryKey: ["units", id], ...read, refetchInterval });
}

export function useNumbers(status: NumberStatus | "") {
  const refetchInterval = usePolling("status_poll_interval");
  const read = paged((before, signal) => api.numbers(status, before, LISTED, signal));
  return useInfiniteQuery({ queryKey: ["numbers", status], ...read, refetchInterval });
}

export function useLedger() {
  const refetchInterval = usePolling("status_poll_interval");
  const read = paged((before, signal) => api.ledger(before, LISTED, signal));
  return useInfiniteQuery({ queryKey: ["ledger"], ...read, refetchInterval });
}
