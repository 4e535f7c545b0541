// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
import { useNavigate, useParams, useSearchParams } from "react-router";
import { Empty, Failure, Loading, PageHead, RunLink, StatusBadge } from "../components/basics";
import { LogView } from "../components/log/LogView";
import { moment, RUN_WORDS } from "../lib/format";
import { useTitle } from "../lib/hooks";
import { useRun, useRuns } from "../lib/queries";
import type { Run } from "../lib/types";

export function Logs() {
  useTitle("Logs");
  const { id } = useParams();
  const runs = useRuns("");
  const items = runs.data?.pages.flatMap((page) => page.items) ?? [];
  const shown = id ?? items[0]?.id;
  return (
    <>
      <PageHead title="Logs" aside={shown !== undefined && <RunChoice shown={shown} runs={items} />} />
      {runs.isPending && id === undefined && <Loading what="the runs" />}
      {runs.error !== null && runs.data === undefined && (
        <Failure what="The runs can't be shown." error={runs.error} retry={() => void runs.refetch()} />
      )}
      {runs.data !== undefined && shown === undefined && (
        <Empty title="There is no log yet">Start a run on the page “Launch”; its log appears here line by line.</Empty>
      )}
      {shown !== undefined && <RunLog key={shown} id={shown} />}
    </>
  );
}

function RunChoice({ shown, runs }: { shown: string; runs: Run[] }) {
  const navigate = useNavigate();
  return (
    <label>
      Run
      <select value={shown} onChange={(event) => void navigate(`/logs/${event.target.value}`)}>
        {!runs.some((run) => run.id === shown) && <option value={shown}>{shown}</option>}
        {runs.map((run) => (
          <option key={run.id} value={run.id}>{run.title}, {moment(run.created_at)}, {RUN_WORDS[run.status]}</option>
        ))}
      </select>
    </label>
  );
}

function RunLog({ id }: { id: string }) {
  const run = useRun(id);
  const [search, setSearch] = useSearchParams();
  if (run.isPending) return <Loading what="the run" />;
  if (run.data === undefined) {
    return <Failure what="This run's log can't be shown." error={run.error ?? new Error("It is unknown.")} retry={() => void run.refetch()} />;
  }
  const wanted = search.get("unit");
  const unit = wanted !== null && /^\d{1,9}$/.test(wanted) ? Math.min(Number(wanted), run.data.total) : null;
  return (
    <>
      <p className="run-line"><StatusBadge status={run.data.status} /> <span>{run.data.title}</span> <RunLink id={id} /></p>
      <div className="log-page">
        <LogView
          run={run.data}
          unit={unit}
          onUnit={(next) => setSearch(next === null ? {} : { unit: String(next) }, { replace: true })}
        />
      </div>
    </>
  );
}
