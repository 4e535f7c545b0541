// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
import { Link } from "react-router";
import { count, progressOf, UNIT_SIGNS } from "../lib/format";
import type { Unit } from "../lib/types";

interface UnitGridProps {
  runId: string;
  units: Unit[];
  total: number;
}

function describe(unit: Unit): string {
  const progress = progressOf(unit);
  const done = progress === null ? "" : `, ${progress} % done`;
  const attempt = unit.attempt > 1 ? `, attempt ${unit.attempt}` : "";
  return `Unit ${unit.number}: ${unit.status}${done}${attempt}${unit.reason === null ? "" : `, ${unit.reason}`}`;
}

/** Each unit as a small box: colour, sign and text say its state; it leads to the unit's log. */
export function UnitGrid({ runId, units, total }: UnitGridProps) {
  const hidden = total - units.length;
  return (
    <div className="units">
      <ul className="unit-grid" aria-label="Units">
        {units.map((unit) => (
          <li key={unit.number}>
            <Link
              to={`/logs/${runId}?unit=${unit.number}`}
              className={`unit unit-${unit.status}`}
              aria-label={`${describe(unit)}. Its log`}
              title={describe(unit)}
            >
              <span className="unit-sign" aria-hidden="true">{UNIT_SIGNS[unit.status]}</span>
              <span className="unit-number" aria-hidden="true">{unit.number}</span>
              <UnitProgress progress={progressOf(unit)} />
            </Link>
          </li>
        ))}
      </ul>
      {hidden > 0 && units.length > 0 && <p className="help">and {count(hidden)} more</p>}
    </div>
  );
}

function UnitProgress({ progress }: { progress: number | null }) {
  return progress !== null && <span className="unit-progress" aria-hidden="true">{progress} %</span>;
}
