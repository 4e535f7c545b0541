// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
import { describe, expect, test } from "vitest";
import * as format from "../src/lib/format";
import { check, cost, freshForm, request } from "../src/lib/launch";
import { LogStore, Rows } from "../src/lib/logstore";
import { mergeRun, mergeRunList, mergeUnit } from "../src/lib/merge";
import { Search } from "../src/lib/search";
import type { Config, Run, Template, Unit } from "../src/lib/types";

describe("formats", () => {
  test.each([[null, "–"], [0, "0 B"], [999, "999 B"], [1000, "1.0 KiB"], [1536, "1.5 KiB"], [1048575, "1.0 MiB"], [5 << 20, "5.0 MiB"], [300 << 20, "300 MiB"]])(
    "%s bytes", (value, text) => expect(format.bytes(value)).toBe(text),
  );

  test.each([[null, "–"], [-5, "0.0 s"], [440, "0.4 s"], [9949, "9.9 s"], [9960, "10 s"], [59_600, "1 min 00 s"], [185_000, "3 min 05 s"], [7_620_000, "2 h 07 min"]])(
    "%s ms", (value, text) => expect(format.duration(value)).toBe(text),
  );

  test("today's moments are without their date", () => {
    const now = new Date(2026, 4, 7, 12, 0, 0).getTime();
    expect(format.moment(new Date(2026, 4, 7, 9, 5, 3).toISOString(), now)).toBe("09:05:03");
    expect(format.moment(new Date(2026, 3, 7, 9, 5, 3).toISOString(), now)).toBe("2026-04-07 09:05:03");
    expect(format.moment(null, now)).toBe("–");
  });

  test("what isn't measured is never 0", () => {
    expect([format.count(null), format.credits(null), format.withUnit(null, "s"), format.between(null, null, 5)]).toEqual(["–", "–", "–", null]);
  });

  test.each([
    ["running", { progress: { done: 1, of: 3 } }, 33],
    ["succeeded", { progress: { done: 1, of: 3 } }, null],
    ["running", { progress: { done: 5, of: 3 } }, null],
    ["running", { progress: { done: 0, of: 0 } }, null],
    ["running", { progress: "half" }, null],
    ["running", { data: {} }, null],
    ["running", null, null],
  ])("a unit that is %s and reports %j", (status, report, expected) => {
    expect(format.progressOf({ status, report } as Unit)).toBe(expected);
  });

  test("what a program says becomes a sentence", () => {
    expect(["must be given", "Is wrong.", ""].map(format.sentence)).toEqual(["Must be given.", "Is wrong.", ""]);
  });

  test("counts name only what there is", () => {
    const counts = { waiting: 2, running: 1, succeeded: 0, failed: 0, stopped: 0, retried: 3 };
    expect(format.countsText(counts)).toBe("1 running, 2 waiting, 3 retried");
    expect(format.credits(1)).toBe("1 credit");
  });
});

const TEMPLATE: Template = {
  name: "demo",
  title: "Demo",
  description: "",
  price: 3,
  parameters: {
    seconds: { type: "number", minimum: 0.5, maximum: 60, default: 5 },
    lines: { type: "integer", minimum: 1, maximum: 1000 },
    word: { type: "string", max_length: 5, pattern: "[a-z]*", default: "abc" },
    mode: { type: "choice", choices: ["calm", "wild"], default: "wild" },
    loud: { type: "boolean", default: true },
  },
};
const CONFIG: Config = {
  version: "1", tunables: { max_parallel: 4 }, tunables_info: {}, effective_max_parallel_limit: 2, limited_by: "cpu", templates: [TEMPLATE],
};

describe("the form", () => {
  test("begins with the defaults, under the limit", () => {
    const form = freshForm(CONFIG, TEMPLATE);
    expect(form.maxParallel).toBe(2);
    expect(form.parameters).toEqual({ seconds: "5", lines: "", word: "abc", mode: "wild", loud: "true" });
  });

  test.each([
    ["total", "0"], ["total", "101"], ["total", "1.5"], ["total", ""], ["total", "x"],
    ["parameters.seconds", "0.4"], ["parameters.seconds", "61"], ["parameters.seconds", "NaN"], ["parameters.seconds", ""],
    ["parameters.lines", "1.5"], ["parameters.word", "ABC"], ["parameters.word", "abcdef"], ["parameters.mode", "other"],
  ])("refuses %s = %j at its field alone", (field, value) => {
    const good = { ...freshForm(CONFIG, TEMPLATE), total: "8" };
    good.parameters = { ...good.parameters, lines: "7" };
    expect([...check(good, TEMPLATE, 100).keys()]).toEqual([]);
    const [, name] = field.split(".");
    const bad = name === undefined ? { ...good, total: value } : { ...good, parameters: { ...good.parameters, [name]: value } };
    expect([...check(bad, TEMPLATE, 100).keys()]).toEqual([field]);
  });

  test("is sent with the types that are declared", () => {
    const form = { ...freshForm(CONFIG, TEMPLATE), total: " 8 " };
    form.parameters = { ...form.parameters, lines: "7", loud: "false" };
    expect(request(form, TEMPLATE)).toEqual({
      template: "demo", total: 8, max_parallel: 2, parameters: { seconds: 5, lines: 7, word: "abc", mode: "wild", loud: false },
    });
  });

  test("says what it costs and what is left", () => {
    const form = { ...freshForm(CONFIG, TEMPLATE), total: "8" };
    expect(cost(form, TEMPLATE, 20)).toEqual({ price: 24, after: -4 });
    expect(cost(form, TEMPLATE, null)).toEqual({ price: 24, after: null });
    expect(cost({ ...form, total: "" }, TEMPLATE, 20)).toBeNull();
  });
});

const run = (id: string, status: Run["status"], created = id): Run => ({ id, status, created_at: created }) as Run;
const list = (...items: Run[]) => ({ pages: [{ items, next: null }], pageParams: [null] });

describe("pushes", () => {
  test("a new run comes first, a known one stays in its place", () => {
    const data = mergeRunList(list(run("2", "running"), run("1", "running")), run("3", "queued"), "");
    expect(data?.pages[0]?.items.map((each) => each.id)).toEqual(["3", "2", "1"]);
    const after = mergeRunList(data, run("2", "stopped"), "");
    expect(after?.pages[0]?.items.map((each) => each.status)).toEqual(["queued", "stopped", "running"]);
  });

  test("an old run that isn't listed yet isn't put first", () => {
    const data = list(run("3", "running"));
    expect(mergeRunList(data, run("1", "running"), "")?.pages[0]?.items.length).toBe(1);
  });

  test("a filtered list loses what no longer fits and gains nothing foreign", () => {
    const data = list(run("2", "running"), run("1", "running"));
    expect(mergeRunList(data, run("2", "failed"), "running")?.pages[0]?.items.map((each) => each.id)).toEqual(["1"]);
    expect(mergeRunList(data, run("9", "failed"), "running")?.pages[0]?.items.length).toBe(2);
  });

  test("a run that has ended doesn't come to life again", () => {
    expect(mergeRun(run("1", "stopped"), run("1", "running")).status).toBe("stopped");
    expect(mergeRun(run("1", "running"), run("1", "stopping")).status).toBe("stopping");
  });

  test("units go to their place; an earlier attempt doesn't replace a later one", () => {
    const unit = (number: number, attempt: number, status: Unit["status"]): Unit => ({ number, attempt, status }) as Unit;
    const data = { pages: [{ items: [unit(1, 2, "running"), unit(3, 1, "waiting")], next: null }], pageParams: [null] };
    const statuses = (fresh: Unit) => mergeUnit(data, fresh)?.pages[0]?.items.map((each) => `${each.number} ${each.status}`);
    expect(statuses(unit(1, 1, "failed"))).toEqual(["1 running", "3 waiting"]);
    expect(statuses(unit(1, 2, "succeeded"))).toEqual(["1 succeeded", "3 waiting"]);
    expect(statuses(unit(2, 1, "running"))).toEqual(["1 running", "2 running", "3 waiting"]);
    const more = { ...data, pages: [{ items: [unit(1, 1, "waiting")], next: "1" }] };
    expect(mergeUnit(more, unit(201, 1, "running"))?.pages[0]?.items.length).toBe(1);
  });
});

describe("search", () => {
  const filled = (lines: number) => {
    const store = new LogStore();
    const text = Array.from({ length: lines }, (_, at) => `${1 + (at % 2)}.1|line \x1b[1m${at}\x1b[0m Ünit`).join("\n");
    store.append(0, new TextEncoder().encode(`${text}\n`));
    return store;
  };

  test("looks at the text, not at its colours or its case, in turns that end", () => {
    const store = filled(3000);
    let clock = 0;
    const search = new Search(store, new Rows(store, null), "LINE 12 ÜNIT");
    let turns = 1;
    while (!search.step(8, () => (clock += 5))) turns += 1;
    expect(search.matches).toEqual([12]);
    expect(turns).toBeGreaterThan(1);
  });

  test("goes on with rows that come later, without the old ones again", () => {
    const store = filled(10);
    const search = new Search(store, new Rows(store, 2), "line");
    search.step(1000);
    expect(search.matches).toEqual([1, 3, 5, 7, 9]);
    store.append(store.next, new TextEncoder().encode("2.1|one more line\n1.1|line\n"));
    search.step(1000);
    expect(search.matches).toEqual([1, 3, 5, 7, 9, 10]);
    search.trim(6);
    expect(search.matches).toEqual([7, 9, 10]);
  });
});
