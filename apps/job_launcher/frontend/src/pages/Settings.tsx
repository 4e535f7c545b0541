// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
import { Card, PageHead, TableFrame } from "../components/basics";
import { useSession } from "../lib/context";
import { count, NONE, withUnit } from "../lib/format";
import { useTitle } from "../lib/hooks";
import { LIMITS } from "../lib/launch";

export function Settings() {
  useTitle("Settings");
  const { config } = useSession();
  const names = Object.keys(config.tunables).sort();
  return (
    <>
      <PageHead title="Settings">
        What this launcher was deployed with, read-only. Change a value where it comes from (the inventory, or the configuration
        file) and deploy again.
      </PageHead>
      <dl className="tiles">
        <div><dt>workers at a time, at most</dt><dd>{count(config.effective_max_parallel_limit)}</dd></div>
        <div><dt>limited by</dt><dd className="words">{LIMITS[config.limited_by]}</dd></div>
        <div><dt>version</dt><dd className="words">{config.version}</dd></div>
      </dl>
      <Card title="Tunables">
        <TableFrame label="Tunables">
          <thead>
            <tr>
              <th scope="col">Name</th>
              <th scope="col" className="figure">Value</th>
              <th scope="col" className="figure">Default</th>
              <th scope="col">Bounds</th>
              <th scope="col">What it is</th>
            </tr>
          </thead>
          <tbody>
            {names.map((name) => {
              const info = config.tunables_info[name];
              const value = config.tunables[name] ?? null;
              const changed = info !== undefined && value !== info.default;
              return (
                <tr key={name}>
                  <th scope="row" className="mono">{name}</th>
                  <td className="figure nowrap">{changed ? <strong>{withUnit(value, info.unit)}</strong> : withUnit(value, info?.unit ?? "")}</td>
                  <td className="figure nowrap">{info === undefined ? NONE : withUnit(info.default, info.unit)}</td>
                  <td className="nowrap">{bounds(info?.minimum ?? null, info?.maximum ?? null)}</td>
                  <td className="help-cell">{info?.help ?? NONE}</td>
                </tr>
              );
            })}
          </tbody>
        </TableFrame>
        <p className="help">A value in bold isn't the default.</p>
      </Card>
    </>
  );
}

function bounds(minimum: number | null, maximum: number | null): string {
  if (minimum === null && maximum === null) return NONE;
  if (maximum === null) return `${count(minimum)} or more`;
  if (minimum === null) return `up to ${count(maximum)}`;
  return `${plain(minimum)} to ${plain(maximum)}`;
}

function plain(value: number): string {
  return Number.isInteger(value) ? count(value) : String(value);
}
