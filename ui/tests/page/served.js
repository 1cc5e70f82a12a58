// What tests before the real `heph serve` with the bundled model stand on: the door, a browser with a page, and their end.
import { after, before } from 'node:test';
import { browser, executable } from './browser.js';
import { missing, serve } from './door.js';

/** Why there is no page, if there is none. */
export const skip = missing || (executable ? false : 'chromium is not installed');

/** Same seed, same words: answers can be compared. */
const STEADY = { temperature: 0.7, seed: 7, language: 'en', theme: 'light' };

/** A door and a browser for all tests of a file; whatever a page waits for comes, or fails, within `patience` milliseconds. */
export function served({ patience, usual }) {
  const stage = { door: undefined, chromium: undefined };
  before(async () => {
    if (skip) return;
    [stage.door, stage.chromium] = await Promise.all([serve(), browser()]);
  });
  after(async () => {
    await stage.chromium?.close();
    await stage.door?.end();
  });

  /** A page at `at`, as a person with `settings` opens it; every request and error that it makes is written down. */
  stage.open = async ({ settings = {}, width = 1200, height = 800, at = '', address = stage.door.address, token = stage.door.token } = {}) => {
    const context = await stage.chromium.newContext({ viewport: { width, height }, acceptDownloads: true });
    context.setDefaultTimeout(patience);
    const kept = JSON.stringify({ ...STEADY, ...usual, ...settings });
    await context.addInitScript(
      ([settings, token]) => {
        if (localStorage.getItem('heph.settings') === null) localStorage.setItem('heph.settings', settings);
        if (token && localStorage.getItem('heph.token') === null) localStorage.setItem('heph.token', token);
      },
      [kept, token],
    );
    const page = await context.newPage();
    const asked = [];
    const errors = [];
    page.on('request', (request) => asked.push(request.url()));
    page.on('pageerror', (error) => errors.push(error.message));
    page.on('console', (line) => /Content Security|Refused to/i.test(line.text()) && errors.push(line.text()));
    await page.goto(`${address}/${at}`);
    return { page, context, asked, errors };
  };
  return stage;
}

export const composer = (page) => page.locator('.composer textarea');

/** Asks `words` and waits for the receipt of the answer. */
export async function ask(page, words) {
  const count = await page.locator('.went').count();
  await composer(page).fill(words);
  await composer(page).press('Enter');
  await page.locator('.went').nth(count).waitFor();
}
