// Pictures of every page for a person to look at: light, dark, high contrast, right to left, and 360 pixels wide.
//
//   node tests/shots.js [FOLDER] [LOOK,...]      (`shots` by default, which git does not keep)
import { mkdir } from 'node:fs/promises';
import { browser } from './page/browser.js';
import { scripted } from './scripted.js';
import { opened, STATES, walk } from './walk.js';

const folder = process.argv[2] ?? 'shots';
const LOOKS = [
  ['light', { theme: 'light' }, 1280, 800],
  ['dark', { theme: 'dark' }, 1280, 800],
  ['contrast', { theme: 'dark', contrast: 'more' }, 1280, 800],
  ['contrast-light', { theme: 'light', contrast: 'more', language: 'zh' }, 1280, 800],
  ['rtl', { theme: 'light', language: 'ar' }, 1280, 800],
  ['large', { theme: 'light', language: 'de', size: 1.6 }, 1280, 800],
  ['narrow', { theme: 'light', language: 'de' }, 360, 740],
  ['narrow-rtl', { theme: 'dark', language: 'ar' }, 360, 740],
];
const only = process.argv[3]?.split(',');

await mkdir(folder, { recursive: true });
const chromium = await browser();
for (const [look, settings, width, height] of LOOKS) {
  if (only && !only.includes(look)) continue;
  const door = scripted({ pace: 1 });
  await new Promise((ready) => door.listen(0, '127.0.0.1', ready));
  const { page, context } = await opened(chromium, settings, { width, height }, (wrong) => console.error(look, wrong));
  for await (const name of walk(page, `http://127.0.0.1:${door.address().port}/`)) {
    await page.screenshot({ path: `${folder}/${look}-${String(STATES.indexOf(name) + 1).padStart(2, '0')}-${name}.png` });
  }
  await context.close();
  door.close();
  door.closeAllConnections();
}
await chromium.close();
