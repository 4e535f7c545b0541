// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
import type { RefObject } from "react";
import { api } from "../../lib/api";
import { count } from "../../lib/format";
import type { Run } from "../../lib/types";
import type { Found } from "./useSearch";

const MOST_CHOICES = 500;

interface LogToolbarProps {
  run: Run;
  unit: number | null;
  onUnit: (unit: number | null) => void;
  text: string;
  onText: (text: string) => void;
  found: Found;
  onStep: (direction: 1 | -1) => void;
  searchBox: RefObject<HTMLInputElement | null>;
  follow: boolean;
  onFollow: () => void;
  paused: boolean;
  onPause: () => void;
  wrap: boolean;
  onWrap: () => void;
  onBegin: () => void;
}

export function LogToolbar(props: LogToolbarProps) {
  const { run, found, follow, paused, wrap } = props;
  return (
    <div className="log-tools" role="group" aria-label="How the log is shown">
      <UnitChoice run={run} unit={props.unit} onUnit={props.onUnit} />
      <form
        role="search"
        className="log-search"
        onSubmit={(event) => {
          event.preventDefault();
          props.onStep(1);
        }}
      >
        <label className="unseen" htmlFor="log-search">Search in the log</label>
        <input
          id="log-search"
          type="search"
          placeholder="Search"
          ref={props.searchBox}
          value={props.text}
          onChange={(event) => props.onText(event.target.value)}
          onKeyDown={(event) => {
            if (event.key === "Escape") props.onText("");
            if (event.key !== "Enter" || !event.shiftKey) return;
            event.preventDefault();
            props.onStep(-1);
          }}
        />
        <button type="button" aria-label="Previous match" title="Previous match (Shift+Enter)" disabled={found.count === 0} onClick={() => props.onStep(-1)}>↑</button>
        <button type="submit" aria-label="Next match" title="Next match (Enter)" disabled={found.count === 0}>↓</button>
        <span className="log-found" role="status">{foundText(found)}</span>
      </form>
      <div className="log-switches">
        <button type="button" onClick={props.onBegin}>Begin</button>
        <button type="button" aria-pressed={follow} onClick={props.onFollow}>Follow</button>
        <button type="button" aria-pressed={paused} onClick={props.onPause}>Pause</button>
        <button type="button" aria-pressed={wrap} onClick={props.onWrap}>Wrap</button>
        <a className="button" href={api.downloadPath(run.id)} download>Download</a>
      </div>
    </div>
  );
}

function foundText(found: Found): string {
  if (found.needle === "") return "";
  const total = `${count(found.count)}${found.full ? " or more" : ""}`;
  if (found.count === 0) return found.done ? "not found" : "searching …";
  return found.place > 0 ? `${count(found.place)} of ${total}` : `${total} lines${found.done ? "" : " …"}`;
}

function UnitChoice({ run, unit, onUnit }: { run: Run; unit: number | null; onUnit: (unit: number | null) => void }) {
  const choose = (value: string) => onUnit(value === "" ? null : Math.min(run.total, Math.max(0, Number(value))));
  if (run.total > MOST_CHOICES) {
    return (
      <label className="log-unit">
        Unit
        <input type="number" min={0} max={run.total} placeholder="all" value={unit ?? ""} onChange={(event) => choose(event.target.value)} />
      </label>
    );
  }
  return (
    <select aria-label="Unit" value={unit ?? ""} onChange={(event) => choose(event.target.value)}>
      <option value="">All units</option>
      <option value="0">The launcher</option>
      {Array.from({ length: run.total }, (_, at) => <option key={at} value={at + 1}>Unit {at + 1}</option>)}
    </select>
  );
}
