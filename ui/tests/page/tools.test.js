// Tools of the person's servers on the page: chosen, waited for, allowed and refused. Before a door whose answers are written
// down, since the bundled model calls a tool only where it must.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { sound } from './sound.js';
import { skip, staged } from './stage.js';

/** A machine that also builds is slow. */
const PATIENCE = 30_000;

const stage = staged({ pace: 1 });

async function open(settings, width = 1200) {
  const context = await stage.chromium.newContext({ viewport: { width, height: 800 } });
  context.setDefaultTimeout(PATIENCE);
  await context.addInitScript((kept) => localStorage.setItem('heph.settings', JSON.stringify(kept)), { mode: 'auto', privacy: 'policy', ...settings });
  const page = await context.newPage();
  await page.goto(stage.address());
  await page.locator('.composer textarea').waitFor();
  return { page, context };
}

/** Opens the list of servers, and lets the answer use the first. */
async function choose(page) {
  await page.locator('.composer .row > *').nth(3).locator('button').first().press('Enter');
  await page.locator('.shelf input').first().press('Space');
  await page.keyboard.press('Escape');
}

async function ask(page, words) {
  await page.locator('.composer textarea').fill(words);
  await page.locator('.composer textarea').press('Enter');
}

const waits = (page) => page.locator('.turn section.card');

for (const [look, settings, width] of [
  ['light', { theme: 'light', language: 'en' }, 1200],
  ['dark, right to left, narrow', { theme: 'dark', language: 'ar' }, 360],
]) {
  test(`a tool waits for the person's word, which is given by keyboard alone: ${look}`, { skip }, async () => {
    const { page, context } = await open(settings, width);
    await choose(page);
    await ask(page, 'When does the ferry leave?');
    await waits(page).waitFor();
    assert.match(await waits(page).innerText(), /boats\.txt/, 'what the tool would be told is shown');
    await sound(page, `${look}: a tool waits`);
    const sent = page.waitForRequest((request) => request.url().endsWith('/v1/chat/completions'));
    await waits(page).locator('.main').focus();
    await page.keyboard.press('Enter');
    const { heph, messages } = (await sent).postDataJSON();
    assert.deepEqual([heph.mcp, heph.approved], [['files'], ['call_1']]);
    assert.equal(messages.at(-1).tool_calls[0].function.name, 'files__read');
    await page.getByText('It leaves at 7:40 from pier four.').waitFor();
    assert.equal(await waits(page).count(), 0);
    const step = page.locator('.turn.assistant li details');
    await step.locator('summary').press('Enter');
    assert.match(await step.innerText(), /boats\.txt[\s\S]*From outside: The ferry/);
    await sound(page, `${look}: a tool was used`);
    await page.reload();
    await page.locator('.turn.assistant li details').waitFor();
    await context.close();
  });
}

test('another answer in another mode comes beside the first, while it comes and after', { skip }, async () => {
  const { page, context } = await open({ language: 'en' });
  await ask(page, 'Tell me about the fox.');
  await page.locator('.went').waitFor();
  await page.getByRole('button', { name: 'Another answer, in mode' }).click();
  await page.locator('.sheet').getByRole('button', { name: 'Local', exact: true }).click();
  await page.locator('.beside li').nth(1).waitFor();
  await page.locator('.beside li').nth(1).locator('.went').waitFor();
  await page.getByText('The same words, letter for letter.').waitFor();
  assert.deepEqual(await page.locator('.beside h4').allInnerTexts(), ['Auto heph-story', 'Local heph-story']);
  await sound(page, 'beside, in another mode');
  await page.getByRole('button', { name: 'One at a time' }).click();
  assert.equal(await page.locator('.beside').count(), 0);
  await page.locator('.turn.assistant').getByText('2 of 2').waitFor();
  await context.close();
});

test('a refused tool is not called, and nothing is offered where nothing may leave', { skip }, async () => {
  const { page, context } = await open({ language: 'en' });
  await choose(page);
  await ask(page, 'When does the ferry leave?');
  await waits(page).getByRole('button', { name: 'Refuse' }).click();
  await page.getByText('I could not look.').waitFor();
  assert.match(await page.locator('.turn.assistant li').innerText(), /was not allowed/);
  await page.locator('header button.shield').click();
  await page.getByRole('radio', { name: 'Nothing leaves', exact: true }).check();
  await page.keyboard.press('Escape');
  const sent = page.waitForRequest((request) => request.url().endsWith('/v1/chat/completions'));
  await ask(page, 'And now?');
  assert.equal((await sent).postDataJSON().heph.mcp, undefined);
  await context.close();
});
