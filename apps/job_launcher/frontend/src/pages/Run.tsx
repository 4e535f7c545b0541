// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
import { useParams } from "react-router";
import { useState } from "react";
import { Card, Failure, Loading, More, PageHead, RunProgress, StatusBadge, TableFrame } from "../components/basics";
import { LogView } from "../components/log/LogView";
import { StopButton, useStopRun } from "../components/StopRun";
import { UnitGrid } from "../components/UnitGrid";
import { between, bytes, count, countsText, credits, duration, moment, NONE, sentence, UNIT_SIGNS } from "../lib/format";
import { useNow, useTitle } from "../lib/hooks";
import { useRun, useUnits } from "../lib/queries";
import { isActive, type Run, type Unit } from "../lib/types";

export function RunPage() {
  const { id = "" } = useParams();
  useTitle(`Run ${id}`);
  const run = useRun(id);
  if (run.isPending) return <><h1>Run</h1><Loading what="the run" /></>;
  if (run.data === undefined) {
    return (
      <>
        <h1>Run</h1>
        <Failure what="This run can't be shown." error={run.error ?? new Error("It is unknown.")} retry={() => void run.refetch()} />
      </>
    );
  }
  return <KnownRun key={id} run={run.data} />;
}

function KnownRun({ run }: { run: Run }) {
  const [unit, setUnit] = useState<number | null>(null);
  const stop = useStopRun(run);
  const now = useNow(isActive(run));
  return (
    <>
      <PageHead title={run.title} aside={<><StatusBadge status={run.status} /> <StopButton run={run} stop={stop} /></>}>
        <span className="mono">{run.id}</span> by {run.owner}
      </PageHead>
      {stop.error !== null && <Failure what="The run wasn't stopped." error={stop.error} retry={() => stop.mutate()} />}
      <Card title="Where it stands" busy={stop.isPending ? "Stopping …" : null}>
        {run.message !== null && run.message !== "" && <p className="note">{sentence(run.message)}</p>}
        <RunProgress run={run} />
        <dl className="facts">
          <Fact name="Units">{count(run.total)} in all: {countsText(run.counts)}</Fact>
          <Fact name="At a time">{count(run.max_parallel)}</Fact>
          <Fact name="Begun">{moment(run.started_at)}</Fact>
          <Fact name="Ended">{moment(run.ended_at)}</Fact>
          <Fact name="Took">{duration(between(run.started_at, run.ended_at, now))}</Fact>
          <Fact name="Price">{credits(run.price)} a unit</Fact>
          <Fact name="Held">{credits(run.held)}</Fact>
          <Fact name="Paid">{credits(run.captured)}</Fact>
          <Fact name="Log">{bytes(run.log_size)}</Fact>
          {Object.entries(run.parameters).map(([name, value]) => <Fact key={name} name={name}>{String(value)}</Fact>)}
        </dl>
      </Card>
      <Units run={run} />
      <Card title="Log" className="log-card"><LogView run={run} unit={unit} onUnit={setUnit} /></Card>
    </>
  );
}

function Fact({ name, children }: { name: string; children: React.ReactNode }) {
  return <div><dt>{name}</dt><dd>{children}</dd></div>;
}

function Units({ run }: { run: Run }) {
  const units = useUnits(run.id);
  const now = useNow(isActive(run));
  const items = units.data?.pages.flatMap((page) => page.items) ?? [];
  return (
    <Card title="Units">
      {units.isPending && <Loading what="the units" />}
      {units.error !== null && units.data === undefined && (
        <Failure what="The units can't be shown." error={units.error} retry={() => void units.refetch()} />
      )}
      <UnitGrid runId={run.id} units={items} total={run.total} />
      {items.length > 0 && (
        <details>
          <summary>As a table</summary>
          <UnitTable units={items} now={now} />
        </details>
      )}
      <More query={units} label="Show more units" />
    </Card>
  );
}

function UnitTable({ units, now }: { units: Unit[]; now: number }) {
  return (
    <TableFrame label="Units">
      <thead>
        <tr>
          <th scope="col" className="figure">Unit</th>
          <th scope="col">Status</th>
          <th scope="col" className="figure">Attempt</th>
          <th scope="col" className="figure">Worker</th>
          <th scope="col">Ended with</th>
          <th scope="col">Number</th>
          <th scope="col">Begun</th>
          <th scope="col" className="figure">Took</th>
        </tr>
      </thead>
      <tbody>
        {units.map((unit) => (
          <tr key={unit.number}>
            <th scope="row" className="figure">{unit.number}</th>
            <td className={`text-${unit.status}`}><span aria-hidden="true">{UNIT_SIGNS[unit.status]}</span> {unit.status}</td>
            <td className="figure">{unit.attempt}</td>
            <td className="figure">{unit.worker ?? NONE}</td>
            <td>{ending(unit)}</td>
            <td>{unit.lease ?? NONE}</td>
            <td>{moment(unit.started_at)}</td>
            <td className="figure">{duration(between(unit.started_at, unit.ended_at, now))}</td>
          </tr>
        ))}
      </tbody>
    </TableFrame>
  );
}

function ending(unit: Unit): string {
  const parts = [
    unit.exit_code === null ? null : `exit code ${unit.exit_code}`,
    unit.signal === null ? null : `signal ${unit.signal}`,
    unit.reason,
  ].filter((each) => each !== null && each !== "");
  return parts.length > 0 ? parts.join(", ") : NONE;
}
