// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
// The form of a new run: what is in it, what is wrong with it, what it costs, what is sent. Pure.
import type { RunRequest } from "./api";
import { count } from "./format";
import type { Config, Parameter, ParameterValue, Template } from "./types";

/** What limits how many workers run at a time, for people. */
export const LIMITS: Record<Config["limited_by"], string> = {
  max_parallel_limit: "the tunable max_parallel_limit",
  cpu: "the processors",
  memory: "the memory",
};

/** Text as typed; a switch's state is "true" or "false". */
export interface Form {
  template: string;
  total: string;
  maxParallel: number;
  parameters: Record<string, string>;
}

export type Errors = ReadonlyMap<string, string>;

export function freshForm(config: Config, template: Template): Form {
  const usual = config.tunables["max_parallel"];
  const limit = config.effective_max_parallel_limit;
  return {
    template: template.name,
    total: String(Math.min(typeof usual === "number" ? usual : 1, limit)),
    maxParallel: Math.min(typeof usual === "number" ? usual : 1, limit),
    parameters: Object.fromEntries(Object.entries(template.parameters).map(([name, each]) => [name, initial(each)])),
  };
}

function initial(parameter: Parameter): string {
  if (parameter.default !== undefined && parameter.default !== null) return String(parameter.default);
  if (parameter.type === "boolean") return "false";
  return parameter.type === "choice" ? String(parameter.choices?.[0] ?? "") : "";
}

/** Units of the form as a number, or null where the field holds none. */
export function wholeNumber(text: string): number | null {
  return /^\s*\d{1,9}\s*$/.test(text) ? Number(text) : null;
}

/** The most units of one run, if the server says. */
export function mostUnits(config: Config): number | null {
  const value = config.tunables["run_max_units"];
  return typeof value === "number" ? value : null;
}

/** What is wrong, by the names the server uses for the fields. */
export function check(form: Form, template: Template, most: number | null): Errors {
  const errors = new Map<string, string>();
  const total = wholeNumber(form.total);
  if (total === null || total < 1 || (most !== null && total > most)) {
    errors.set("total", `Enter a whole number${most === null ? ", 1 or more" : ` from 1 to ${most}`}.`);
  }
  for (const [name, parameter] of Object.entries(template.parameters)) {
    const wrong = checkParameter(parameter, form.parameters[name] ?? "");
    if (wrong !== null) errors.set(`parameters.${name}`, wrong);
  }
  return errors;
}

function checkParameter(parameter: Parameter, text: string): string | null {
  if (text === "" && parameter.required === false) return null;
  if (parameter.type === "integer" || parameter.type === "number") return checkNumber(parameter, text);
  if (parameter.type === "choice" && !(parameter.choices ?? []).map(String).includes(text)) return "Choose one of the list.";
  if (parameter.type !== "string") return null;
  const least = parameter.min_length ?? 0;
  const most = parameter.max_length ?? Number.POSITIVE_INFINITY;
  if (text.length < least) return `Enter at least ${least} characters.`;
  if (text.length > most) return `Enter at most ${most} characters.`;
  return matches(parameter.pattern ?? null, text) ? null : `This must match ${parameter.pattern ?? ""}`;
}

function checkNumber(parameter: Parameter, text: string): string | null {
  const whole = parameter.type === "integer";
  const value = text.trim() === "" ? Number.NaN : Number(text);
  const low = parameter.minimum ?? Number.NEGATIVE_INFINITY;
  const high = parameter.maximum ?? Number.POSITIVE_INFINITY;
  if (Number.isFinite(value) && value >= low && value <= high && (!whole || Number.isInteger(value))) return null;
  return `Enter a ${whole ? "whole number" : "number"}${range(parameter)}.`;
}

/** " from 1 to 60", " up to 60", " of 1 or more" or nothing. */
export function range(parameter: Parameter): string {
  const low = parameter.minimum ?? null;
  const high = parameter.maximum ?? null;
  if (low !== null && high !== null) return ` from ${low} to ${high}`;
  if (high !== null) return ` up to ${high}`;
  return low === null ? "" : ` of ${low} or more`;
}

/** Patterns are the server's; one that this language doesn't know is left to the server. */
function matches(pattern: string | null, text: string): boolean {
  if (pattern === null) return true;
  try {
    return new RegExp(`^(?:${pattern})$`).test(text);
  } catch {
    return true;
  }
}

export function request(form: Form, template: Template): RunRequest {
  const total = wholeNumber(form.total) ?? 0;
  const parameters: Record<string, ParameterValue> = {};
  for (const [name, parameter] of Object.entries(template.parameters)) {
    const text = form.parameters[name] ?? "";
    if (text === "" && parameter.required === false) continue;
    parameters[name] = typed(parameter, text);
  }
  return { template: form.template, total, max_parallel: form.maxParallel, parameters };
}

function typed(parameter: Parameter, text: string): ParameterValue {
  if (parameter.type === "integer" || parameter.type === "number") return Number(text);
  if (parameter.type === "boolean") return text === "true";
  return parameter.type === "choice" ? ((parameter.choices ?? []).find((each) => String(each) === text) ?? text) : text;
}

export interface Cost {
  price: number;
  /** null while the balance isn't known. */
  after: number | null;
}

export function cost(form: Form, template: Template, available: number | null): Cost | null {
  const total = wholeNumber(form.total);
  if (total === null) return null;
  const price = total * template.price;
  return { price, after: available === null ? null : available - price };
}

export function lackText(after: number): string {
  return `The balance lacks ${count(-after)} for this run. Take fewer units, or ask for credit.`;
}
