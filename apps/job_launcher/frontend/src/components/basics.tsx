// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
// The pieces that pages are made of.
import { type ReactNode, useId } from "react";
import { Link } from "react-router";
import { RUN_SIGNS, RUN_WORDS } from "../lib/format";
import type { Run, RunStatus } from "../lib/types";

interface CardProps {
  title: ReactNode;
  /** What is being done, for an overlay; null while nothing is. */
  busy?: string | null;
  actions?: ReactNode;
  children: ReactNode;
  className?: string;
  level?: 2 | 3;
}

export function Card({ title, busy = null, actions, children, className = "", level = 2 }: CardProps) {
  const id = useId();
  const Heading = level === 2 ? "h2" : "h3";
  return (
    <section className={`card ${className}`} aria-labelledby={id} aria-busy={busy !== null}>
      <header className="card-head">
        <Heading id={id}>{title}</Heading>
        {actions !== undefined && <div className="card-actions">{actions}</div>}
      </header>
      {children}
      {busy !== null && (
        <div className="overlay" role="status">
          <span className="spinner" aria-hidden="true" />
          {busy}
        </div>
      )}
    </section>
  );
}

export function StatusBadge({ status }: { status: RunStatus }) {
  return (
    <span className={`badge status-${status}`}>
      <span aria-hidden="true">{RUN_SIGNS[status]}</span> {RUN_WORDS[status]}
    </span>
  );
}

export function Loading({ what }: { what: string }) {
  return (
    <div className="state" role="status">
      <span className="spinner" aria-hidden="true" />
      <p>Loading {what} …</p>
    </div>
  );
}

export function Empty({ title, children }: { title: string; children: ReactNode }) {
  return (
    <div className="state">
      <p className="state-title">{title}</p>
      <p>{children}</p>
    </div>
  );
}

interface FailureProps {
  what: string;
  error: Error;
  retry?: () => void;
}

export function Failure({ what, error, retry }: FailureProps) {
  return (
    <div className="state failure" role="alert">
      <p className="state-title">{what}</p>
      <p>{error.message}</p>
      {retry !== undefined && <button type="button" onClick={retry}>Try again</button>}
    </div>
  );
}

interface FieldProps {
  label: string;
  help?: ReactNode;
  error?: string | undefined;
  children: (attributes: { id: string; "aria-describedby": string; "aria-invalid": boolean }) => ReactNode;
}

/** A label, a control, what it is for and what is wrong with it, tied together for a screen reader. */
export function Field({ label, help, error, children }: FieldProps) {
  const id = useId();
  const about = `${id}-about`;
  return (
    <div className={error === undefined ? "field" : "field wrong"}>
      <label htmlFor={id}>{label}</label>
      {children({ id, "aria-describedby": about, "aria-invalid": error !== undefined })}
      <div id={about} className="about">
        {error !== undefined && <p className="error">{error}</p>}
        {help !== undefined && <p className="help">{help}</p>}
      </div>
    </div>
  );
}

/** A table that scrolls inside its own frame, by keyboard too. */
export function TableFrame({ label, children }: { label: string; children: ReactNode }) {
  return (
    <div className="table-frame" role="region" aria-label={label} tabIndex={0}>
      <table>{children}</table>
    </div>
  );
}

interface MoreProps {
  query: { hasNextPage: boolean; isFetchingNextPage: boolean; fetchNextPage: () => Promise<unknown> };
  label: string;
}

export function More({ query, label }: MoreProps) {
  if (!query.hasNextPage) return null;
  return (
    <button type="button" className="more" disabled={query.isFetchingNextPage} onClick={() => void query.fetchNextPage()}>
      {query.isFetchingNextPage ? "Loading …" : label}
    </button>
  );
}

/** How far a run is, as a bar and, for who doesn't see it, as text. */
export function RunProgress({ run }: { run: Run }) {
  const { succeeded, failed, stopped } = run.counts;
  const parts = [["succeeded", succeeded], ["failed", failed], ["stopped", stopped]] as const;
  const done = succeeded + failed + stopped;
  return (
    <div className="progress" role="img" aria-label={`${done} of ${run.total} units ended`}>
      {parts.map(([name, value]) => (
        <span key={name} className={`part-${name}`} style={{ width: `${(value / run.total) * 100}%` }} />
      ))}
    </div>
  );
}

export function RunLink({ id }: { id: string }) {
  return <Link className="mono" to={`/runs/${id}`}>{id}</Link>;
}

export function PageHead({ title, children, aside }: { title: string; children?: ReactNode; aside?: ReactNode }) {
  return (
    <div className="page-head">
      <div>
        <h1>{title}</h1>
        {children !== undefined && <p className="lead">{children}</p>}
      </div>
      {aside !== undefined && <div className="page-aside">{aside}</div>}
    </div>
  );
}
