// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useEffect, useRef, useState } from "react";
import { api, ApiError, newIdempotencyKey } from "../lib/api";
import { useSession } from "../lib/context";
import { count, credits } from "../lib/format";
import { announce } from "../lib/hooks";
import { check, cost, type Errors, type Form, freshForm, lackText, LIMITS, mostUnits, request } from "../lib/launch";
import { mergeRunList } from "../lib/merge";
import { useBalance } from "../lib/queries";
import type { Config, Run, Template } from "../lib/types";
import { Card, Field } from "./basics";
import { ParameterField } from "./ParameterField";

const NO_ERRORS: Errors = new Map();

/** Sending a run: one key for one intent, kept over retries, new with every change of the form and every run begun. */
function useStart(onStarted: () => void) {
  const client = useQueryClient();
  const key = useRef<string | null>(null);
  const abort = useRef<AbortController | null>(null);
  useEffect(() => () => abort.current?.abort(), []);
  const start = useMutation({
    mutationFn: ({ form, template }: { form: Form; template: Template }) => {
      abort.current = new AbortController();
      key.current ??= newIdempotencyKey();
      return api.startRun(request(form, template), key.current, abort.current.signal);
    },
    onSuccess: (run: Run) => {
      key.current = null;
      client.setQueryData<Run>(["run", run.id], (known) => known ?? run);
      client.setQueryData<Parameters<typeof mergeRunList>[0]>(["runs", ""], (data) =>
        data?.pages.some((page) => page.items.some((each) => each.id === run.id)) ? data : mergeRunList(data, run, ""));
      announce(`${run.title} was started`);
      onStarted();
    },
  });
  const changed = () => {
    key.current = null;
    if (start.error !== null) start.reset();
  };
  return { start, changed };
}

export function LaunchForm({ templates }: { templates: [Template, ...Template[]] }) {
  const { config, user } = useSession();
  const available = useBalance().data?.available ?? null;
  const [form, setForm] = useState<Form>(() => freshForm(config, templates[0]));
  const [errors, setErrors] = useState<Errors>(NO_ERRORS);
  const element = useRef<HTMLFormElement>(null);
  const { start, changed } = useStart(() => setErrors(NO_ERRORS));
  const template = templates.find((each) => each.name === form.template) ?? templates[0];
  const change = (next: Partial<Form>) => {
    changed();
    setErrors(NO_ERRORS);
    setForm({ ...form, ...next });
  };
  const said = start.error instanceof ApiError ? start.error.fields() : NO_ERRORS;
  const errorOf = (field: string) => errors.get(field) ?? said.get(field);
  const most = mostUnits(config);
  const price = cost(form, template, available);
  const lacks = price?.after !== null && price !== null && price.after < 0;

  // What is wrong is where the keyboard goes.
  useEffect(() => {
    element.current?.querySelector<HTMLElement>("[aria-invalid=true]")?.focus();
  }, [errors, start.error]);

  const submit = (event: FormEvent) => {
    event.preventDefault();
    if (start.isPending || lacks) return;
    const wrong = check(form, template, most);
    setErrors(wrong);
    if (wrong.size === 0) start.mutate({ form, template });
  };

  return (
    <Card title="New run" busy={start.isPending ? "Starting …" : null} className="launch-card">
      <form ref={element} onSubmit={submit} noValidate>
        <Field label="Template" error={errorOf("template")} help={template.description === "" ? undefined : template.description}>
          {(attributes) => (
            <select
              {...attributes}
              value={template.name}
              onChange={(event) => {
                const chosen = templates.find((each) => each.name === event.target.value) ?? templates[0];
                change({ template: chosen.name, parameters: freshForm(config, chosen).parameters });
              }}
            >
              {templates.map((each) => <option key={each.name} value={each.name}>{each.title}</option>)}
            </select>
          )}
        </Field>
        {Object.entries(template.parameters).map(([name, parameter]) => (
          <ParameterField
            key={`${template.name} ${name}`}
            name={name}
            parameter={parameter}
            value={form.parameters[name] ?? ""}
            error={errorOf(`parameters.${name}`)}
            onChange={(value) => change({ parameters: { ...form.parameters, [name]: value } })}
          />
        ))}
        <Field label="Units in all" error={errorOf("total")} help={most === null ? undefined : `Up to ${count(most)}.`}>
          {(attributes) => (
            <input {...attributes} type="text" inputMode="numeric" value={form.total} onChange={(event) => change({ total: event.target.value })} />
          )}
        </Field>
        <ParallelField config={config} value={form.maxParallel} error={errorOf("max_parallel")} onChange={(maxParallel) => change({ maxParallel })} />
        <dl className="price">
          <div><dt>Price</dt><dd>{credits(price?.price ?? null)}</dd></div>
          <div><dt>Available now</dt><dd>{count(available)}</dd></div>
          <div className={lacks ? "lacks" : ""}><dt>Left after the start</dt><dd data-testid="after">{count(price?.after ?? null)}</dd></div>
        </dl>
        {lacks && <p className="error" role="status">{lackText(price.after ?? 0)}</p>}
        {start.error !== null && <p className="error" role="alert">{start.error.message}</p>}
        {user.role === "viewer"
          ? <p className="note">Your account may look at runs, but not start any.</p>
          : <button type="submit" className="primary" disabled={start.isPending || lacks}>Start the run</button>}
      </form>
    </Card>
  );
}

interface ParallelFieldProps {
  config: Config;
  value: number;
  error: string | undefined;
  onChange: (value: number) => void;
}

function ParallelField({ config, value, error, onChange }: ParallelFieldProps) {
  const limit = config.effective_max_parallel_limit;
  return (
    <Field label="At a time" error={error} help={`Up to ${limit} here, limited by ${LIMITS[config.limited_by]}.`}>
      {(attributes) => (
        <div className="slider">
          <input {...attributes} type="range" min={1} max={limit} step={1} value={value} onChange={(event) => onChange(Number(event.target.value))} />
          <output htmlFor={attributes.id}>{value}</output>
        </div>
      )}
    </Field>
  );
}
