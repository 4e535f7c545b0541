// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
import { useSearchParams } from "react-router";
import { Empty, Failure, Loading, More, PageHead, RunLink, StatusBadge, TableFrame } from "../components/basics";
import { useSession } from "../lib/context";
import { between, count, countsText, duration, moment, RUN_WORDS } from "../lib/format";
import { useNow, useTitle } from "../lib/hooks";
import { useRuns } from "../lib/queries";
import { isActive, type Run, type RunStatus } from "../lib/types";

const STATUSES = Object.keys(RUN_WORDS) as RunStatus[];

export function Runs() {
  useTitle("Runs");
  const [search, setSearch] = useSearchParams();
  const wanted = search.get("status") ?? "";
  const status = (STATUSES as string[]).includes(wanted) ? (wanted as RunStatus) : "";
  const runs = useRuns(status);
  const items = runs.data?.pages.flatMap((page) => page.items) ?? [];
  return (
    <>
      <PageHead
        title="Runs"
        aside={
          <label>
            Status
            <select value={status} onChange={(event) => setSearch(event.target.value === "" ? {} : { status: event.target.value })}>
              <option value="">any</option>
              {STATUSES.map((each) => <option key={each} value={each}>{RUN_WORDS[each]}</option>)}
            </select>
          </label>
        }
      >
        Every run, the newest first. Its log and its units stay as long as the retention keeps them.
      </PageHead>
      {runs.isPending && <Loading what="the runs" />}
      {runs.error !== null && runs.data === undefined && (
        <Failure what="The runs can't be shown." error={runs.error} retry={() => void runs.refetch()} />
      )}
      {runs.data !== undefined && items.length === 0 && (
        <Empty title={status === "" ? "Nothing has been run yet" : `No run is ${RUN_WORDS[status]}`}>
          {status === "" ? "Start one on the page “Launch”." : "Choose another status to see more."}
        </Empty>
      )}
      {items.length > 0 && <RunTable runs={items} />}
      <More query={runs} label="Show older runs" />
    </>
  );
}

function RunTable({ runs }: { runs: Run[] }) {
  const { user } = useSession();
  const now = useNow(runs.some(isActive));
  const everyones = user.role === "admin";
  return (
    <TableFrame label="Runs">
      <thead>
        <tr>
          <th scope="col">Run</th>
          <th scope="col">Template</th>
          {everyones && <th scope="col">Owner</th>}
          <th scope="col">Status</th>
          <th scope="col">Units</th>
          <th scope="col">Begun</th>
          <th scope="col" className="figure">Took</th>
          <th scope="col" className="figure">Paid</th>
        </tr>
      </thead>
      <tbody>
        {runs.map((run) => (
          <tr key={run.id}>
            <th scope="row"><RunLink id={run.id} /></th>
            <td>{run.title}</td>
            {everyones && <td>{run.owner}</td>}
            <td><StatusBadge status={run.status} /></td>
            <td>{count(run.total)} in all: {countsText(run.counts)}</td>
            <td>{moment(run.started_at ?? run.created_at)}</td>
            <td className="figure">{duration(between(run.started_at, run.ended_at, now))}</td>
            <td className="figure">{count(run.captured)}</td>
          </tr>
        ))}
      </tbody>
    </TableFrame>
  );
}
