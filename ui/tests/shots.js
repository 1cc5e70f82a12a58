// Pictures of every page for a person to look at: light, dark, high contrast, right to left, and 360 pixels wide.
//
//   node tests/shots.js [FOLDER]      (`shots` by default, which git does not keep)
import { mkdir } from 'node:fs/promises';
import { browser } from './page/browser.js';
import { scripted } from './scripted.js';

const folder = process.argv[2] ?? 'shots';
const LOOKS = [
  ['light', { theme: 'light' }, 1280, 800],
  ['dark', { theme: 'dark' }, 1280, 800],
  ['contrast', { theme: 'dark', contrast: 'more' }, 1280, 800],
  ['rtl', { theme: 'light', language: 'ar' }, 1280, 800],
  ['narrow', { theme: 'light', language: 'de' }, 360, 740],
  ['narrow-rtl', { theme: 'dark', language: 'ar' }, 360, 740],
];
const only = process.argv[3]?.split(',');

await mkdir(folder, { recursive: true });
const door = scripted({ pace: 1 });
await new Promise((ready) => door.listen(0, '127.0.0.1', ready));
const address = `http://127.0.0.1:${door.address().port}/`;
const chromium = await browser();
for (const [look, settings, width, height] of LOOKS) {
  if (only && !only.includes(look)) continue;
  const context = await chromium.newContext({ viewport: { width, height }, deviceScaleFactor: 1 });
  await context.addInitScript((kept) => localStorage.setItem('heph.settings', JSON.stringify({ ...kept, mode: 'layered' })), settings);
  const page = await context.newPage();
  page.on('pageerror', (error) => console.error(look, error.message));
  page.on('console', (line) => line.type() === 'error' && console.error(look, line.text()));
  const shot = (name) => page.screenshot({ path: `${folder}/${look}-${name}.png` });
  await page.goto(address);
  await page.locator('.composer textarea').waitFor();
  await shot('1-hello');
  await page.locator('.composer textarea').fill('How can a model be shared among machines?');
  await page.locator('.plan button').click();
  await page.locator('.plan .card').waitFor();
  await shot('2-plan');
  await page.locator('.plan button').first().click();
  await page.locator('.composer textarea').press('Enter');
  await page.locator('.went .line').click();
  await page.locator('.went .card').waitFor();
  await page.waitForTimeout(500);
  await shot('3-answer');
  await page.locator('.row').first().evaluate((row) => row.closest('[role=feed]').scrollTo(0, 0));
  await page.waitForTimeout(150);
  await shot('4-text');
  await page.locator('.composer .row button').nth(1).click();
  await page.locator('.shelf input').first().check();
  await page.keyboard.press('Escape');
  await page.locator('.composer textarea').fill('When does the ferry of the fox leave?');
  await page.locator('.composer textarea').press('Enter');
  await page.locator('.went').nth(1).waitFor();
  await page.locator('.cited > summary').click();
  await page.locator('.cited details summary').click();
  await page.locator('.cited mark').waitFor();
  await page.waitForTimeout(200);
  await shot('4-cited');
  await page.locator('.turn.assistant').last().locator('.acts > button').nth(1).click();
  await page.locator('[aria-pressed]').last().click();
  await page.locator('.beside li').nth(1).waitFor();
  await page.waitForTimeout(300);
  await shot('4-beside');
  await page.locator('header button.shield').click();
  await shot('5-shield');
  await page.keyboard.press('Escape');
  for (const name of ['folders', 'nodes', 'models', 'settings']) {
    await page.goto(`${address}#/${name}`);
    await page.locator('h1').waitFor();
    await page.waitForTimeout(300);
    if (name === 'nodes') {
      await page.locator('.ways button').first().click();
      await page.locator('.ticket').waitFor();
    }
    await shot(`6-${name}`);
  }
  await context.close();
}
await chromium.close();
door.close();
door.closeAllConnections();
