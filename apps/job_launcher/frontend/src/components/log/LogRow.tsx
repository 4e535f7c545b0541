// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
import { type CSSProperties, Fragment, memo } from "react";
import { luminance, readable, spans, type Span, type Style } from "../../lib/ansi";

interface LogRowProps {
  number: number;
  unit: number;
  attempt: number;
  text: string;
  continued: boolean;
  continues: boolean;
  needle: string;
  current: boolean;
  background: string;
}

/** One row: its number and unit beside it, which a selection leaves out, and its text. */
export const LogRow = memo(function LogRow(props: LogRowProps) {
  const { number, unit, attempt, text, continued, continues, needle, current, background } = props;
  const who = unit === 0 ? "run" : attempt > 1 ? `${unit}.${attempt}` : String(unit);
  return (
    <div className={`log-line${current ? " current" : ""}`}>
      <span className="log-gutter" aria-hidden="true" data-number={number + 1} data-unit={who} data-hue={unit % 6} />
      <span className="log-text">
        {continued && <span className="log-join" title="goes on from the unit's line before" data-mark="↳ " />}
        {spans(text).map((span, at) => <Piece key={at} span={span} needle={needle} background={background} />)}
        {continues && <span className="log-join" title="goes on in the unit's next line" data-mark=" ↵" />}
        {"\n"}
      </span>
    </div>
  );
});

function Piece({ span, needle, background }: { span: Span; needle: string; background: string }) {
  const content = needle === "" ? span.text : marked(span.text, needle);
  const classes = classesOf(span.style);
  const style = styleOf(span.style, background);
  if (classes === "" && style === undefined) return <>{content}</>;
  return <span className={classes} style={style}>{content}</span>;
}

function marked(text: string, needle: string) {
  const lower = text.toLowerCase();
  const parts = [];
  let at = 0;
  for (let found = lower.indexOf(needle); found !== -1; found = lower.indexOf(needle, at)) {
    parts.push(<Fragment key={at}>{text.slice(at, found)}<mark>{text.slice(found, found + needle.length)}</mark></Fragment>);
    at = found + needle.length;
  }
  return <>{parts}{text.slice(at)}</>;
}

/** The sixteen named colours are the theme's; on a coloured ground the text keeps the theme's own, which is readable on all. */
function classesOf(style: Style): string {
  const ground = style.inverse ? (style.fg ?? "own") : style.bg;
  const found: string[] = [];
  if (style.bold) found.push("bold");
  if (style.dim) found.push("dim");
  if (style.italic) found.push("italic");
  if (style.underline) found.push("underline");
  if (style.strike) found.push("strike");
  if (typeof ground === "number") found.push(`bg${ground}`);
  else if (ground === "own") found.push("inverse");
  else if (ground === null && typeof style.fg === "number") found.push(`fg${style.fg}`);
  return found.join(" ");
}

function styleOf(style: Style, background: string): CSSProperties | undefined {
  const ground = style.inverse ? style.fg : style.bg;
  if (typeof ground === "string") {
    return { backgroundColor: ground, color: luminance(ground) > 0.18 ? "#000000" : "#ffffff" };
  }
  return ground === null && !style.inverse && typeof style.fg === "string" ? { color: readable(style.fg, background) } : undefined;
}
