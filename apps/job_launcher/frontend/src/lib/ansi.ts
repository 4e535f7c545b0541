// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
// What a worker printed, as pieces of text with a style. Escapes never reach the page; control characters are made visible.

/** Index of the 16 named colours, "#rrggbb" of any other, or null for the theme's own. */
export type Colour = number | string | null;

export interface Style {
  fg: Colour;
  bg: Colour;
  bold: boolean;
  dim: boolean;
  italic: boolean;
  underline: boolean;
  inverse: boolean;
  strike: boolean;
}

export interface Span {
  text: string;
  style: Style;
}

export const PLAIN: Style = {
  fg: null, bg: null, bold: false, dim: false, italic: false, underline: false, inverse: false, strike: false,
};

// CSI (complete), OSC up to its end, two-character escapes, and the beginning of one that the line broke off.
const ESCAPE = /\x1b\[([0-?]*)[ -/]*([@-~])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\|$)|\x1b[ -/]*[0-Z\\-~]|\x1b\[[0-?]*$|\x1b/g;
const CONTROL = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

/** Split a line into spans; the style starts plain on each line, so a worker that forgets a reset can't stain others. */
export function spans(line: string): Span[] {
  if (!line.includes("\x1b")) return line === "" ? [] : [{ text: visible(line), style: PLAIN }];
  const found: Span[] = [];
  let style = PLAIN;
  let at = 0;
  for (const match of line.matchAll(ESCAPE)) {
    push(found, line.slice(at, match.index), style);
    if (match[2] === "m") style = styled(style, match[1] ?? "");
    at = match.index + match[0].length;
  }
  push(found, line.slice(at), style);
  return found;
}

/** The text alone, as it is shown: what search looks through and the clipboard gets. */
export function plainText(line: string): string {
  return visible(line.includes("\x1b") ? line.replace(ESCAPE, "") : line);
}

function push(found: Span[], text: string, style: Style): void {
  if (text !== "") found.push({ text: visible(text), style });
}

/** Show control characters as their pictures and marks of direction as a box, so that none acts on the page. */
export function visible(text: string): string {
  return text.replace(/\r$/, "").replace(CONTROL, (character) => {
    const code = character.charCodeAt(0);
    if (code < 0x20) return String.fromCharCode(0x2400 + code);
    return code === 0x7f ? "\u2421" : "\ufffd";
  });
}

function styled(style: Style, parameters: string): Style {
  const codes = parameters.split(/[;:]/).map((each) => (each === "" ? 0 : Number(each)));
  const next = { ...style };
  for (let at = 0; at < codes.length; at += 1) {
    const code = codes[at] ?? 0;
    if (code === 38 || code === 48) {
      const [colour, used] = extended(codes, at + 1);
      if (code === 38) next.fg = colour;
      else next.bg = colour;
      at += used;
    } else {
      apply(next, code);
    }
  }
  return next;
}

function apply(style: Style, code: number): void {
  if (code === 0) Object.assign(style, PLAIN);
  else if (code === 1) style.bold = true;
  else if (code === 2) style.dim = true;
  else if (code === 3) style.italic = true;
  else if (code === 4) style.underline = true;
  else if (code === 7) style.inverse = true;
  else if (code === 9) style.strike = true;
  else if (code === 22) Object.assign(style, { bold: false, dim: false });
  else if (code === 23) style.italic = false;
  else if (code === 24) style.underline = false;
  else if (code === 27) style.inverse = false;
  else if (code === 29) style.strike = false;
  else if (code === 39) style.fg = null;
  else if (code === 49) style.bg = null;
  else if (code >= 30 && code <= 37) style.fg = code - 30;
  else if (code >= 40 && code <= 47) style.bg = code - 40;
  else if (code >= 90 && code <= 97) style.fg = code - 90 + 8;
  else if (code >= 100 && code <= 107) style.bg = code - 100 + 8;
}

/** Read what follows 38 or 48: `5;n` or `2;r;g;b`. Return the colour and how many codes it took. */
function extended(codes: number[], at: number): [Colour, number] {
  if (codes[at] === 5) return [indexed(codes[at + 1] ?? 0), 2];
  if (codes[at] === 2) return [hex(codes.slice(at + 1, at + 4)), 4];
  return [null, 0];
}

function indexed(value: number): Colour {
  if (!(value >= 0 && value <= 255)) return null;
  if (value < 16) return value;
  if (value >= 232) return hex(Array<number>(3).fill(8 + (value - 232) * 10));
  const levels = [0, 95, 135, 175, 215, 255];
  const cube = value - 16;
  return hex([Math.floor(cube / 36), Math.floor(cube / 6) % 6, cube % 6].map((each) => levels[each] ?? 0));
}

function hex(parts: number[]): Colour {
  if (parts.length < 3 || parts.some((each) => !(each >= 0 && each <= 255))) return null;
  return `#${parts.map((each) => each.toString(16).padStart(2, "0")).join("")}`;
}

/** A colour of any kind as one that is read on the background: its lightness is moved until the contrast is 4.5. */
export function readable(colour: string, background: string): string {
  const target = luminance(background);
  const towards = target < 0.2 ? 255 : 0;
  let parts = rgb(colour);
  for (let step = 0; step < 20 && contrast(luminance(toHex(parts)), target) < 4.5; step += 1) {
    parts = parts.map((part) => Math.round(part + (towards - part) * 0.15));
  }
  return contrast(luminance(toHex(parts)), target) < 4.5 ? toHex([towards, towards, towards]) : toHex(parts);
}

export function contrast(one: number, other: number): number {
  return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
}

/** Relative luminance by WCAG 2. */
export function luminance(colour: string): number {
  const [red = 0, green = 0, blue = 0] = rgb(colour).map((part) => {
    const share = part / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

function rgb(colour: string): number[] {
  return [1, 3, 5].map((at) => Number.parseInt(colour.slice(at, at + 2), 16));
}

function toHex(parts: number[]): string {
  return `#${parts.map((part) => part.toString(16).padStart(2, "0")).join("")}`;
}
