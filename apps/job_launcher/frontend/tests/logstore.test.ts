// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
import { describe, expect, test } from "vitest";
import { LogStore, Rows } from "../src/lib/logstore";

const encoder = new TextEncoder();
const LOG = encoder.encode("1.1|first\n2.1|\x1b[31mred\x1b[0m ünï\n0.0|from the launcher\n1.1+a long\n2.1|between\n1.1|er line\n2.2|again\n");

function rowsOf(store: LogStore): [number, number, string, string][] {
  return Array.from({ length: store.rowCount }, (_, at) => {
    const row = store.row(store.firstRow + at);
    if (row === null) throw new Error("a row is missing");
    return [row.unit, row.attempt, row.text, `${row.continued ? "<" : ""}${row.continues ? ">" : ""}`];
  });
}

const EXPECTED = [
  [1, 1, "first", ""],
  [2, 1, "\x1b[31mred\x1b[0m ünï", ""],
  [0, 0, "from the launcher", ""],
  [1, 1, "a long", ">"],
  [2, 1, "between", ""],
  [1, 1, "er line", "<"],
  [2, 2, "again", ""],
];

describe("records", () => {
  test.each([1, 2, 3, 5, 7, 11, 1000])("come out the same in chunks of %d bytes", (size) => {
    const store = new LogStore();
    for (let at = 0; at < LOG.length; at += size) expect(store.append(at, LOG.subarray(at, at + size))).toBe(true);
    expect(rowsOf(store)).toEqual(EXPECTED);
    expect(store.next).toBe(LOG.length);
  });

  test("one without its end isn't shown yet", () => {
    const store = new LogStore();
    store.append(0, encoder.encode("1.1|whole\n1.1|ha"));
    expect(rowsOf(store)).toEqual([[1, 1, "whole", ""]]);
    store.append(store.next, encoder.encode("lf\n"));
    expect(rowsOf(store).at(-1)).toEqual([1, 1, "half", ""]);
  });

  test.each([
    ["no head", "just text", [0, 0, "just text", ""]],
    ["no attempt", "7|text", [0, 0, "7|text", ""]],
    ["an empty line", "3.1|", [3, 1, "", ""]],
    ["an empty record", "", [0, 0, "", ""]],
    ["bars in the text", "3.1|a|b+c", [3, 1, "a|b+c", ""]],
    ["a head that never ends", "1234567890.1|x", [0, 0, "1234567890.1|x", ""]],
  ])("with %s are shown", (_, record, expected) => {
    const store = new LogStore();
    store.append(0, encoder.encode(`${record}\n`));
    expect(rowsOf(store)).toEqual([expected]);
  });

  test("invalid UTF-8 and NULs become harmless text", () => {
    const store = new LogStore();
    store.append(0, Uint8Array.from([...encoder.encode("1.1|a"), 0xff, 0x00, 0xc3, ...encoder.encode("b\n")]));
    expect(rowsOf(store)).toEqual([[1, 1, "a\ufffd\0\ufffdb", ""]]);
  });

  test("another attempt doesn't go on with an attempt's line", () => {
    const store = new LogStore();
    store.append(0, encoder.encode("1.1+broken off\n1.2|new\n"));
    expect(rowsOf(store)).toEqual([[1, 1, "broken off", ">"], [1, 2, "new", ""]]);
  });

  test("a long one becomes rows that are cut between characters", () => {
    const store = new LogStore({ rowBytes: 8 });
    store.append(0, encoder.encode("1.1|üüüüaüüü\n"));
    expect(rowsOf(store)).toEqual([[1, 1, "üüüü", ">"], [1, 1, "aüüü", "<"]]);
    store.append(store.next, encoder.encode("2.1|1234567ü\n"));
    expect(rowsOf(store).slice(2)).toEqual([[2, 1, "1234567", ">"], [2, 1, "ü", "<"]]);
  });

  test("a long one of bytes that are no text is cut all the same", () => {
    const store = new LogStore({ rowBytes: 8 });
    store.append(0, Uint8Array.from([...encoder.encode("1.1|"), ...new Array<number>(40).fill(0x80), 10]));
    expect(store.rowCount).toBeGreaterThanOrEqual(5);
    expect(rowsOf(store).reduce((sum, row) => sum + row[2].length, 0)).toBe(40);
  });

  test("lines across the store's blocks stay whole", () => {
    const store = new LogStore();
    const line = encoder.encode(`1.1|${"x".repeat(3000)}\n`);
    for (let at = 0; at < 2000; at += 1) store.append(store.next, line);
    expect(store.rowCount).toBe(2000);
    for (let at = 0; at < 2000; at += 1) expect(store.text(at)).toBe("x".repeat(3000));
  });
});

describe("bytes", () => {
  test("that are there already are left out, whole or in part", () => {
    const store = new LogStore();
    store.append(0, LOG.subarray(0, 20));
    expect(store.append(0, LOG.subarray(0, 10))).toBe(true);
    expect(store.append(5, LOG.subarray(5, 40))).toBe(true);
    expect(store.append(30, LOG.subarray(30))).toBe(true);
    expect(rowsOf(store)).toEqual(EXPECTED);
  });

  test("after a gap aren't taken", () => {
    const store = new LogStore();
    store.append(0, LOG.subarray(0, 20));
    expect(store.append(21, LOG.subarray(21))).toBe(false);
    expect(store.next).toBe(20);
  });
});

describe("a log that is too large", () => {
  const fill = (store: LogStore, lines: number) => {
    for (let at = 0; at < lines; at += 1) store.append(store.next, encoder.encode(`${1 + (at % 2)}.1|line ${at}\n`));
  };

  test("lets its oldest rows go and keeps the numbers of the others", () => {
    const store = new LogStore({ bytes: 10_000 });
    fill(store, 5000);
    expect(store.next - store.begin).toBeLessThanOrEqual(10_000);
    expect(store.firstRow + store.rowCount).toBe(5000);
    expect(store.text(4999)).toBe("line 4999");
    expect(store.text(store.firstRow)).toBe(`line ${store.firstRow}`);
    expect(store.row(store.firstRow - 1)).toBeNull();
  });

  test("holds no more rows than it may", () => {
    const store = new LogStore({ rows: 100 });
    fill(store, 1000);
    expect(store.rowCount).toBeLessThanOrEqual(100);
    expect(store.text(999)).toBe("line 999");
  });

  test("shows a unit's rows all the same", () => {
    const store = new LogStore({ rows: 100 });
    const rows = new Rows(store, 2);
    for (let round = 0; round < 20; round += 1) {
      for (let at = 0; at < 10; at += 1) store.append(store.next, encoder.encode(`${1 + (at % 2)}.1|${round * 10 + at}\n`));
      rows.update();
    }
    const count = rows.update();
    const texts = Array.from({ length: count }, (_, at) => Number(store.text(rows.at(at))));
    expect(texts.at(-1)).toBe(199);
    expect(texts.every((each, at) => at === 0 || each === (texts[at - 1] ?? 0) + 2)).toBe(true);
    expect(rows.at(0)).toBeGreaterThanOrEqual(store.firstRow);
  });

  test("entered in the middle begins with a whole line", () => {
    const store = new LogStore();
    store.reset(8);
    store.append(8, LOG.subarray(8));
    expect(rowsOf(store)).toEqual(EXPECTED.slice(1));
  });
});

describe("a unit's rows", () => {
  test("are found by place and by number", () => {
    const store = new LogStore();
    store.append(0, LOG);
    const rows = new Rows(store, 1);
    expect(rows.update()).toBe(3);
    expect([0, 1, 2].map((at) => rows.at(at))).toEqual([0, 3, 5]);
    expect([0, 1, 3, 4, 6].map((number) => rows.placeOf(number))).toEqual([0, 1, 1, 2, 3]);
  });
});
