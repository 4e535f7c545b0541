// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
import { Link } from "react-router";
import { Card, Empty, Failure, Loading, PageHead, StatusBadge } from "../components/basics";
import { LaunchForm } from "../components/LaunchForm";
import { RunCard } from "../components/RunCard";
import { useSession } from "../lib/context";
import { countsText, moment } from "../lib/format";
import { useTitle } from "../lib/hooks";
import { useRuns } from "../lib/queries";
import { isActive, type Run } from "../lib/types";

const RECENT = 5;

export function Launcher() {
  useTitle("Launch");
  const { config } = useSession();
  const [first, ...others] = config.templates;
  return (
    <>
      <PageHead title="Launch">Run units of work in parallel, watch them, and stop them.</PageHead>
      <div className="launch">
        {first === undefined
          ? <Card title="New run"><Empty title="No job template is configured">Add one to the launcher's configuration and deploy it again.</Empty></Card>
          : <LaunchForm templates={[first, ...others]} />}
        <Under />
      </div>
    </>
  );
}

function Under() {
  const runs = useRuns("");
  const items = runs.data?.pages.flatMap((page) => page.items) ?? [];
  const active = items.filter(isActive);
  const ended = items.filter((run) => !isActive(run)).slice(0, RECENT);
  return (
    <section className="running" aria-labelledby="running">
      <h2 id="running">Under way</h2>
      {runs.isPending && <Loading what="the runs" />}
      {runs.error !== null && runs.data === undefined && (
        <Failure what="The runs can't be shown." error={runs.error} retry={() => void runs.refetch()} />
      )}
      {runs.data !== undefined && active.length === 0 && (
        <Empty title="Nothing is running">Choose a template and start a run; it appears here at once.</Empty>
      )}
      {active.map((run) => <RunCard key={run.id} run={run} />)}
      {ended.length > 0 && <Recent runs={ended} />}
    </section>
  );
}

function Recent({ runs }: { runs: Run[] }) {
  return (
    <Card title="Ended last" actions={<Link to="/runs">All runs</Link>}>
      <ul className="recent">
        {runs.map((run) => (
          <li key={run.id}>
            <Link to={`/runs/${run.id}`}>{run.title}</Link>
            <StatusBadge status={run.status} />
            <span className="help">{countsText(run.counts)}</span>
            <span className="help">{moment(run.ended_at)}</span>
          </li>
        ))}
      </ul>
    </Card>
  );
}
