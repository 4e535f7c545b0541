// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { contrast, luminance, PLAIN, plainText, readable, spans } from "../src/lib/ansi";

const styled = (line: string) => spans(line).map(({ text, style }) => [text, Object.fromEntries(
  Object.entries(style).filter(([name, value]) => value !== PLAIN[name as keyof typeof PLAIN]),
)]);

describe("spans", () => {
  test.each([
    ["plain", [["plain", {}]]],
    ["", []],
    ["a\x1b[31mb\x1b[0mc", [["a", {}], ["b", { fg: 1 }], ["c", {}]]],
    ["\x1b[1;4;92mx\x1b[22;24my", [["x", { bold: true, underline: true, fg: 10 }], ["y", { fg: 10 }]]],
    ["\x1b[44mx\x1b[49my", [["x", { bg: 4 }], ["y", {}]]],
    ["\x1b[38;5;9mx", [["x", { fg: 9 }]]],
    ["\x1b[38;5;196mx", [["x", { fg: "#ff0000" }]]],
    ["\x1b[48;5;244mx", [["x", { bg: "#808080" }]]],
    ["\x1b[38;2;1;2;3;1mx", [["x", { fg: "#010203", bold: true }]]],
    ["\x1b[38;2;1;2;999mx", [["x", {}]]],
    ["\x1b[38;5mx", [["x", { fg: 0 }]]],
    ["\x1b[mx", [["x", {}]]],
    ["\x1b[7;3;9mx", [["x", { inverse: true, italic: true, strike: true }]]],
  ])("%j", (line, expected) => {
    expect(styled(line)).toEqual(expected);
  });

  test.each([
    ["moves of the cursor", "a\x1b[2Kb\x1b[10;5Hc", "abc"],
    ["a title", "\x1b]0;title\x07x", "x"],
    ["a link", "\x1b]8;;https://example.invalid\x1b\\text\x1b]8;;\x1b\\", "text"],
    ["what the line broke off", "x\x1b[3", "x"],
    ["a title without end", "x\x1b]0;never", "x"],
    ["a lone escape", "x\x1bü", "xü"],
    ["a carriage return at the end", "x\r", "x"],
    ["a carriage return inside", "50 %\r100 %", "50 %\u240d100 %"],
    ["NUL, bell and delete", "\x00\x07\x7f", "\u2400\u2407\u2421"],
    ["C1 controls", "\x9b31m", "\ufffd31m"],
    ["marks of direction", "\u202eabc", "\ufffdabc"],
    ["markup", "<b onclick=x>&amp;", "<b onclick=x>&amp;"],
    ["a tab", "a\tb", "a\tb"],
  ])("%s can't act on the page", (_, line, text) => {
    expect(spans(line).map((each) => each.text).join("")).toBe(text);
    expect(plainText(line)).toBe(text);
  });

  test("a line of many escapes takes no more than its length's time", () => {
    const line = "\x1b[".repeat(50_000) + "\x1b]".repeat(2_000);
    const before = performance.now();
    spans(line);
    expect(performance.now() - before).toBeLessThan(2000);
  });
});

describe("contrast", () => {
  test.each(["#000000", "#ffffff", "#ffff00", "#0000ff", "#808080", "#ff0000"])("%s is readable on both grounds", (colour) => {
    for (const ground of ["#fbfaf8", "#14181b"]) {
      expect(contrast(luminance(readable(colour, ground)), luminance(ground))).toBeGreaterThanOrEqual(4.5);
    }
  });

  test("a colour that is readable stays what it is", () => {
    expect(readable("#00005f", "#fbfaf8")).toBe("#00005f");
  });

  test("the sixteen named colours are readable in each of the style sheet's themes", () => {
    const sheet = readFileSync(new URL("../src/styles/log.css", import.meta.url), "utf8");
    for (const theme of [0, 1]) {
      const value = (name: string) => {
        const pair = new RegExp(`--${name}: light-dark\\((#[0-9a-f]{6}), (#[0-9a-f]{6})\\)`).exec(sheet);
        return pair?.[theme + 1] ?? "missing";
      };
      for (let at = 0; at < 16; at += 1) {
        expect(contrast(luminance(value(`fg${at}`)), luminance(value("log")))).toBeGreaterThanOrEqual(4.5);
        expect(contrast(luminance(value(`bg${at}`)), luminance(value("log-text")))).toBeGreaterThanOrEqual(4.5);
      }
    }
  });
});
