// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
// Fail where all that a browser loads is more than it may be, or where a page holds what a strict content policy refuses.
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

const LIMIT = 150 * 1024;
const dist = new URL("../dist/", import.meta.url).pathname;

const files = readdirSync(dist, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
let total = 0;
for (const entry of files) {
  const path = join(entry.parentPath, entry.name);
  const size = gzipSync(readFileSync(path), { level: 9 }).length;
  total += size;
  console.log(`${String(size).padStart(8)} ${path.slice(dist.length)}`);
}
console.log(`${String(total).padStart(8)} bytes gzip in all, of ${LIMIT}`);

const page = readFileSync(join(dist, "index.html"), "utf8");
const refused = [/<script(?![^>]*\bsrc=)/, /<style/, /\sstyle=/, /\son[a-z]+=/].filter((each) => each.test(page));
if (refused.length > 0) {
  console.error(`index.html holds what the content policy refuses: ${refused.join(" ")}`);
  process.exit(1);
}
if (total > LIMIT) {
  console.error(`the bundle is ${total - LIMIT} bytes too large`);
  process.exit(1);
}
