// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
import { type KeyboardEvent, useMemo, useRef, useState } from "react";
import { useConnection } from "../../lib/context";
import { bytes, count, plural } from "../../lib/format";
import { LogStore, Rows } from "../../lib/logstore";
import { useTheme } from "../../lib/theme";
import { isActive, type Run } from "../../lib/types";
import { type OpenLog, useLog, useLogVersion } from "../../lib/useLog";
import { LogRow } from "./LogRow";
import { LogToolbar } from "./LogToolbar";
import { useLogWindow } from "./useLogWindow";
import { useSearch } from "./useSearch";

// The log's ground in both themes, for colours that a worker names by their parts; the same as in log.css.
const GROUND = { light: "#fbfaf8", dark: "#14181b" };
const NOTHING = new LogStore();

interface LogViewProps {
  run: Run;
  unit: number | null;
  onUnit: (unit: number | null) => void;
}

export function LogView({ run, unit, onUnit }: LogViewProps) {
  const log = useLog(run.id, run.log_size);
  const version = useLogVersion(log);
  const frame = useRef<HTMLDivElement>(null);
  const searchBox = useRef<HTMLInputElement>(null);
  const [follow, setFollow] = useState(true);
  const [pausedAt, setPausedAt] = useState<number | null>(null);
  const [wrap, setWrap] = useState(false);
  const [text, setText] = useState("");
  const background = GROUND[useTheme()];

  const store = log?.store ?? NOTHING;
  const rows = useMemo(() => new Rows(store, unit), [store, unit]);
  const total = rows.update();
  const shown = pausedAt === null ? total : Math.min(total, rows.placeOf(pausedAt));
  const found = useSearch(log, rows, text, version);
  const view = useLogWindow({ log, rows, shown, version, wrap, follow, setFollow, frame });

  const step = (direction: 1 | -1) => {
    const row = found.step(direction);
    if (row !== null) view.reveal(row);
  };
  const toggleFollow = () => {
    setPausedAt(null);
    setFollow(!follow);
  };
  const togglePause = () => setPausedAt(pausedAt === null ? store.firstRow + store.rowCount : null);
  const onKey = (event: KeyboardEvent) => {
    const find = event.key === "/" || (event.key === "f" && (event.ctrlKey || event.metaKey));
    if (!find || event.target instanceof HTMLInputElement) return;
    event.preventDefault();
    searchBox.current?.focus();
  };

  return (
    <div className="log" onKeyDown={onKey}>
      <LogToolbar
        {...{ run, unit, onUnit, text, found, follow, wrap, searchBox }}
        onText={setText}
        onStep={step}
        onFollow={toggleFollow}
        paused={pausedAt !== null}
        onPause={togglePause}
        onWrap={() => setWrap(!wrap)}
        onBegin={view.toBegin}
      />
      <div
        className={wrap ? "log-frame wrap" : "log-frame"}
        ref={frame}
        role="region"
        aria-label={`Log of ${run.title}`}
        tabIndex={0}
        onScroll={view.onScroll}
      >
        <div className="log-rows" style={{ height: view.virtualizer.getTotalSize() }}>
          {view.virtualizer.getVirtualItems().map((item) => {
            const number = rows.at(view.start + item.index);
            const row = store.row(number);
            return row !== null && (
              <div
                key={item.key}
                className="log-place"
                data-index={item.index}
                ref={wrap ? view.virtualizer.measureElement : undefined}
                style={{ transform: `translateY(${item.start}px)` }}
              >
                <LogRow number={number} {...row} needle={found.needle} current={number === found.row} background={background} />
              </div>
            );
          })}
        </div>
        {shown === 0 && <EmptyLog run={run} log={log} unit={unit} />}
      </div>
      <Foot run={run} log={log} total={total} fresh={total - shown} paused={pausedAt !== null} />
    </div>
  );
}

function EmptyLog({ run, log, unit }: { run: Run; log: OpenLog | null; unit: number | null }) {
  const size = log?.feed.size ?? null;
  if (log?.feed.error) return null;
  if (log === null || size === null || log.store.next < size) return <p className="log-empty">Loading the log …</p>;
  if (unit !== null) return <p className="log-empty">{unit === 0 ? "The launcher" : `Unit ${unit}`} has printed nothing{isActive(run) ? " yet" : ""}.</p>;
  return <p className="log-empty">{isActive(run) ? "Nothing has been printed yet. Lines appear here as they come." : "This run printed nothing."}</p>;
}

interface FootProps {
  run: Run;
  log: OpenLog | null;
  total: number;
  fresh: number;
  paused: boolean;
}

function Foot({ run, log, total, fresh, paused }: FootProps) {
  const connection = useConnection();
  const size = log?.feed.size ?? null;
  const next = log?.store.next ?? 0;
  const behind = size !== null && next < size;
  const live = isActive(run) ? (connection === "down" ? "asking for more from time to time" : "live") : "complete";
  return (
    <div className="log-foot">
      <span data-testid="log-lines">{plural(total, "line")}</span>
      <span>{bytes(size)}</span>
      {behind ? <span>loading, {count(Math.floor((next / size) * 100))} %</span> : <span data-testid="log-state">{live}</span>}
      {paused && <strong>Paused{fresh > 0 ? `, ${plural(fresh, "new line")}` : ""}</strong>}
      {log !== null && log.store.begin > 0 && <span>The first {bytes(log.store.begin)} aren't shown; a download has all that is kept.</span>}
      {log?.feed.error && (
        <span className="error" role="alert">
          {log.feed.error} <button type="button" className="quiet" onClick={() => void log.feed.catchUp()}>Try again</button>
        </span>
      )}
    </div>
  );
}
