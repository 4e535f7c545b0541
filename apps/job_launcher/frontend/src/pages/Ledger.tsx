// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
import { Card, Empty, Failure, Loading, More, PageHead, RunLink, TableFrame } from "../components/basics";
import { count, moment, NONE } from "../lib/format";
import { useTitle } from "../lib/hooks";
import { useBalance, useLedger } from "../lib/queries";
import type { LedgerEntry } from "../lib/types";

const WORDS: Record<LedgerEntry["kind"], string> = { credit: "credit", hold: "hold", capture: "paid", release: "given back" };
const SIGNS: Record<LedgerEntry["kind"], string> = { credit: "+", hold: "‖", capture: "−", release: "↩" };

export function Ledger() {
  useTitle("Ledger");
  const balance = useBalance().data ?? null;
  const ledger = useLedger();
  const items = ledger.data?.pages.flatMap((page) => page.items) ?? [];
  return (
    <>
      <PageHead title="Ledger">
        A run holds its price when it starts. A unit that succeeds is paid; what is held for any other goes back.
      </PageHead>
      <dl className="tiles">
        <div><dt>available</dt><dd>{count(balance?.available ?? null)}</dd></div>
        <div><dt>held</dt><dd>{count(balance?.held ?? null)}</dd></div>
        <div><dt>in all</dt><dd>{count(balance?.total ?? null)}</dd></div>
      </dl>
      <Card title="Entries">
        {ledger.isPending && <Loading what="the ledger" />}
        {ledger.error !== null && ledger.data === undefined && (
          <Failure what="The ledger can't be shown." error={ledger.error} retry={() => void ledger.refetch()} />
        )}
        {ledger.data !== undefined && items.length === 0 && (
          <Empty title="No credit has moved yet">Whoever runs this launcher gives credit with <code>job-launcher credit</code>.</Empty>
        )}
        {items.length > 0 && <Entries entries={items} />}
        <More query={ledger} label="Show older entries" />
      </Card>
    </>
  );
}

function Entries({ entries }: { entries: LedgerEntry[] }) {
  return (
    <TableFrame label="Ledger">
      <thead>
        <tr>
          <th scope="col">When</th>
          <th scope="col">What</th>
          <th scope="col" className="figure">Amount</th>
          <th scope="col" className="figure">In all after</th>
          <th scope="col" className="figure">Held after</th>
          <th scope="col">Run</th>
          <th scope="col">By</th>
          <th scope="col">Reason</th>
        </tr>
      </thead>
      <tbody>
        {entries.map((entry) => (
          <tr key={entry.id}>
            <td className="nowrap">{moment(entry.at)}</td>
            <td className={`nowrap entry-${entry.kind}`}><span aria-hidden="true">{SIGNS[entry.kind]}</span> {WORDS[entry.kind]}</td>
            <td className="figure">{count(entry.amount)}</td>
            <td className="figure">{count(entry.total_after)}</td>
            <td className="figure">{count(entry.held_after)}</td>
            <td>{entry.run_id === null ? NONE : <RunLink id={entry.run_id} />}</td>
            <td>{entry.by ?? NONE}</td>
            <td className="long">{entry.reason ?? NONE}</td>
          </tr>
        ))}
      </tbody>
    </TableFrame>
  );
}
