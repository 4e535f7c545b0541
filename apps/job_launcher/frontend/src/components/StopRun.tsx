// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useEffect, useRef, useState } from "react";
import { api } from "../lib/api";
import { useSession } from "../lib/context";
import { plural } from "../lib/format";
import { mergeRun } from "../lib/merge";
import { isActive, type Run } from "../lib/types";
import { Confirm } from "./Confirm";

/** Stopping a run: the request, and whether it is under way, for the card's overlay. */
export function useStopRun(run: Run | undefined) {
  const client = useQueryClient();
  const abort = useRef<AbortController | null>(null);
  useEffect(() => () => abort.current?.abort(), []);
  const id = run?.id ?? "";
  return useMutation({
    mutationFn: () => {
      abort.current = new AbortController();
      return api.stopRun(id, abort.current.signal);
    },
    onSuccess: (stopped) => client.setQueryData<Run>(["run", id], (known) => mergeRun(known, stopped)),
  });
}

interface StopButtonProps {
  run: Run;
  stop: ReturnType<typeof useStopRun>;
}

export function StopButton({ run, stop }: StopButtonProps) {
  const { user } = useSession();
  const [asking, setAsking] = useState(false);
  if (!isActive(run) || user.role === "viewer") return null;
  const unused = run.counts.running + run.counts.waiting;
  return (
    <>
      <button type="button" className="danger quiet" disabled={stop.isPending || run.status === "stopping"} onClick={() => setAsking(true)}>
        {run.status === "stopping" ? "Stopping …" : "Stop"}
      </button>
      {asking && (
        <Confirm
          title={`Stop ${run.title}?`}
          action="Stop the run"
          onCancel={() => setAsking(false)}
          onConfirm={() => {
            setAsking(false);
            stop.mutate();
          }}
        >
          <p>
            {plural(unused, "unit")} that {unused === 1 ? "hasn't" : "haven't"} ended will be stopped, and what is held for
            {unused === 1 ? " it" : " them"} goes back to the balance. Units that succeeded stay paid. The log stays.
          </p>
        </Confirm>
      )}
    </>
  );
}
