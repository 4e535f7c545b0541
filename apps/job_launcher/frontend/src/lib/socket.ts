// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
// The one socket: what is pushed goes into the query cache and to the logs that are open.
import type { QueryClient, QueryKey } from "@tanstack/react-query";
import { io, type Socket } from "socket.io-client";
import { mergeRun, mergeRunList, mergeUnit } from "./merge";
import { type Balance, type Banner, isActive, type NumberCounts, type Run, type RunStatus, type Status, type Unit } from "./types";

export type Connection = "connecting" | "up" | "down";

export interface LogListener {
  /** Where the reader's log ends. */
  next: () => number;
  /** Pull what is missing; the socket is told to go on from there afterwards. */
  refresh: () => Promise<void>;
  push: (offset: number, bytes: Uint8Array) => void;
}

interface Hello {
  version: string;
  /** Another with each start of the server. */
  instance: string;
}

const RETRY = 3000; // after the server itself hung up, which socket.io doesn't mend by itself
const GATHER = 1000; // at most one reload of a list in this time, ms

export class Push {
  #connection: Connection = "connecting";
  readonly #socket: Socket;
  readonly #client: QueryClient;
  readonly #watchers = new Set<() => void>();
  readonly #logs = new Map<string, Set<LogListener>>();
  readonly #timers = new Map<string, ReturnType<typeof setTimeout>>();
  #announce: (run: Run) => void = () => undefined;
  #wasUp = false;
  #hello: Hello | null = null;
  #outdated = false;
  #banner: Banner | null | undefined;
  #restarts = 0;

  constructor(client: QueryClient) {
    this.#client = client;
    this.#socket = io({ transports: ["websocket"], autoConnect: false, reconnectionDelay: 500, reconnectionDelayMax: 5000 });
    this.#listen();
  }

  open(): void {
    this.#socket.connect();
  }

  /** Close for good: nothing is left that could call anyone. */
  close(): void {
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
    this.#watchers.clear();
    this.#logs.clear();
    this.#socket.removeAllListeners();
    this.#socket.disconnect();
  }

  readonly connection = (): Connection => this.#connection;

  /** Whether the server has become another version than the one this page came from. */
  readonly outdated = (): boolean => this.#outdated;

  /** What was pushed last; undefined before the first push. */
  readonly banner = (): Banner | null | undefined => this.#banner;

  /** How often the server was started anew since the page came: after a kill the end of a log may be other than what was pushed. */
  readonly restarts = (): number => this.#restarts;

  readonly watch = (watcher: () => void): (() => void) => {
    this.#watchers.add(watcher);
    return () => void this.#watchers.delete(watcher);
  };

  /** Call `announce` with each run whose state is pushed. */
  onRun(announce: (run: Run) => void): () => void {
    this.#announce = announce;
    return () => {
      this.#announce = () => undefined;
    };
  }

  /** Follow a run's log until the returned function is called. */
  followLog(runId: string, listener: LogListener): () => void {
    const listeners = this.#logs.get(runId) ?? new Set();
    this.#logs.set(runId, listeners.add(listener));
    void this.#subscribe(runId, listener);
    return () => {
      listeners.delete(listener);
      if (listeners.size > 0 || this.#logs.get(runId) !== listeners) return;
      this.#logs.delete(runId);
      if (this.#socket.connected) this.#socket.emit("unsubscribe", { run_id: runId });
    };
  }

  async #subscribe(runId: string, listener: LogListener): Promise<void> {
    await listener.refresh();
    if (!this.#socket.connected || this.#logs.get(runId)?.has(listener) !== true) return;
    this.#socket.emit("subscribe", { run_id: runId, from: listener.next() }, (answer?: { ok: boolean; size?: number }) => {
      if (answer?.ok === true && (answer.size ?? 0) > listener.next()) void listener.refresh();
    });
  }

  #listen(): void {
    const socket = this.#socket;
    socket.on("connect", () => this.#connected());
    socket.on("connect_error", () => this.#lost());
    socket.on("disconnect", () => this.#lost());
    socket.on("hello", (hello: Hello) => this.#greeted(hello));
    socket.on("run", (run: Run) => this.#run(run));
    socket.on("unit", (unit: Unit) => {
      this.#put<Parameters<typeof mergeUnit>[0]>(["units", unit.run_id], (data) => mergeUnit(data, unit));
    });
    socket.on("balance", (balance: Balance) => {
      this.#put<Balance>(["balance"], () => balance);
      this.#reload(["ledger"]);
    });
    socket.on("numbers", (numbers: NumberCounts) => {
      this.#put<Status>(["status"], (status) => status && { ...status, numbers });
      this.#reload(["numbers"]);
    });
    socket.on("banner", (banner: Banner | null) => {
      this.#banner = banner;
      this.#tell();
    });
    socket.on("log", (event: { run_id: string; offset: number; data: ArrayBuffer }) => {
      const bytes = new Uint8Array(event.data);
      this.#logs.get(event.run_id)?.forEach((each) => each.push(event.offset, bytes));
    });
    // The server has ended the subscription: what is missing is pulled, then it begins anew.
    socket.on("lagged", (event: { run_id: string }) => {
      this.#logs.get(event.run_id)?.forEach((each) => void this.#subscribe(event.run_id, each));
    });
  }

  #connected(): void {
    this.#clearTimer("retry");
    this.#set("up");
    // What was pushed while the socket was down is read once; the tunables too, for their change is a restart.
    if (this.#wasUp) void this.#client.invalidateQueries();
    this.#wasUp = true;
    for (const [runId, listeners] of this.#logs) listeners.forEach((each) => void this.#subscribe(runId, each));
  }

  #lost(): void {
    this.#set("down");
    if (!this.#socket.active) this.#setTimer("retry", RETRY, () => this.#socket.connect());
  }

  #greeted(hello: Hello): void {
    const before = this.#hello ?? hello;
    this.#hello = hello;
    this.#outdated ||= hello.version !== before.version;
    if (hello.instance !== before.instance) this.#restarts += 1;
    this.#tell();
  }

  #run(run: Run): void {
    this.#put<Run>(["run", run.id], (known) => mergeRun(known, run));
    for (const [key] of this.#client.getQueriesData({ queryKey: ["runs"] })) {
      const filter = (key[1] ?? "") as RunStatus | "";
      this.#put<Parameters<typeof mergeRunList>[0]>(key, (data) => mergeRunList(data, run, filter));
    }
    // Units that never began end without a push of their own.
    if (!isActive(run)) this.#reload(["units", run.id]);
    this.#announce(run);
  }

  /** Put what was pushed into the cache. An answer that is on its way may be older and would replace it: then ask again. */
  #put<Data>(key: QueryKey, update: (known: Data | undefined) => Data | undefined): void {
    this.#client.setQueryData<Data>(key, update);
    if (this.#client.isFetching({ queryKey: key, exact: true }) > 0) this.#reload(key);
  }

  /** Read again what is on the screen, not more often than once in a while. */
  #reload(key: QueryKey): void {
    const name = JSON.stringify(key);
    if (this.#timers.has(name)) return;
    this.#setTimer(name, GATHER, () => void this.#client.invalidateQueries({ queryKey: key }));
  }

  #set(connection: Connection): void {
    if (this.#connection === connection) return;
    this.#connection = connection;
    this.#tell();
  }

  #tell(): void {
    this.#watchers.forEach((watcher) => watcher());
  }

  #setTimer(name: string, delay: number, then: () => void): void {
    this.#clearTimer(name);
    const timer = setTimeout(() => {
      this.#timers.delete(name);
      then();
    }, delay);
    this.#timers.set(name, timer);
  }

  #clearTimer(name: string): void {
    clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }
}
