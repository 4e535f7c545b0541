// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
// A run's log as the browser holds it: the stream's bytes, and an index of rows made from the records in them.
// A record is `<unit>.<attempt>|<bytes>\n`, or `+` instead of `|` where the worker's line goes on in the unit's next record.

const BLOCK = 1 << 20;
const NEWLINE = 10;
const BAR = 124;
const PLUS = 43;
const DOT = 46;

const CONTINUED = 1; // goes on from the unit's row before
const CONTINUES = 2; // the unit's next row goes on with the same line

export interface Row {
  unit: number;
  attempt: number;
  text: string;
  continued: boolean;
  continues: boolean;
}

export interface Limits {
  /** What is held at most; older rows are let go in steps of a quarter. */
  bytes: number;
  rows: number;
  /** A longer piece becomes several rows, so that one line of megabytes doesn't become one element of megabytes. */
  rowBytes: number;
}

const DEFAULTS: Limits = { bytes: 64 << 20, rows: 1_600_000, rowBytes: 4096 };

export class LogStore {
  /** Offset in the run's log of the first byte held. */
  begin = 0;
  /** Offset of the next byte wanted. */
  next = 0;
  /** Number of the first row held; numbers stay as rows are let go. */
  firstRow = 0;
  rowCount = 0;

  readonly #limits: Limits;
  readonly #decoder = new TextDecoder();
  #blocks: Uint8Array[] = [];
  #base = 0; // offset of the first block's first byte
  #record = 0; // offset where the record begins whose end hasn't come yet
  #skipping = false; // the log was entered in the middle of a record
  #starts = new Float64Array(1024);
  #lengths = new Uint32Array(1024);
  #units = new Uint32Array(1024);
  #attempts = new Uint16Array(1024);
  #flags = new Uint8Array(1024);
  #open = new Map<number, number>(); // unit -> attempt whose line goes on

  constructor(limits: Partial<Limits> = {}) {
    this.#limits = { ...DEFAULTS, ...limits };
  }

  get limitBytes(): number {
    return this.#limits.bytes;
  }

  /** Forget everything and go on from `offset`; unless that is 0, what comes before the next line's begin is left out. */
  reset(offset: number): void {
    this.begin = this.next = this.#base = this.#record = offset;
    this.firstRow += this.rowCount;
    this.rowCount = 0;
    this.#blocks = [];
    this.#open.clear();
    this.#skipping = offset > 0;
  }

  /** Take in `bytes`, whose first has `offset`. What is there already is left out; return false for a gap, with nothing taken. */
  append(offset: number, bytes: Uint8Array): boolean {
    if (offset > this.next) return false;
    const fresh = bytes.subarray(Math.min(this.next - offset, bytes.length));
    if (fresh.length === 0) return true;
    const at = this.next;
    this.#keep(fresh);
    for (let end = fresh.indexOf(NEWLINE); end !== -1; end = fresh.indexOf(NEWLINE, end + 1)) {
      this.#finishRecord(at + end);
    }
    this.#letGo();
    return true;
  }

  row(number: number): Row | null {
    const at = number - this.firstRow;
    if (at < 0 || at >= this.rowCount) return null;
    const flags = this.#flags[at] ?? 0;
    return {
      unit: this.#units[at] ?? 0,
      attempt: this.#attempts[at] ?? 0,
      text: this.text(number),
      continued: (flags & CONTINUED) !== 0,
      continues: (flags & CONTINUES) !== 0,
    };
  }

  /** A row's text; bytes that aren't UTF-8 show as U+FFFD. */
  text(number: number): string {
    const at = number - this.firstRow;
    const start = this.#starts[at] ?? 0;
    return this.#decoder.decode(this.#bytes(start, start + (this.#lengths[at] ?? 0)));
  }

  unitOf(number: number): number {
    return this.#units[number - this.firstRow] ?? 0;
  }

  #keep(bytes: Uint8Array): void {
    let taken = 0;
    while (taken < bytes.length) {
      const used = this.next - this.#base;
      const index = Math.floor(used / BLOCK);
      const block = (this.#blocks[index] ??= new Uint8Array(BLOCK));
      const piece = bytes.subarray(taken, taken + BLOCK - (used % BLOCK));
      block.set(piece, used % BLOCK);
      taken += piece.length;
      this.next += piece.length;
    }
  }

  #bytes(start: number, end: number): Uint8Array {
    const first = Math.floor((start - this.#base) / BLOCK);
    const last = Math.floor((end - 1 - this.#base) / BLOCK);
    const from = (start - this.#base) % BLOCK;
    if (end <= start) return new Uint8Array(0);
    if (first === last) return (this.#blocks[first] as Uint8Array).subarray(from, from + end - start);
    const joined = new Uint8Array(end - start);
    let at = start;
    while (at < end) {
      const inside = (at - this.#base) % BLOCK;
      const block = this.#blocks[Math.floor((at - this.#base) / BLOCK)] as Uint8Array;
      const piece = block.subarray(inside, Math.min(BLOCK, inside + end - at));
      joined.set(piece, at - start);
      at += piece.length;
    }
    return joined;
  }

  #finishRecord(end: number): void {
    const start = this.#record;
    this.#record = end + 1;
    if (this.#skipping) {
      this.#skipping = false;
      return;
    }
    const record = this.#bytes(start, end);
    const head = readHead(record);
    const continued = this.#open.get(head.unit) === head.attempt;
    if (head.continues) this.#open.set(head.unit, head.attempt);
    else this.#open.delete(head.unit);
    let at = head.length;
    do {
      const stop = cut(record, at, this.#limits.rowBytes);
      const flags = (continued || at > head.length ? CONTINUED : 0) | (head.continues || stop < record.length ? CONTINUES : 0);
      this.#addRow(start + at, stop - at, head.unit, head.attempt, flags);
      at = stop;
    } while (at < record.length);
  }

  #addRow(start: number, length: number, unit: number, attempt: number, flags: number): void {
    const at = this.rowCount;
    if (at === this.#starts.length) this.#grow(at * 2);
    this.#starts[at] = start;
    this.#lengths[at] = length;
    this.#units[at] = unit;
    this.#attempts[at] = attempt;
    this.#flags[at] = flags;
    this.rowCount = at + 1;
  }

  #grow(size: number): void {
    this.#starts = grown(this.#starts, new Float64Array(size));
    this.#lengths = grown(this.#lengths, new Uint32Array(size));
    this.#units = grown(this.#units, new Uint32Array(size));
    this.#attempts = grown(this.#attempts, new Uint16Array(size));
    this.#flags = grown(this.#flags, new Uint8Array(size));
  }

  #letGo(): void {
    const { bytes, rows } = this.#limits;
    if (this.next - this.begin <= bytes && this.rowCount <= rows) return;
    const least = this.next - Math.floor(bytes * 0.75);
    let gone = Math.max(0, this.rowCount - Math.floor(rows * 0.75));
    while (gone < this.rowCount && (this.#starts[gone] ?? 0) < least) gone += 1;
    this.begin = gone < this.rowCount ? (this.#starts[gone] ?? 0) : this.#record;
    for (const array of [this.#starts, this.#lengths, this.#units, this.#attempts, this.#flags]) {
      array.copyWithin(0, gone, this.rowCount);
    }
    this.rowCount -= gone;
    this.firstRow += gone;
    const blocks = Math.floor((this.begin - this.#base) / BLOCK);
    this.#blocks.splice(0, blocks);
    this.#base += blocks * BLOCK;
  }
}

function grown<Kind extends { set(source: Kind): void }>(old: Kind, larger: Kind): Kind {
  larger.set(old);
  return larger;
}

interface Head {
  unit: number;
  attempt: number;
  continues: boolean;
  length: number;
}

/** Read `<unit>.<attempt>|`. What has no such head is shown whole, as the launcher's own. */
function readHead(record: Uint8Array): Head {
  const unit = readNumber(record, 0);
  if (unit.end > 0 && record[unit.end] === DOT) {
    const attempt = readNumber(record, unit.end + 1);
    const mark = record[attempt.end];
    if (attempt.end > unit.end + 1 && (mark === BAR || mark === PLUS)) {
      return { unit: unit.value, attempt: attempt.value, continues: mark === PLUS, length: attempt.end + 1 };
    }
  }
  return { unit: 0, attempt: 0, continues: false, length: 0 };
}

function readNumber(record: Uint8Array, at: number): { value: number; end: number } {
  let value = 0;
  let end = at;
  for (let byte = record[end] ?? 0; byte >= 48 && byte <= 57 && end - at < 9; byte = record[end] ?? 0) {
    value = value * 10 + byte - 48;
    end += 1;
  }
  return { value, end };
}

/** Where a row that begins at `at` ends: not inside a character of UTF-8. */
function cut(record: Uint8Array, at: number, size: number): number {
  if (record.length - at <= size) return record.length;
  let stop = at + size;
  while (stop > at + size - 4 && ((record[stop] ?? 0) & 0xc0) === 0x80) stop -= 1;
  return stop > at ? stop : at + size;
}

/** The rows that are shown: all, or one unit's. Cheap to bring up to date as rows come and go. */
export class Rows {
  readonly #store: LogStore;
  readonly #unit: number | null;
  #numbers = new Uint32Array(1024);
  #count = 0;
  #seen = 0;

  constructor(store: LogStore, unit: number | null) {
    this.#store = store;
    this.#unit = unit;
    this.#seen = store.firstRow;
  }

  /** How many there are now. */
  update(): number {
    const store = this.#store;
    if (this.#unit === null) return store.rowCount;
    this.#forget(store.firstRow);
    const end = store.firstRow + store.rowCount;
    for (let number = Math.max(this.#seen, store.firstRow); number < end; number += 1) {
      if (store.unitOf(number) !== this.#unit) continue;
      if (this.#count === this.#numbers.length) this.#numbers = grown(this.#numbers, new Uint32Array(this.#count * 2));
      this.#numbers[this.#count] = number;
      this.#count += 1;
    }
    this.#seen = end;
    return this.#count;
  }

  /** The number of the row at a place. */
  at(place: number): number {
    return this.#unit === null ? this.#store.firstRow + place : (this.#numbers[place] ?? 0);
  }

  /** The place of a row, or of the first one after it. */
  placeOf(number: number): number {
    if (this.#unit === null) return Math.max(0, number - this.#store.firstRow);
    let low = 0;
    let high = this.#count;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#numbers[middle] ?? 0) < number) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #forget(first: number): void {
    if (this.#count === 0 || (this.#numbers[0] ?? 0) >= first) return;
    const gone = this.placeOf(first);
    this.#numbers.copyWithin(0, gone, this.#count);
    this.#count -= gone;
  }
}
