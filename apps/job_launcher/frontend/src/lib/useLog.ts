// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
// A run's log for a component: complete, followed by push, polled while the socket is down, let go on unmount.
import { useEffect, useState, useSyncExternalStore } from "react";
import { api } from "./api";
import { usePolling, useSession } from "./context";
import { LogFeed } from "./logfeed";
import { LogStore } from "./logstore";

export interface OpenLog {
  store: LogStore;
  feed: LogFeed;
  watch: (watcher: () => void) => () => void;
  /** Grows with every change that is worth drawing. */
  version: () => number;
  close: () => void;
}

function openLog(runId: string): OpenLog {
  const watchers = new Set<() => void>();
  let version = 0;
  let frame = 0;
  // Many pushes and pulled pieces may come between two frames; they are drawn once.
  const changed = () => {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      version += 1;
      watchers.forEach((watcher) => watcher());
    });
  };
  const store = new LogStore();
  const feed = new LogFeed(store, (from, limit, signal) => api.log(runId, from, limit, signal), changed);
  return {
    store,
    feed,
    version: () => version,
    watch: (watcher) => {
      watchers.add(watcher);
      return () => void watchers.delete(watcher);
    },
    close: () => {
      cancelAnimationFrame(frame);
      feed.dispose();
    },
  };
}

/** Open the log of a run of `size` bytes (what was known of it): only the end of one that is too large to hold.
 * After a restart of the server it is opened anew, for what was pushed last may never have come to its disk. */
export function useLog(runId: string, size: number): OpenLog | null {
  const { push } = useSession();
  const [log, setLog] = useState<OpenLog | null>(null);
  const [sizeAtFirst] = useState(size);
  const restarts = useSyncExternalStore(push.watch, push.restarts);

  useEffect(() => {
    const opened = openLog(runId);
    const before = sizeAtFirst - opened.store.limitBytes * 0.75;
    if (before > 0) opened.store.reset(Math.floor(before));
    setLog(opened);
    const unfollow = push.followLog(runId, {
      next: () => opened.store.next,
      refresh: () => opened.feed.refresh(),
      push: (offset, bytes) => opened.feed.push(offset, bytes),
    });
    return () => {
      unfollow();
      opened.close();
      setLog(null);
    };
  }, [runId, sizeAtFirst, push, restarts]);

  const interval = usePolling("log_poll_interval");
  useEffect(() => {
    if (log === null || interval === false) return;
    const timer = setInterval(() => void log.feed.catchUp(), interval);
    return () => clearInterval(timer);
  }, [log, interval]);
  return log;
}

const NEVER = () => () => undefined;
const ZERO = () => 0;

export function useLogVersion(log: OpenLog | null): number {
  return useSyncExternalStore(log?.watch ?? NEVER, log?.version ?? ZERO);
}
