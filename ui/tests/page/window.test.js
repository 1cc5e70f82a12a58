// What the page shows in a window alone: sharing this computer, and its bounds. The window is written down here as the door is; the real
// one is driven by `tests/desktop`.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { opened } from '../walk.js';
import { sound } from './sound.js';
import { skip, staged } from './stage.js';

const stage = staged({ pace: 1 });

/** A window that notes what it is asked to change, and takes it. Runs in the page, before it. */
function around() {
  const caps = { on: false, cpu_percent: 50, memory: null, bandwidth: null, rests: true };
  window.changes = [];
  const tell = (what, about) => dispatchEvent(new CustomEvent('heph', { detail: { what, about } }));
  window.__TAURI_INTERNALS__ = {
    invoke: async (command, { change = {} } = {}) => {
      if (command === 'standing') return { engine: { state: 'open' }, lending: { state: caps.on ? 'on' : 'off' }, caps };
      if (change.caps) Object.assign(caps, change.caps);
      if (change.lend !== undefined) {
        caps.on = change.lend;
        tell('lending', change.lend ? { state: 'failed', why: 'no network' } : { state: 'off' });
      }
      if (command === 'change' && !('look' in change)) window.changes.push(change);
      return null;
    },
  };
}

test('in a browser nothing can be lent; in a window it can, within bounds that are what was written', { skip }, async () => {
  const { page, context } = await opened(stage.chromium, { theme: 'light', language: 'en' }, {}, () => undefined);
  await page.goto(`${stage.address()}#/settings`);
  await page.getByRole('heading', { name: 'A report to share' }).waitFor();
  assert.equal(await page.getByText('Share this computer').count(), 0);
  await context.addInitScript(around);
  await page.reload();
  const share = page.getByLabel('Share this computer');
  const memory = page.getByLabel('Memory for it at most (GB)');
  const network = page.getByLabel('Network for it at most (MB a second)');
  const cores = page.getByLabel('Cores for it at most (percent)');
  const write = async (field, words) => {
    await field.fill(words);
    await field.press('Enter');
  };
  await write(memory, '1.5');
  await write(network, '10');
  await write(cores, '25');
  await page.getByLabel('Rest while I work').uncheck();
  const bounds = { on: false, cpu_percent: 25, memory: 1.5e9, bandwidth: 1e7, rests: false };
  const last = () => page.evaluate(() => window.changes.at(-1));
  assert.deepEqual(await last(), { caps: bounds });
  // What is no bound changes nothing, and the field says again what holds.
  await write(memory, '-3');
  await write(cores, '500');
  assert.deepEqual([await last(), await memory.inputValue(), await cores.inputValue()], [{ caps: bounds }, '1.5', '25']);
  await write(memory, '');
  assert.deepEqual(await last(), { caps: { ...bounds, memory: null } });
  await share.check();
  assert.deepEqual(await last(), { lend: true });
  await page.getByText('no network').waitFor();
  await sound(page, 'sharing');
  await share.uncheck();
  assert.deepEqual(await last(), { lend: false });
  await context.close();
});

for (const [language, name] of [['en', 'Settings'], ['de', 'Einstellungen'], ['zh', '设置'], ['ar', 'الإعدادات']]) {
  test(`on a narrow page the names of all pages stand whole, and so do the bounds: ${language}`, { skip }, async () => {
    const { page, context } = await opened(stage.chromium, { theme: 'light', language }, { width: 360, height: 640 }, () => undefined);
    await context.addInitScript(around);
    await page.goto(`${stage.address()}#/settings`);
    await page.getByRole('heading', { name, exact: true }).waitFor();
    const short = await page.locator('nav span').evaluateAll((all) => all.filter((word) => word.scrollWidth > word.clientWidth).map((word) => word.textContent));
    assert.deepEqual(short, []);
    await sound(page, `settings, narrow, ${language}`);
    await context.close();
  });
}
