// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
// How what is pushed goes into what the pages hold. Pure: each returns new data, or the old where nothing changes.
import type { InfiniteData } from "@tanstack/react-query";
import type { Page, Run, RunStatus, Unit } from "./types";
import { isActive } from "./types";

/** A run's place in its life: a later push may carry an older state only by mistake of order. */
function older(fresh: Run, known: Run): boolean {
  return isActive(fresh) && !isActive(known);
}

export function mergeRun(known: Run | undefined, fresh: Run): Run {
  return known !== undefined && older(fresh, known) ? known : fresh;
}

/** Put a run into a list (newest first): in its place, at the head if it is new, out where the filter no longer fits. */
export function mergeRunList(
  data: InfiniteData<Page<Run>> | undefined, fresh: Run, filter: RunStatus | "",
): InfiniteData<Page<Run>> | undefined {
  if (data === undefined) return data;
  const fits = filter === "" || fresh.status === filter;
  const known = data.pages.some((page) => page.items.some((each) => each.id === fresh.id));
  const pages = data.pages.map((page, at) => {
    if (known) {
      const items = page.items.map((each) => (each.id === fresh.id ? mergeRun(each, fresh) : each));
      return { ...page, items: fits ? items : items.filter((each) => each.id !== fresh.id) };
    }
    return at === 0 && fits ? { ...page, items: insertNewest(page.items, fresh) } : page;
  });
  return { ...data, pages };
}

function insertNewest(items: Run[], fresh: Run): Run[] {
  const newest = items[0];
  return newest === undefined || newest.created_at <= fresh.created_at ? [fresh, ...items] : items;
}

/** Put a unit into the pages of its run's units (ascending by number); a later attempt takes the place of an earlier one. */
export function mergeUnit(data: InfiniteData<Page<Unit>> | undefined, fresh: Unit): InfiniteData<Page<Unit>> | undefined {
  if (data === undefined) return data;
  let done = false;
  const pages = data.pages.map((page, at) => {
    const index = page.items.findIndex((each) => each.number === fresh.number);
    const found = page.items[index];
    if (found !== undefined) {
      done = true;
      if (found.attempt > fresh.attempt) return page;
      return { ...page, items: page.items.with(index, fresh) };
    }
    const last = at === data.pages.length - 1 && page.next === null;
    if (done || !last) return page;
    const items = [...page.items, fresh].sort((one, other) => one.number - other.number);
    return { ...page, items };
  });
  return { ...data, pages };
}
