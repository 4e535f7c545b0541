// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
// Every request to the server: the session's token, problem documents as errors, one key per intent.
import { sentence } from "./format";
import type {
  Balance, Config, LeasedNumber, LedgerEntry, Me, Page, ParameterValue, Problem, Run, Status, Unit, User,
} from "./types";

/** What the server or the way to it said went wrong; `status` is 0 where no answer came. */
export class ApiError extends Error {
  readonly status: number;
  readonly problem: Problem | null;

  constructor(status: number, message: string, problem: Problem | null = null) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.problem = problem;
  }

  /** Messages by field, as the problem document names the fields. */
  fields(): Map<string, string> {
    return new Map((this.problem?.errors ?? []).map((each) => [each.field, sentence(each.message)]));
  }
}

let csrfToken = "";
let whenSignedOut: () => void = () => undefined;

export function setCsrfToken(token: string): void {
  csrfToken = token;
}

/** Call `listener` whenever the server says that nobody is signed in. */
export function onSignedOut(listener: () => void): void {
  whenSignedOut = listener;
}

/** A key that names one intent of the user. randomUUID is missing where the page came over plain HTTP. */
export function newIdempotencyKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

interface Options {
  method?: "GET" | "POST" | "DELETE";
  body?: unknown;
  headers?: Record<string, string>;
  signal?: AbortSignal | undefined;
}

async function send(path: string, options: Options = {}): Promise<Response> {
  const method = options.method ?? "GET";
  const headers: Record<string, string> = { Accept: "application/json", ...options.headers };
  if (method !== "GET") headers["X-CSRF-Token"] = csrfToken;
  const request: RequestInit = { method, headers, credentials: "same-origin" };
  if (options.signal !== undefined) request.signal = options.signal;
  if (options.body !== undefined) {
    headers["Content-Type"] = "application/json";
    request.body = JSON.stringify(options.body);
  }
  let response: Response;
  try {
    response = await fetch(path, request);
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError(0, "The server can't be reached. Check the connection and try again.");
  }
  if (response.ok) return response;
  if (response.status === 401 && path !== "/api/login") whenSignedOut();
  throw await refusal(response);
}

async function refusal(response: Response): Promise<ApiError> {
  const problem = await readProblem(response);
  const wait = response.headers.get("Retry-After");
  const text = problem?.detail ?? problem?.title ?? `The server answered ${response.status}.`;
  const message = response.status === 429 && wait !== null ? `${text} Try again in ${wait} s.` : text;
  return new ApiError(response.status, message, problem);
}

async function readProblem(response: Response): Promise<Problem | null> {
  if (!(response.headers.get("Content-Type") ?? "").includes("json")) return null;
  try {
    return (await response.json()) as Problem;
  } catch {
    return null;
  }
}

async function json<Shape>(path: string, options?: Options): Promise<Shape> {
  const response = await send(path, options);
  return (await response.json()) as Shape;
}

function query(values: Record<string, string | number | null | undefined>): string {
  const known = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const text = new URLSearchParams(known.map(([name, value]) => [name, String(value)])).toString();
  return text === "" ? "" : `?${text}`;
}

type Cursor = string | number | null;

export interface RunRequest {
  template: string;
  total: number;
  max_parallel: number;
  parameters: Record<string, ParameterValue>;
}

export interface LogPiece {
  from: number;
  next: number;
  size: number;
  bytes: Uint8Array;
}

const run = (id: string) => `/api/runs/${encodeURIComponent(id)}`;

export const api = {
  login: (name: string, password: string, signal?: AbortSignal) =>
    json<{ user: User; csrf_token: string }>("/api/login", { method: "POST", body: { name, password }, signal }),
  logout: async () => void (await send("/api/logout", { method: "POST" })),
  me: (signal?: AbortSignal) => json<Me>("/api/me", { signal }),
  config: (signal?: AbortSignal) => json<Config>("/api/config", { signal }),
  status: (signal?: AbortSignal) => json<Status>("/api/status", { signal }),
  balance: (signal?: AbortSignal) => json<Balance>("/api/balance", { signal }),
  startRun: (body: RunRequest, key: string, signal?: AbortSignal) =>
    json<Run>("/api/run", { method: "POST", body, headers: { "Idempotency-Key": key }, signal }),
  stopRun: (id: string, signal?: AbortSignal) => json<Run>(`${run(id)}/stop`, { method: "POST", signal }),
  run: (id: string, signal?: AbortSignal) => json<Run>(run(id), { signal }),
  runs: (status: string | null, before: Cursor, limit: number, signal?: AbortSignal) =>
    json<Page<Run>>(`/api/runs${query({ status, before, limit })}`, { signal }),
  units: (id: string, after: Cursor, limit: number, signal?: AbortSignal) =>
    json<Page<Unit>>(`${run(id)}/units${query({ after, limit })}`, { signal }),
  ledger: (before: Cursor, limit: number, signal?: AbortSignal) =>
    json<Page<LedgerEntry>>(`/api/ledger${query({ before, limit })}`, { signal }),
  numbers: (status: string | null, before: Cursor, limit: number, signal?: AbortSignal) =>
    json<Page<LeasedNumber>>(`/api/numbers${query({ status, before, limit })}`, { signal }),
  retryNumber: async (id: number | string) =>
    void (await send(`/api/numbers/${encodeURIComponent(id)}/retry`, { method: "POST" })),
  log: async (id: string, from: number, limit: number, signal?: AbortSignal): Promise<LogPiece> => {
    const response = await send(`${run(id)}/log${query({ from, limit })}`, { signal });
    const bytes = new Uint8Array(await response.arrayBuffer());
    const start = header(response, "X-Log-From");
    return { from: start, next: header(response, "X-Log-Next"), size: header(response, "X-Log-Size"), bytes };
  },
  downloadPath: (id: string) => `${run(id)}/log/download`,
};

function header(response: Response, name: string): number {
  const value = Number(response.headers.get(name) ?? Number.NaN);
  if (!Number.isSafeInteger(value)) throw new ApiError(response.status, `The server's answer lacks ${name}.`);
  return value;
}
