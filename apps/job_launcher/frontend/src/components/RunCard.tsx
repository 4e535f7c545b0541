// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
import { Link } from "react-router";
import { useNow } from "../lib/hooks";
import { between, bytes, count, countsText, duration, sentence } from "../lib/format";
import { useUnits } from "../lib/queries";
import { isActive, type Run } from "../lib/types";
import { Card, Failure, RunProgress, StatusBadge } from "./basics";
import { StopButton, useStopRun } from "./StopRun";
import { UnitGrid } from "./UnitGrid";

/** A run as it stands, with its units and a way to stop it. */
export function RunCard({ run }: { run: Run }) {
  const stop = useStopRun(run);
  const units = useUnits(run.id);
  const now = useNow(isActive(run));
  const first = units.data?.pages[0]?.items ?? [];
  return (
    <Card
      className="run-card"
      level={3}
      title={<Link to={`/runs/${run.id}`}>{run.title}</Link>}
      busy={stop.isPending ? "Stopping …" : null}
      actions={
        <>
          <StatusBadge status={run.status} />
          <StopButton run={run} stop={stop} />
        </>
      }
    >
      <p className="run-line">
        <span className="mono">{run.id}</span>
        <span>{countsText(run.counts)}</span>
        <span>{count(run.max_parallel)} at a time</span>
        <span>{duration(between(run.started_at, run.ended_at, now))}</span>
        <span>log {bytes(run.log_size)}</span>
      </p>
      <RunProgress run={run} />
      {run.message !== null && run.message !== "" && <p className="note">{sentence(run.message)}</p>}
      {stop.error !== null && <Failure what="The run wasn't stopped." error={stop.error} retry={() => stop.mutate()} />}
      {units.error !== null && units.data === undefined
        ? <Failure what="The units can't be shown." error={units.error} retry={() => void units.refetch()} />
        : <UnitGrid runId={run.id} units={first} total={run.total} />}
      <p><Link to={`/logs/${run.id}`}>Follow the log</Link></p>
    </Card>
  );
}
