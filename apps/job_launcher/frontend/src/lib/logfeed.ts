// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
// Keeps a log store complete from two sources: what is pushed, and what is pulled where a push is missing.
import type { LogPiece } from "./api";
import { ApiError } from "./api";
import type { LogStore } from "./logstore";

export type Pull = (from: number, limit: number, signal: AbortSignal) => Promise<LogPiece>;

const PIECE = 1 << 20;
const HELD_BACK = 2 << 20; // pushed bytes kept while a pull is under way
const FIRST_DELAY = 1000;
const LAST_DELAY = 15000;

/** Bytes go into the store only where it ends, so whatever comes late, twice or out of order, none is missing or doubled. */
export class LogFeed {
  /** What kept the last pull from ending, for people; null while all is well. */
  error: string | null = null;
  /** The log's size as last heard, in bytes; null before the first answer. */
  size: number | null = null;

  readonly #store: LogStore;
  readonly #pull: Pull;
  readonly #changed: () => void;
  readonly #abort = new AbortController();
  #held: { offset: number; bytes: Uint8Array }[] = [];
  #heldBytes = 0;
  #again = false;
  #pulling: Promise<void> | null = null;

  constructor(store: LogStore, pull: Pull, changed: () => void) {
    this.#store = store;
    this.#pull = pull;
    this.#changed = changed;
  }

  /** Take a push. One that leaves a gap starts a pull; the gap's bytes come first, then this one's. */
  push(offset: number, bytes: Uint8Array): void {
    this.size = Math.max(this.size ?? 0, offset + bytes.length);
    if (this.#pulling === null && this.#store.append(offset, bytes)) {
      this.#changed();
      return;
    }
    if (this.#heldBytes + bytes.length <= HELD_BACK) {
      this.#held.push({ offset, bytes });
      this.#heldBytes += bytes.length;
    } else {
      this.#again = true;
    }
    void this.catchUp();
  }

  /** Pull until the store ends where the log does. Calls while that goes on join it. */
  catchUp(): Promise<void> {
    if (this.#abort.signal.aborted) return Promise.resolve();
    this.#pulling ??= this.#run().finally(() => {
      this.#pulling = null;
      if (!this.#abort.signal.aborted) this.#changed();
    });
    return this.#pulling;
  }

  /** As catchUp, and once more if a pull was under way: its last answer may be older than this call. */
  refresh(): Promise<void> {
    if (this.#pulling !== null) this.#again = true;
    return this.catchUp();
  }

  dispose(): void {
    this.#abort.abort();
    this.#held = [];
  }

  async #run(): Promise<void> {
    let delay = FIRST_DELAY;
    for (;;) {
      try {
        if (await this.#pullOnce()) return;
        delay = FIRST_DELAY;
      } catch (error) {
        if (this.#abort.signal.aborted) return;
        this.error = error instanceof Error ? error.message : String(error);
        this.#changed();
        if (error instanceof ApiError && error.status >= 400 && error.status < 500 && error.status !== 429) return;
        await pause(delay, this.#abort.signal);
        delay = Math.min(delay * 2, LAST_DELAY);
      }
      if (this.#abort.signal.aborted) return;
    }
  }

  /** One request; true where the store has come to the end. */
  async #pullOnce(): Promise<boolean> {
    const store = this.#store;
    this.#again = false;
    const wanted = store.next;
    const piece = await this.#pull(wanted, PIECE, this.#abort.signal);
    if (this.#abort.signal.aborted) return true;
    this.error = null;
    this.size = Math.max(piece.size, this.size ?? 0);
    if (piece.from > wanted) store.reset(piece.from); // retention has taken what was before
    store.append(piece.from, piece.bytes);
    this.#releaseHeld();
    this.#changed();
    if (store.next === wanted && piece.size > wanted) throw new Error("The server sent nothing of a log that goes on.");
    return store.next >= piece.size && this.#held.length === 0 && !this.#again;
  }

  #releaseHeld(): void {
    this.#held = this.#held.filter((each) => !this.#store.append(each.offset, each.bytes));
    this.#heldBytes = this.#held.reduce((sum, each) => sum + each.bytes.length, 0);
  }
}

function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    }, { once: true });
  });
}
