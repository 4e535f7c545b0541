// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
// The shapes that the API and the push share. Amounts are whole credits, times ISO 8601 in UTC; null is "not yet" or "not measured".

export type RunStatus = "queued" | "running" | "stopping" | "succeeded" | "partly" | "failed" | "stopped";
export type UnitStatus = "waiting" | "running" | "succeeded" | "failed" | "stopped";
export type NumberStatus = "held" | "releasing" | "released" | "dead";
export type Role = "admin" | "operator" | "viewer";
export type ParameterValue = string | number | boolean;

export interface Counts {
  waiting: number;
  running: number;
  succeeded: number;
  failed: number;
  stopped: number;
  retried: number;
}

export interface Run {
  id: string;
  owner: string;
  template: string;
  title: string;
  status: RunStatus;
  total: number;
  max_parallel: number;
  parameters: Record<string, ParameterValue>;
  counts: Counts;
  price: number;
  held: number;
  captured: number;
  created_at: string;
  started_at: string | null;
  ended_at: string | null;
  log_size: number;
  message: string | null;
}

export interface Unit {
  id: string;
  run_id: string;
  number: number;
  attempt: number;
  worker: number | null;
  status: UnitStatus;
  exit_code: number | null;
  signal: number | string | null;
  reason: string | null;
  lease: string | null;
  started_at: string | null;
  ended_at: string | null;
  report: Record<string, unknown> | null;
}

export interface Balance {
  total: number;
  held: number;
  available: number;
}

export interface LedgerEntry {
  id: number | string;
  at: string;
  kind: "credit" | "hold" | "capture" | "release";
  amount: number;
  run_id: string | null;
  unit_id: string | null;
  by: string | null;
  reason: string | null;
  total_after: number;
  held_after: number;
}

export interface LeasedNumber {
  id: number | string;
  value: string;
  run_id: string;
  unit_id: string;
  status: NumberStatus;
  acquired_at: string;
  release_after: string;
  attempts: number;
  next_try_at: string | null;
  last_error: string | null;
}

export interface NumberCounts {
  held: number;
  releasing: number;
  dead: number;
}

export interface Banner {
  kind: "no_numbers" | "draining" | "degraded";
  message: string;
  since: string;
}

export interface Status {
  banner: Banner | null;
  running_units: number;
  queued_units: number;
  numbers: NumberCounts;
  draining: boolean;
  server_time: string;
}

export interface Page<Item> {
  items: Item[];
  next: string | number | null;
}

export interface FieldError {
  field: string;
  message: string;
}

export interface Problem {
  type?: string;
  title: string;
  status: number;
  detail?: string;
  errors?: FieldError[];
  request_id?: string;
}

export interface Parameter {
  type: "integer" | "number" | "string" | "boolean" | "choice";
  title?: string;
  help?: string;
  unit?: string;
  default?: ParameterValue | null;
  required?: boolean;
  minimum?: number | null;
  maximum?: number | null;
  min_length?: number | null;
  max_length?: number | null;
  pattern?: string | null;
  choices?: ParameterValue[] | null;
}

export interface Template {
  name: string;
  title: string;
  description: string;
  price: number;
  parameters: Record<string, Parameter>;
}

export interface TunableInfo {
  unit: string;
  default: ParameterValue | null;
  minimum: number | null;
  maximum: number | null;
  help: string;
}

export interface Config {
  version: string;
  tunables: Record<string, ParameterValue | null>;
  tunables_info: Record<string, TunableInfo>;
  effective_max_parallel_limit: number;
  limited_by: "max_parallel_limit" | "cpu" | "memory";
  templates: Template[];
}

export interface User {
  name: string;
  role: Role;
}

export interface Me {
  user: User;
  csrf_token: string;
  balance: Balance;
}

export const TERMINAL: ReadonlySet<RunStatus> = new Set(["succeeded", "partly", "failed", "stopped"]);

export function isActive(run: Pick<Run, "status">): boolean {
  return !TERMINAL.has(run.status);
}
