// Writes the references anew: a picture of every page in each look, with few colours, and where its parts lie.
//
//   node tests/references.js     (wants ImageMagick's `convert`)
import { spawnSync } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { browser } from './page/browser.js';
import { layout } from './page/seen.js';
import { scripted } from './scripted.js';
import { LOOKS, opened, pictured, walk } from './walk.js';

const folder = fileURLToPath(new URL('references/', import.meta.url));
/** Enough for a page with its shades and the edges of its letters. */
const COLOURS = 8;
await mkdir(folder, { recursive: true });
const chromium = await browser();
process.on('uncaughtException', (error) => {
  console.error(error);
  process.exit(1);
});
for (const [look, settings] of Object.entries(LOOKS)) {
  const door = scripted({ pace: 1 });
  await new Promise((ready) => door.listen(0, '127.0.0.1', ready));
  const { page, context } = await opened(chromium, settings, {}, (wrong) => console.error(look, wrong));
  const boxes = {};
  for await (const name of walk(page, `http://127.0.0.1:${door.address().port}/`)) {
    boxes[name] = await page.evaluate(layout);
    if (!pictured(look, name)) continue;
    const path = `${folder}${look}-${name}.png`;
    const made = spawnSync('convert', ['-', '+dither', '-colors', String(COLOURS), '-strip', '-define', 'png:compression-level=9', `png8:${path}`], { input: await page.screenshot() });
    if (made.status !== 0) throw new Error(`convert: ${made.stderr}`);
  }
  const lines = Object.entries(boxes).map(([name, parts]) => `  ${JSON.stringify(name)}: [\n${parts.map((box) => `    ${JSON.stringify(box)}`).join(',\n')}\n  ]`);
  await writeFile(`${folder}layout-${look}.json`, `{\n${lines.join(',\n')}\n}\n`);
  await context.close();
  door.close();
  door.closeAllConnections();
}
await chromium.close();
