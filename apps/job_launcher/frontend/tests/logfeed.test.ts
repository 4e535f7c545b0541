// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
import { describe, expect, test, vi } from "vitest";
import { ApiError, type LogPiece } from "../src/lib/api";
import { LogFeed } from "../src/lib/logfeed";
import { LogStore } from "../src/lib/logstore";

const encoder = new TextEncoder();

/** A log on a server that grows, with the parts of it that a test lets through. */
class Server {
  bytes = new Uint8Array(0);
  pulls: number[] = [];
  /** What a pull answers at most. */
  piece = 50;
  /** Offset before which retention has taken the log away. */
  kept = 0;

  grow(lines: number): { offset: number; bytes: Uint8Array } {
    const offset = this.bytes.length;
    const text = Array.from({ length: lines }, (_, at) => `1.1|line ${offset + at}\n`).join("");
    const grown = encoder.encode(text);
    const all = new Uint8Array(offset + grown.length);
    all.set(this.bytes);
    all.set(grown, offset);
    this.bytes = all;
    return { offset, bytes: grown };
  }

  pull = async (from: number, limit: number): Promise<LogPiece> => {
    this.pulls.push(from);
    await Promise.resolve();
    const start = Math.max(from, this.kept);
    const bytes = this.bytes.slice(start, start + Math.min(limit, this.piece));
    return { from: start, next: start + bytes.length, size: this.bytes.length, bytes };
  };
}

function open(server: Server): { store: LogStore; feed: LogFeed } {
  const store = new LogStore();
  return { store, feed: new LogFeed(store, server.pull, () => undefined) };
}

function textOf(store: LogStore): string {
  return Array.from({ length: store.rowCount }, (_, at) => `1.1|${store.text(store.firstRow + at)}\n`).join("");
}

const whole = (server: Server) => new TextDecoder().decode(server.bytes);

describe("a feed", () => {
  test("reads what there is, piece by piece", async () => {
    const server = new Server();
    server.grow(40);
    const { store, feed } = open(server);
    await feed.catchUp();
    expect(textOf(store)).toBe(whole(server));
    expect(server.pulls.length).toBe(Math.ceil(server.bytes.length / 50));
  });

  test("takes pushes without asking", () => {
    const server = new Server();
    const { store, feed } = open(server);
    for (let at = 0; at < 10; at += 1) {
      const { offset, bytes } = server.grow(3);
      feed.push(offset, bytes);
    }
    expect(textOf(store)).toBe(whole(server));
    expect(server.pulls).toEqual([]);
  });

  test("fills a gap between two pushes, and the second comes but once", async () => {
    const server = new Server();
    const { store, feed } = open(server);
    const first = server.grow(5);
    feed.push(first.offset, first.bytes);
    server.grow(20);
    const last = server.grow(5);
    feed.push(last.offset, last.bytes);
    await feed.catchUp();
    expect(textOf(store)).toBe(whole(server));
  });

  test("after `lagged` and after a reconnect goes on where it ended", async () => {
    const server = new Server();
    const { store, feed } = open(server);
    const first = server.grow(5);
    feed.push(first.offset, first.bytes);
    server.grow(30);
    await feed.refresh();
    expect(server.pulls[0]).toBe(first.bytes.length);
    const again = server.grow(2);
    feed.push(again.offset, again.bytes);
    feed.push(first.offset, first.bytes); // a push from before
    expect(textOf(store)).toBe(whole(server));
  });

  test("pushes during a pull are neither lost nor doubled, in whatever order", async () => {
    const server = new Server();
    server.grow(30);
    const { store, feed } = open(server);
    const ended = feed.catchUp();
    const pushes = [server.grow(2), server.grow(2), server.grow(2)].reverse();
    for (const { offset, bytes } of pushes) feed.push(offset, bytes);
    await ended;
    await feed.catchUp();
    expect(textOf(store)).toBe(whole(server));
  });

  test("more pushes than are held back are pulled", async () => {
    const server = new Server();
    server.piece = 1 << 20;
    server.grow(10);
    const { store, feed } = open(server);
    const ended = feed.catchUp();
    for (let at = 0; at < 15; at += 1) {
      const { offset, bytes } = server.grow(12_000);
      feed.push(offset, bytes);
    }
    await ended;
    await feed.catchUp();
    expect(store.next).toBe(server.bytes.length);
    expect(textOf(store)).toBe(whole(server));
  });

  test("a refresh during a pull asks once more", async () => {
    const server = new Server();
    server.piece = 1 << 20;
    server.grow(3);
    const { store, feed } = open(server);
    const ended = feed.catchUp();
    await Promise.resolve();
    void feed.refresh();
    await ended;
    expect(server.pulls.length).toBe(2);
    expect(textOf(store)).toBe(whole(server));
  });

  test("goes on where the log now begins if its begin is gone", async () => {
    const server = new Server();
    server.grow(50);
    server.kept = 300;
    const { store, feed } = open(server);
    await feed.catchUp();
    expect(store.begin).toBe(300);
    expect(store.next).toBe(server.bytes.length);
    expect(whole(server).endsWith(textOf(store))).toBe(true);
  });

  test("tries again after a failure, says so, and stops for good when it is closed", async () => {
    vi.useFakeTimers();
    const server = new Server();
    server.grow(3);
    const store = new LogStore();
    let failures = 3;
    const pull = vi.fn(async (from: number, limit: number) => {
      failures -= 1;
      if (failures >= 0) throw new ApiError(0, "no way");
      return server.pull(from, limit);
    });
    const feed = new LogFeed(store, pull, () => undefined);
    const ended = feed.catchUp();
    await vi.advanceTimersByTimeAsync(10);
    expect(feed.error).toBe("no way");
    await vi.advanceTimersByTimeAsync(10_000);
    await ended;
    expect(feed.error).toBeNull();
    expect(textOf(store)).toBe(whole(server));
    failures = 100;
    void feed.catchUp();
    await vi.advanceTimersByTimeAsync(10);
    const asked = pull.mock.calls.length;
    feed.dispose();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(pull.mock.calls.length).toBe(asked);
    vi.useRealTimers();
  });

  test("doesn't ask again where the answer is that there is no such run", async () => {
    const pull = vi.fn(async () => {
      throw new ApiError(404, "There is no such run.");
    });
    const feed = new LogFeed(new LogStore(), pull, () => undefined);
    await feed.catchUp();
    expect(pull).toHaveBeenCalledTimes(1);
    expect(feed.error).toBe("There is no such run.");
  });
});
