// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
// Looking through a log in short turns, so that the page stays quick while a million rows are searched.
import { plainText } from "./ansi";
import type { LogStore, Rows } from "./logstore";

const MOST = 100_000;
const TURN_ROWS = 500;

export class Search {
  /** Numbers of the rows that match, ascending. */
  matches: number[] = [];
  /** Whether there are more than are kept. */
  full = false;

  readonly needle: string;
  readonly #store: LogStore;
  readonly #rows: Rows;
  #nextRow = 0;

  constructor(store: LogStore, rows: Rows, needle: string) {
    this.#store = store;
    this.#rows = rows;
    this.needle = needle.toLowerCase();
  }

  /** Search for about `budget` ms; true where the end was reached. */
  step(budget: number, now: () => number = () => performance.now()): boolean {
    const end = now() + budget;
    const count = this.#rows.update();
    let place = this.#rows.placeOf(this.#nextRow);
    while (place < count && !this.full) {
      const stop = Math.min(count, place + TURN_ROWS);
      for (; place < stop; place += 1) this.#look(this.#rows.at(place));
      if (now() >= end) break;
    }
    return place >= count || this.full;
  }

  #look(number: number): void {
    this.#nextRow = number + 1;
    if (!plainText(this.#store.text(number)).toLowerCase().includes(this.needle)) return;
    this.matches.push(number);
    this.full = this.matches.length >= MOST;
  }

  /** Forget matches whose rows are no longer held. */
  trim(firstRow: number): void {
    const gone = this.matches.findIndex((each) => each >= firstRow);
    if (gone !== 0 && this.matches.length > 0) this.matches = gone === -1 ? [] : this.matches.slice(gone);
  }
}
