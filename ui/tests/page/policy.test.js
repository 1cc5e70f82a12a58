// What may leave, as a person changes it on the page, before the real `heph serve`: presets, the switch that cuts everything
// off, labels; and what can be done with models and receipts.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { program, serve } from './door.js';
import { ask, served, skip } from './served.js';
import { sound } from './sound.js';

/** A machine that also builds is slow. */
const PATIENCE = 60_000;
const stage = served({ patience: PATIENCE, usual: { tokensMax: 24 } });
const { open } = stage;

const shield = (page) => page.locator('header button.shield');
const stands = async () => (await stage.door.ask('/heph/v1/policy')).json();
const put = (change) => stage.door.ask('/heph/v1/policy', { method: 'PUT', body: JSON.stringify(change), headers: { 'content-type': 'application/json' } });

/** Waits until `right` holds. */
async function comes(right) {
  for (const until = Date.now() + PATIENCE; !(await right()); ) {
    assert.ok(Date.now() < until, 'it does not come about');
    await new Promise((resume) => setTimeout(resume, 50));
  }
}

test('a person who never asked sees what the machine is, and has an answer after one press', { skip }, async () => {
  const { page, context } = await open();
  await page.getByRole('heading', { name: 'This machine is ready' }).waitFor();
  await page.getByText(/GB of memory free/).waitFor();
  const told = await page.locator('section[aria-labelledby=welcome]').innerText();
  const { cores } = await (await stage.door.ask('/heph/v1/hardware')).json();
  assert.match(told, /heph-story answers at once \([\d.]+ MB\)\. It is part of HEPH: no account, nothing to download\./);
  assert.match(told, new RegExp(`${cores} cores?, [\\d.]+ GB of memory free`));
  await sound(page, 'welcome');
  await page.getByRole('button', { name: 'Tell me a story about a little fox.' }).click();
  await page.locator('.went').waitFor();
  assert.equal(await page.getByRole('heading', { name: 'This machine is ready' }).count(), 0);
  await context.close();
});

test('one switch cuts everything off, for all programs of this machine, and gives it back', { skip }, async () => {
  const { page, context } = await open();
  await page.getByRole('button', { name: 'What may leave this machine: Own machines only' }).click();
  const cut = page.getByRole('switch', { name: 'Cut everything off' });
  assert.equal(await cut.getAttribute('aria-checked'), 'false');
  await cut.press('Space');
  await page.getByRole('button', { name: 'What may leave this machine: Cut off' }).waitFor();
  assert.equal(await cut.getAttribute('aria-checked'), 'true');
  await sound(page, 'cut off');
  assert.equal((await stands()).cut, true);
  assert.ok(existsSync(join(stage.door.home, 'cut-off')));
  const explained = spawnSync(program, ['policy', 'explain', '--to', 'own'], { env: { ...process.env, HEPH_HOME: stage.door.home }, encoding: 'utf8' });
  assert.match(explained.stdout + explained.stderr, /cut off/);
  await page.keyboard.press('Escape');
  await ask(page, 'What is the capital of France?');
  assert.match(await page.locator('.went').innerText(), /Stayed on this machine/);
  await page.evaluate(() => (location.hash = '#/models'));
  await page.locator('h1#models').waitFor();
  assert.ok(await page.getByRole('button', { name: 'See what it offers' }).isDisabled());
  // Another program ends it, and the page shows that.
  await put({ cut: false });
  await page.getByRole('button', { name: 'What may leave this machine: Own machines only' }).waitFor();
  assert.ok(!existsSync(join(stage.door.home, 'cut-off')));
  await context.close();
});

test('the preset of the policy is chosen; what lets more out is asked for again', { skip }, async () => {
  const { page, context } = await open();
  await shield(page).click();
  await page.getByRole('radio', { name: /^Nothing leaves Every word/ }).check();
  await page.getByRole('button', { name: 'What may leave this machine: Nothing leaves' }).waitFor();
  assert.equal((await stands()).preset, 'local-only');
  await page.getByRole('radio', { name: /^Others, without names/ }).click();
  const dialog = page.getByRole('dialog');
  await dialog.waitFor();
  await sound(page, 'more may leave');
  await dialog.getByRole('button', { name: 'Cancel' }).click();
  assert.equal((await stands()).preset, 'local-only');
  await shield(page).click();
  assert.ok(await page.getByRole('radio', { name: /^Nothing leaves Every word/ }).isChecked());
  await page.getByRole('radio', { name: /^Others, without names/ }).click();
  await dialog.getByRole('button', { name: 'Let it leave' }).click();
  await page.getByRole('button', { name: 'What may leave this machine: Others, without names' }).waitFor();
  assert.deepEqual([(await stands()).preset, await readFile(join(stage.door.home, 'policy.toml'), 'utf8')], ['redact-then-remote', 'version = 1\npreset = "redact-then-remote"\n']);
  // A policy that cannot be read is told, and lets nothing leave.
  await writeFile(join(stage.door.home, 'policy.toml'), 'version = 9\n');
  await page.getByRole('button', { name: 'What may leave this machine: Nothing leaves' }).click();
  await page.getByText('The policy cannot be read.').waitFor();
  assert.ok(await page.getByRole('radio', { name: /^Everything may leave/ }).isDisabled());
  await sound(page, 'a policy that cannot be read');
  await writeFile(join(stage.door.home, 'policy.toml'), 'version = 1\npreset = "redact-then-remote"\n');
  await page.getByRole('button', { name: 'What may leave this machine: Others, without names' }).waitFor();
  await page.keyboard.press('Escape');
  // What the page asks for holds beside it.
  await shield(page).click();
  await page.getByRole('radio', { name: 'Own machines only', exact: true }).check();
  await page.getByRole('button', { name: 'What may leave this machine: Own machines only' }).waitFor();
  await context.close();
});

test('a chat has a privacy label, which goes with its plan and its questions, and is there after a reload', { skip }, async () => {
  const { page, context } = await open();
  await page.getByText('More for this chat').click();
  await page.getByLabel('Level').selectOption('secret');
  await page.getByLabel('Words that rules know').fill('salaries, health');
  await page.getByLabel('Words that rules know').press('Tab');
  const planned = page.waitForRequest((request) => request.url().endsWith('/heph/v1/plan'));
  const sent = page.waitForRequest((request) => request.url().endsWith('/v1/chat/completions'));
  await page.locator('.composer textarea').fill('Hello?');
  assert.deepEqual((await planned).postDataJSON().labels, ['secret', 'salaries', 'health']);
  await page.locator('.composer textarea').press('Enter');
  assert.deepEqual((await sent).postDataJSON().heph.labels, ['secret', 'salaries', 'health']);
  await page.locator('.went').waitFor();
  await page.getByRole('button', { name: 'How private this chat is: secret, salaries, health' }).waitFor();
  const id = page.url().split('/').pop();
  await comes(async () => (await (await stage.door.ask(`/heph/v1/chats/${id}`)).json()).body?.messages.at(-1)?.state === 'whole');
  await page.reload();
  await page.getByRole('button', { name: 'How private this chat is: secret, salaries, health' }).click();
  await sound(page, 'a label');
  await page.getByLabel('Level').selectOption('');
  await page.getByRole('button', { name: 'How private this chat is: salaries, health' }).waitFor();
  await comes(async () => (await (await stage.door.ask(`/heph/v1/chats/${id}`)).json()).body?.label.level === null);
  await context.close();
});

test('a receipt is saved as the machine signed it, and can be verified', { skip }, async () => {
  const { page, context } = await open();
  await ask(page, 'What is the capital of France?');
  await page.locator('.went .line').click();
  const download = page.waitForEvent('download');
  await page.getByRole('button', { name: 'Save it signed' }).click();
  const verified = spawnSync(program, ['receipt', 'verify', await (await download).path()], { encoding: 'utf8' });
  assert.equal(verified.status, 0, verified.stdout + verified.stderr);
  await context.close();
});

test('a model is written in another format, certified, and asked', { skip }, async () => {
  const { page, context } = await open({ at: '#/models' });
  const card = page.locator('li.card').filter({ has: page.getByRole('heading', { name: 'heph-story', exact: true }) });
  await card.getByRole('button', { name: 'Certify' }).click();
  await card.getByText(/The same bits in all \d+ ways\./).waitFor();
  await card.getByText('Write it in another format').click();
  await card.locator('form select').selectOption('q4_0');
  await sound(page, 'formats');
  await card.getByRole('button', { name: 'Write it', exact: true }).click();
  await card.getByText(/heph-story-q4_0 is here/).waitFor();
  const made = page.locator('li.card').filter({ has: page.getByRole('heading', { name: 'heph-story-q4_0' }) });
  await made.getByRole('button', { name: 'Ask this one' }).click();
  await page.getByText('What would you like to know?').waitFor();
  await page.locator('.composer textarea').fill('What is the capital of France?');
  await page.getByText('heph-story-q4_0 answers on this machine alone').first().waitFor();
  await page.locator('.composer textarea').press('Enter');
  await page.locator('.went').waitFor();
  assert.match(await page.locator('.turn.assistant h3').innerText(), /heph-story-q4_0/);
  assert.match(await shield(page).innerText(), /Nothing leaves/);
  await page.evaluate(() => (location.hash = '#/models'));
  await made.getByRole('button', { name: /^Delete/ }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
  await made.waitFor({ state: 'detached' });
  // The model that is gone is asked no longer.
  await page.evaluate(() => (location.hash = '#/chat'));
  await page.getByRole('button', { name: 'Model: heph-story', exact: true }).waitFor();
  await rm(join(stage.door.home, 'models'), { recursive: true, force: true });
  await context.close();
});

test('a provider that was allowed can be asked, which the shield and the receipt say, and cutting off ends it', { skip }, async () => {
  const fresh = await serve();
  const heard = [];
  const provider = createServer(async (request, response) => {
    let body = '';
    for await (const piece of request) body += piece;
    heard.push(JSON.parse(body || '{}'));
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    for (const content of ['From ', 'far.']) response.write(`data: ${JSON.stringify({ choices: [{ index: 0, delta: { content } }] })}\n\n`);
    response.write(`data: ${JSON.stringify({ choices: [{ index: 0, delta: {}, finish_reason: 'stop' }], usage: { prompt_tokens: 5, completion_tokens: 2 } })}\n\n`);
    response.end('data: [DONE]\n\n');
  });
  await new Promise((ready) => provider.listen(0, '127.0.0.1', ready));
  const words = ['providers', 'add', 'far', '--dialect', 'openai', '--url', `http://127.0.0.1:${provider.address().port}/v1`, '--model', 'big', '--allow', '--region', 'eu', '--retention', 'nothing'];
  const added = spawnSync(program, words, { env: { ...process.env, HEPH_HOME: fresh.home, HEPH_KEYS: 'file' }, encoding: 'utf8' });
  assert.equal(added.status, 0, added.stderr);
  const before = stage.door;
  stage.door = fresh;
  const { page, context } = await open();
  try {
    await page.getByRole('button', { name: 'What may leave this machine: By your rules' }).waitFor();
    await page.getByRole('button', { name: /^Model: / }).click();
    await page.getByRole('radio', { name: /^far\/big/ }).check();
    await page.keyboard.press('Escape');
    await page.getByText('Your words would go to the provider far.').first().waitFor();
    await sound(page, 'a provider');
    await ask(page, 'Where are you?');
    await page.locator('.text', { hasText: 'From far.' }).waitFor();
    assert.equal(heard.at(-1).messages.at(-1).content, 'Where are you?');
    await page.locator('.went .line').click();
    assert.match(await page.locator('.went').innerText(), /sent to far[\s\S]*saw the words[\s\S]*Region\s*eu/);
    await sound(page, 'a receipt of a provider');
    const count = heard.length;
    await page.locator('header button.shield').click();
    await page.getByRole('switch', { name: 'Cut everything off' }).press('Space');
    await page.getByRole('button', { name: 'What may leave this machine: Cut off' }).waitFor();
    await page.keyboard.press('Escape');
    await page.locator('.composer textarea').fill('And now?');
    await page.locator('.composer textarea').press('Enter');
    await page.locator('.note.bad').waitFor();
    assert.match(await page.locator('.note.bad').innerText(), /cut off/);
    assert.equal(heard.length, count, 'nobody was asked');
  } finally {
    stage.door = before;
    await context.close();
    provider.close();
    provider.closeAllConnections();
    await fresh.end();
  }
});

test('a report is shown before it is saved, and holds nothing that was asked or answered', { skip }, async () => {
  const { page, context } = await open();
  await ask(page, 'Tell me about a heliotrope.');
  const answer = await page.locator('.turn.assistant .text').innerText();
  await page.evaluate(() => (location.hash = '#/settings'));
  await page.getByRole('button', { name: 'Make a report' }).click();
  const text = await page.locator('pre[aria-label="A report to share"]').innerText();
  const told = JSON.parse(text);
  assert.ok(told.machine.requests.answered >= 1 && told.models.length >= 2 && Object.keys(told.counts).length > 5, text);
  assert.ok(!text.includes('heliotrope') && !text.includes(answer.slice(0, 20)) && !text.includes(stage.door.home) && !text.includes(stage.door.token), text);
  await sound(page, 'a report');
  await context.close();
});
