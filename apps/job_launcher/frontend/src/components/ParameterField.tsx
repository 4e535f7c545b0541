// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
import { range } from "../lib/launch";
import type { Parameter } from "../lib/types";
import { Field } from "./basics";

interface ParameterFieldProps {
  name: string;
  parameter: Parameter;
  value: string;
  error: string | undefined;
  onChange: (value: string) => void;
}

function label(name: string, parameter: Parameter): string {
  const title = parameter.title ?? name.replaceAll("_", " ").replace(/^./, (letter) => letter.toUpperCase());
  return parameter.unit ? `${title} (${parameter.unit})` : title;
}

function help(parameter: Parameter): string {
  const numeric = parameter.type === "integer" || parameter.type === "number";
  const bounds = numeric && range(parameter) !== "" ? `A ${parameter.type === "integer" ? "whole number" : "number"}${range(parameter)}.` : "";
  const text = parameter.help ?? "";
  return [text === "" || /[.!?]$/.test(text) ? text : `${text}.`, bounds].filter((each) => each !== "").join(" ");
}

/** A control made from a parameter's declaration. */
export function ParameterField({ name, parameter, value, error, onChange }: ParameterFieldProps) {
  const about = help(parameter);
  return (
    <Field label={label(name, parameter)} error={error} help={about === "" ? undefined : about}>
      {(attributes) => {
        if (parameter.type === "boolean") {
          return <input {...attributes} type="checkbox" checked={value === "true"} onChange={(event) => onChange(String(event.target.checked))} />;
        }
        if (parameter.type === "choice") {
          return (
            <select {...attributes} value={value} onChange={(event) => onChange(event.target.value)}>
              {(parameter.choices ?? []).map((each) => <option key={String(each)}>{String(each)}</option>)}
            </select>
          );
        }
        const mode = parameter.type === "integer" ? "numeric" : parameter.type === "number" ? "decimal" : "text";
        return (
          <input {...attributes} type="text" inputMode={mode} spellCheck={false} value={value} onChange={(event) => onChange(event.target.value)} />
        );
      }}
    </Field>
  );
}
