// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { Card, Empty, Failure, Loading, More, PageHead, RunLink, TableFrame } from "../components/basics";
import { api } from "../lib/api";
import { useSession } from "../lib/context";
import { count, moment, NONE } from "../lib/format";
import { announce, useTitle } from "../lib/hooks";
import { useNumbers, useStatus } from "../lib/queries";
import type { LeasedNumber, NumberStatus } from "../lib/types";

const WORDS: Record<NumberStatus, string> = {
  held: "held", releasing: "being released", released: "released", dead: "given up",
};
const SIGNS: Record<NumberStatus, string> = { held: "●", releasing: "◐", released: "○", dead: "✕" };
const STATUSES = Object.keys(WORDS) as NumberStatus[];

export function Numbers() {
  useTitle("Numbers");
  const [status, setStatus] = useState<NumberStatus | "">("");
  const numbers = useNumbers(status);
  const counts = useStatus().data?.numbers ?? null;
  const items = numbers.data?.pages.flatMap((page) => page.items) ?? [];
  return (
    <>
      <PageHead
        title="Numbers"
        aside={
          <label>
            Status
            <select value={status} onChange={(event) => setStatus(event.target.value as NumberStatus | "")}>
              <option value="">any</option>
              {STATUSES.map((each) => <option key={each} value={each}>{WORDS[each]}</option>)}
            </select>
          </label>
        }
      >
        Numbers that workers leased. Each is held for its least time, then released; what fails is tried again.
      </PageHead>
      <dl className="tiles">
        {(["held", "releasing", "dead"] as const).map((each) => (
          <div key={each}><dt>{WORDS[each]}</dt><dd>{count(counts?.[each] ?? null)}</dd></div>
        ))}
      </dl>
      <NumberList numbers={items} status={status} query={numbers} />
    </>
  );
}

interface NumberListProps {
  numbers: LeasedNumber[];
  status: NumberStatus | "";
  query: ReturnType<typeof useNumbers>;
}

function NumberList({ numbers, status, query }: NumberListProps) {
  const { user } = useSession();
  const client = useQueryClient();
  const retry = useMutation({
    mutationFn: (number: LeasedNumber) => api.retryNumber(number.id),
    onSuccess: (_, number) => announce(`${number.value} is tried again`),
    onSettled: () => client.invalidateQueries({ queryKey: ["numbers"] }),
  });
  return (
    <Card title="Leases" busy={retry.isPending ? "Trying again …" : null}>
      {query.isPending && <Loading what="the numbers" />}
      {query.error !== null && query.data === undefined && (
        <Failure what="The numbers can't be shown." error={query.error} retry={() => void query.refetch()} />
      )}
      {retry.error !== null && <Failure what="The release wasn't tried again." error={retry.error} />}
      {query.data !== undefined && numbers.length === 0 && (
        <Empty title={status === "" ? "No number has been leased" : `No number is ${WORDS[status]}`}>
          {status === "" ? "They appear here as soon as a worker reports one." : "Choose another status to see more."}
        </Empty>
      )}
      {numbers.length > 0 && (
        <TableFrame label="Numbers">
          <thead>
            <tr>
              <th scope="col">Number</th>
              <th scope="col">Status</th>
              <th scope="col">Run</th>
              <th scope="col">Leased</th>
              <th scope="col">Release not before</th>
              <th scope="col" className="figure">Tries</th>
              <th scope="col">Next try</th>
              <th scope="col">Last error</th>
              <th scope="col"><span className="unseen">Action</span></th>
            </tr>
          </thead>
          <tbody>
            {numbers.map((number) => (
              <tr key={number.id}>
                <th scope="row" className="mono">{number.value}</th>
                <td className={`nowrap number-${number.status}`}><span aria-hidden="true">{SIGNS[number.status]}</span> {WORDS[number.status]}</td>
                <td><RunLink id={number.run_id} /></td>
                <td>{moment(number.acquired_at)}</td>
                <td>{moment(number.release_after)}</td>
                <td className="figure">{count(number.attempts)}</td>
                <td>{moment(number.next_try_at)}</td>
                <td className="long">{number.last_error ?? NONE}</td>
                <td>
                  {number.status === "dead" && user.role !== "viewer" && (
                    <button type="button" disabled={retry.isPending} onClick={() => retry.mutate(number)}>
                      Try again<span className="unseen"> to release {number.value}</span>
                    </button>
                  )}
                </td>
              </tr>
            ))}
          </tbody>
        </TableFrame>
      )}
      <More query={query} label="Show older numbers" />
    </Card>
  );
}
