// The page in Debian's chromium, before the real `heph serve` with the bundled model: what a person does with it, what it
// must never do, and that everyone can use it.
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { request as asked } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { cable } from './door.js';
import { ask, composer, served, skip } from './served.js';
import { sound } from './sound.js';

/** Nothing is fast on a machine that also builds: everything waited for comes, or fails, within this many milliseconds. */
const PATIENCE = 30_000;
const stage = served({ patience: PATIENCE, usual: { tokensMax: 160 } });
const { open } = stage;

const answers = (page) => page.locator('.turn.assistant');

/** Waits until the door has kept the page's chat so that `right` holds of it. */
async function kept(page, right) {
  const id = page.url().split('/').pop();
  for (const until = Date.now() + PATIENCE; ; ) {
    const chat = await (await stage.door.ask(`/heph/v1/chats/${id}`)).json();
    if (chat.body && right(chat.body)) return;
    assert.ok(Date.now() < until, `the chat was not kept: ${JSON.stringify(chat).slice(0, 2000)}`);
    await new Promise((resume) => setTimeout(resume, 100));
  }
}

async function keepChat(id, title, messages, others = []) {
  const body = JSON.stringify({ title, body: { version: 1, system: '', messages, others } });
  const answer = await stage.door.ask(`/heph/v1/chats/${id}`, { method: 'PUT', body, headers: { 'content-type': 'application/json' } });
  assert.ok(answer.ok, await answer.text());
}

const turn = (id, parent, role, content, at) => ({ id, parent, role, content, at, state: 'whole' });

test('the address with the token opens the page, and holds the token no longer', { skip }, async () => {
  const { page, context, errors } = await open({ at: `#token=${stage.door.token}`, token: null });
  await composer(page).waitFor();
  assert.ok(!page.url().includes(stage.door.token));
  await page.reload();
  await page.locator('aside').waitFor();
  assert.equal(await page.locator('.door').count(), 0);
  assert.deepEqual(errors, []);
  await context.close();
});

test('without the token the page asks for it, and a wrong one does not open', { skip }, async () => {
  const { page, context } = await open({ token: null });
  await page.locator('#token').fill('wrong');
  await page.locator('#token').press('Enter');
  await page.locator('#token').fill(stage.door.token);
  await page.locator('#token').press('Enter');
  await composer(page).waitFor();
  await context.close();
});

test('an answer streams, and its receipt is that of the door: nothing left', { skip }, async () => {
  const { page, context, asked, errors } = await open();
  const planned = page.waitForRequest((request) => request.url().endsWith('/heph/v1/plan'));
  await composer(page).fill('Tell me a story about a little fox.');
  assert.equal((await planned).postDataJSON().ahead, true, 'it is read while it is written');
  await page.locator('.plan button').waitFor();
  assert.match(await page.locator('.plan').innerText(), /This machine · nothing leaves/);
  await composer(page).press('Enter');
  await page.locator('.went .line').click();
  assert.match(await page.locator('.went').innerText(), /Stayed on this machine/);
  const id = await page.locator('.went .foot > span').first().innerText();
  const receipt = await (await stage.door.ask(`/heph/v1/receipts/${id}`)).json();
  assert.deepEqual(receipt.traffic, []);
  const shown = await page.locator('.went .card').innerText();
  assert.ok(shown.includes(`${receipt.prompt_tokens} read, ${receipt.answer_tokens} written`), shown);
  const text = await page.locator('.turn.assistant .text').innerText();
  assert.ok(text.length > 40, text);
  assert.deepEqual(asked.filter((url) => !url.startsWith(stage.door.address)), [], 'only this machine is asked');
  assert.deepEqual(errors, []);
  await context.close();
});

test('a plan that cannot be says why, and what to do', { skip }, async () => {
  const { page, context } = await open({ settings: { mode: 'remote' } });
  await composer(page).fill('Where is the fox?');
  await page.locator('.plan.refused', { hasText: 'No way meets these wishes' }).waitFor();
  assert.match(await page.locator('.plan').innerText(), /Choose another mode below/);
  await context.close();
});

test('an answer whose connection breaks goes on, with the same words', { skip }, async () => {
  const whole = await open();
  await ask(whole.page, 'Tell me about a queen and a honey cake.');
  const words = await answers(whole.page).locator('.text').innerText();
  await whole.context.close();
  const cut = await cable(stage.door.port, 2500, 2);
  const { page, context } = await open({ address: cut.address });
  await ask(page, 'Tell me about a queen and a honey cake.');
  assert.equal(cut.state.cut, 2, 'the cable was cut');
  assert.equal(await answers(page).locator('.text').innerText(), words);
  await context.close();
  cut.close();
});

test('stop keeps what has come, asks for no more, and another question can be asked', { skip }, async () => {
  const slow = await cable(stage.door.port, 6000, 0);
  const { page, context, asked } = await open({ address: slow.address });
  await composer(page).fill('Tell me a story about a little fox.');
  await composer(page).press('Enter');
  await page.locator('.turn.assistant .text p').waitFor();
  await page.getByRole('button', { name: 'Stop', exact: true }).click();
  await page.locator('.note', { hasText: 'Stopped by you.' }).waitFor();
  assert.ok(slow.state.held > 0, 'there was more to come');
  const text = await answers(page).locator('.text').innerText();
  assert.ok(text.length > 0);
  await kept(page, (body) => body.messages.at(-1).state === 'stopped');
  await page.reload();
  await page.locator('.note', { hasText: 'Stopped by you.' }).waitFor();
  assert.equal(await answers(page).locator('.text').innerText(), text);
  assert.equal(asked.filter((url) => url.endsWith('/v1/chat/completions')).length, 1);
  assert.ok(await composer(page).isEnabled());
  await context.close();
  slow.close();
});

test('a chat that the disk does not take is told, and kept once the disk takes it', { skip }, async () => {
  const { page, context } = await open();
  let full = true;
  await page.route('**/heph/v1/chats/*', (route) => {
    const body = JSON.stringify({ error: { message: 'the disk is full' } });
    return full && route.request().method() === 'PUT' ? route.fulfill({ status: 500, contentType: 'application/json', body }) : route.continue();
  });
  await ask(page, 'What is the capital of France?');
  await page.locator('.warn', { hasText: 'the disk is full' }).waitFor();
  full = false;
  await page.locator('.warn').waitFor({ state: 'detached' });
  await kept(page, (body) => body.messages.length === 2);
  await context.close();
});

test('a chat that cannot be deleted is still there, and it is said why', { skip }, async () => {
  const { page, context } = await open();
  await ask(page, 'What is the capital of France?');
  const body = JSON.stringify({ error: { message: 'the disk is full' } });
  await page.route('**/heph/v1/chats/*', (route) => (route.request().method() === 'DELETE' ? route.fulfill({ status: 500, contentType: 'application/json', body }) : route.continue()));
  const remove = async () => {
    await page.getByRole('button', { name: 'More about this chat' }).click();
    await page.getByRole('button', { name: 'Delete' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
  };
  await remove();
  await page.locator('.banner', { hasText: 'the disk is full' }).waitFor();
  await ask(page, 'What is the capital of Italy?');
  await kept(page, (body) => body.messages.length === 4 && body.messages.at(-1).state === 'whole');
  await page.unroute('**/heph/v1/chats/*');
  await remove();
  await page.locator('.turn').first().waitFor({ state: 'detached' });
  await context.close();
});

test('a chat that is deleted does not come back with what was on its way to the disk', { skip }, async () => {
  const { page, context } = await open();
  await ask(page, 'What is the capital of France?');
  await kept(page, (body) => body.messages.at(-1).state === 'whole');
  const id = page.url().split('/').pop();
  let late = 0;
  await page.route('**/heph/v1/chats/*', async (route) => {
    if (route.request().method() === 'PUT') {
      await new Promise((resume) => setTimeout(resume, 1000));
      late += 1;
    }
    await route.continue().catch(() => undefined);
  });
  const menu = page.getByRole('button', { name: 'More about this chat' });
  await menu.click();
  await page.getByRole('button', { name: 'Rename' }).click();
  await page.getByLabel('Name of the chat').fill('Another');
  await page.getByRole('button', { name: 'Save', exact: true }).click();
  await menu.click();
  await page.getByRole('button', { name: 'Delete' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
  await page.locator('.turn').first().waitFor({ state: 'detached' });
  for (const until = Date.now() + PATIENCE; late === 0; ) {
    assert.ok(Date.now() < until, 'the name was on its way when the chat was deleted');
    await new Promise((resume) => setTimeout(resume, 100));
  }
  // What arrives at the door is on its disk by then.
  await new Promise((resume) => setTimeout(resume, 500));
  assert.equal((await stage.door.ask(`/heph/v1/chats/${id}`)).status, 404);
  await context.close();
});

test('editing and retrying branch, lose nothing, and are there after a reload', { skip }, async () => {
  const { page, context } = await open({ settings: { seed: null } });
  await ask(page, 'What is the capital of France?');
  await page.getByRole('button', { name: 'Edit' }).click();
  await page.getByLabel('Your question, in other words').fill('What is the capital of Italy?');
  await page.getByRole('button', { name: 'Ask anew' }).click();
  await page.getByText('2 of 2').waitFor();
  await page.locator('.went').waitFor();
  await page.getByRole('button', { name: 'Another answer', exact: true }).click();
  await page.locator('.turn.assistant').getByText('2 of 2').waitFor();
  await page.locator('.went').waitFor();
  await page.locator('.turn.user').getByRole('button', { name: 'Branch before' }).click();
  await page.locator('.turn.user').getByText('What is the capital of France?').waitFor();
  await kept(page, (body) => body.messages[0].content.includes('France') && body.others.length === 3);
  await page.reload();
  await page.locator('.turn.user').getByText('What is the capital of France?').waitFor();
  await page.locator('.turn.user').getByRole('button', { name: 'Next branch' }).click();
  await page.locator('.turn.user').getByText('What is the capital of Italy?').waitFor();
  await page.locator('.turn.assistant').getByText('2 of 2').waitFor();
  await context.close();
});

test('answers stand beside each other, and the page says whether they are the same words', { skip }, async () => {
  const { page, context } = await open();
  await ask(page, 'What is the capital of France?');
  await page.getByRole('button', { name: 'Another answer', exact: true }).click();
  await page.locator('.turn.assistant').getByText('2 of 2').waitFor();
  await page.locator('.went').waitFor();
  await page.getByRole('button', { name: 'Side by side' }).click();
  await page.getByText('The same words, letter for letter.').waitFor();
  assert.equal(await page.locator('.beside li').count(), 2);
  await sound(page, 'side by side');
  await page.getByRole('button', { name: 'Go on from this one' }).first().click();
  await page.locator('.turn.assistant').getByText('1 of 2').waitFor();
  await context.close();
});

test('a folder is asked about, its citation opens where it stands, and nothing of it leaves', { skip }, async () => {
  const folder = await mkdtemp(join(tmpdir(), 'heph-folder-'));
  await writeFile(join(folder, 'boats.txt'), 'Notes of the harbour.\n\nThe ferry to Elba leaves at 7:40 from pier four.\n');
  const { page, context } = await open({ settings: { tokensMax: 8 }, at: '#/folders' });
  await page.getByLabel('Path of a folder').fill(folder);
  await page.getByRole('button', { name: 'Add it' }).click();
  await page.getByRole('heading', { name: 'heph-folder-' }).waitFor();
  await sound(page, 'folders');
  // What of it may leave can be said anew, and back.
  const label = page.getByLabel(/^What of it may leave this machine: heph-folder-/);
  for (const wanted of ['own', 'nothing']) {
    await label.selectOption(wanted);
    const told = async () => (await (await stage.door.ask('/heph/v1/knowledge')).json()).shelves[0].label;
    for (const until = Date.now() + PATIENCE; (await told()) !== wanted; ) assert.ok(Date.now() < until, wanted);
  }
  await page.evaluate(() => (location.hash = '#/chat'));
  const sent = page.waitForRequest((request) => request.url().endsWith('/v1/chat/completions'));
  await ask(page, 'When does the ferry to Elba leave?');
  const { messages, heph } = (await sent).postDataJSON();
  assert.match(messages.at(-1).content, /^Excerpts[^]*leaves at 7:40[^]*When does the ferry to Elba leave\?$/);
  assert.equal(heph.privacy, 'nothing');
  await page.locator('.cited > summary').click();
  await page.locator('.cited details summary').first().click();
  await page.locator('.cited mark', { hasText: '7:40' }).waitFor();
  await sound(page, 'citations');
  await page.evaluate(() => (location.hash = '#/folders'));
  await page.getByRole('button', { name: /^Forget/ }).click();
  await page.getByText('No folder yet.').waitFor();
  await rm(folder, { recursive: true });
  await context.close();
});

/** Asks the door as a page of `origin` would. */
function from(origin, method, path, { token, body } = {}) {
  const headers = { origin, 'content-type': 'application/json', ...(token ? { authorization: `Bearer ${token}` } : {}) };
  return new Promise((give, fail) => {
    const sent = asked(stage.door.address + path, { method, headers }, async (response) => {
      let text = '';
      for await (const piece of response.setEncoding('utf8')) text += piece;
      give({ status: response.statusCode, json: () => JSON.parse(text) });
    });
    sent.on('error', fail);
    sent.end(body && JSON.stringify(body));
  });
}

test('a page of another origin comes in when the person says so, and is out when they say so', { skip }, async () => {
  const origin = 'https://reader.example';
  const { page, context } = await open();
  const { id, code, secret } = (await from(origin, 'POST', '/heph/v1/pairing', { body: { name: 'Reader' } })).json();
  await page.getByText('“Reader” asks to come in').waitFor();
  await page.getByRole('link', { name: 'Look at it' }).click();
  await page.getByText(`${code.slice(0, 3)} ${code.slice(3)}`).waitFor();
  await sound(page, 'a page asks');
  assert.equal((await from(origin, 'GET', '/v1/models', { token: secret })).status, 403);
  await page.getByRole('button', { name: 'It does: let it in' }).click();
  await page.getByRole('button', { name: 'It does: let it in' }).waitFor({ state: 'detached' });
  const { token } = (await from(origin, 'GET', `/heph/v1/pairing/${id}`, { token: secret })).json();
  assert.equal((await from(origin, 'GET', '/v1/models', { token })).status, 200);
  await page.getByRole('button', { name: 'Send away: Reader' }).click();
  await page.getByText('None was let in.').waitFor();
  assert.equal((await from(origin, 'GET', '/v1/models', { token })).status, 401);
  await context.close();
});

test('text files go with a question, and what is no text does not', { skip }, async () => {
  const { page, context } = await open({ settings: { tokensMax: 8 } });
  await page.locator('.composer input[type=file]').setInputFiles([
    { name: 'note.txt', mimeType: 'text/plain', buffer: Buffer.from('The fox is called Maya.') },
    { name: 'photo.png', mimeType: 'image/png', buffer: Buffer.from([0x89, 0x50, 0, 0xff]) },
  ]);
  await page.getByText('photo.png is not text').waitFor();
  const sent = page.waitForRequest((request) => request.url().endsWith('/v1/chat/completions'));
  await ask(page, 'Who is the fox?');
  const { messages } = (await sent).postDataJSON();
  assert.equal(messages.at(-1).content, 'note.txt\n```\nThe fox is called Maya.\n```\n\nWho is the fox?');
  await context.close();
});

test('chats are found, renamed, saved and deleted', { skip }, async () => {
  await keepChat('found-1', 'Weather', [turn('q', null, 'user', 'Is there any heliotrope rain?', 1), turn('a', 'q', 'assistant', 'Never.', 2)]);
  const { page, context } = await open();
  await page.getByLabel('Search chats').fill('heliotrope');
  await page.locator('.history mark', { hasText: 'heliotrope' }).waitFor();
  await page.locator('.history a').click();
  await page.locator('.turn.assistant', { hasText: 'Never.' }).waitFor();
  await page.getByRole('button', { name: 'More about this chat' }).click();
  await page.getByRole('button', { name: 'Rename' }).click();
  await page.getByLabel('Name of the chat').fill('Rain of colours');
  await page.getByRole('button', { name: 'Save', exact: true }).click();
  await page.locator('.history a', { hasText: 'Rain of colours' }).waitFor();
  const download = page.waitForEvent('download');
  await page.getByRole('button', { name: 'More about this chat' }).click();
  await page.getByRole('button', { name: 'Save as text' }).click();
  const text = await readFile(await (await download).path(), 'utf8');
  assert.match(text, /heliotrope rain[\s\S]*Never\./);
  await page.getByRole('button', { name: 'More about this chat' }).click();
  await page.getByRole('button', { name: 'Delete' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
  await page.getByText('No chat has these words.').waitFor();
  await page.getByRole('button', { name: 'Show all chats' }).click();
  assert.equal(await page.getByLabel('Search chats').inputValue(), '');
  assert.equal((await stage.door.ask('/heph/v1/chats/found-1')).status, 404);
  await context.close();
});

test('nothing in an answer acts, loads or leaves', { skip }, async () => {
  const bad = [
    '![x](http://127.0.0.1:9/a.png?said=secret) <img src="http://127.0.0.1:9/b.png" onerror="window.bad=1">',
    '<script>window.bad=1</script> <iframe src="http://127.0.0.1:9/c"></iframe> <style>*{background:url(http://127.0.0.1:9/d)}</style>',
    '[press](javascript:window.bad=1) [data](data:text/html,<script>window.bad=1</script>) <a href="http://127.0.0.1:9/e" ping="http://127.0.0.1:9/f">g</a>',
    '```html" onload="window.bad=1\n<img src=http://127.0.0.1:9/h onerror=window.bad=1>\n```',
    '```html\n<img src=http://127.0.0.1:9/i onerror=window.bad=1>\n```',
    'Formulas: $\\href{http://127.0.0.1:9/j}{x}$ \\(\\includegraphics{http://127.0.0.1:9/k.png}\\) $\\text{<img src=x onerror=window.bad=1>}$',
    '$$\n\\sqrt{a^2 + b^2}\n$$',
  ].join('\n\n');
  await keepChat('bad-1', 'Bad', [turn('q', null, 'user', bad, 1), turn('a', 'q', 'assistant', bad, 2)]);
  const { page, context, asked } = await open({ at: '#/chat/bad-1' });
  await page.locator('.turn.assistant figure pre').last().waitFor();
  await page.locator('.hljs-tag').first().waitFor();
  await page.locator('.turn.assistant math[display=block] msqrt').waitFor();
  assert.equal(await page.locator('.turn math :is(a, [href], [src], [style])').count(), 0);
  assert.equal(await page.locator('.turn :is(img, script, iframe, style, form, object)').count(), 0);
  const links = await page.locator('.turn a[href]').evaluateAll((all) => all.map((a) => [a.protocol, a.rel, a.hasAttribute('ping')]));
  assert.ok(links.length > 0);
  for (const [protocol, rel, ping] of links) {
    assert.match(protocol, /^https?:$/);
    assert.match(rel, /noopener noreferrer/);
    assert.equal(ping, false);
  }
  assert.equal(await page.evaluate(() => window.bad), undefined);
  assert.deepEqual(asked.filter((url) => !url.startsWith(stage.door.address)), []);
  await context.close();
});

test('a chat of 10,000 messages opens at its end and keeps few of them in the page', { skip }, async (t) => {
  const messages = [];
  for (let i = 0; i < 10_000; i += 1) {
    messages.push(turn(`t${i}`, i === 0 ? null : `t${i - 1}`, i % 2 ? 'assistant' : 'user', `Turn ${i}. ${'Words of it. '.repeat(i % 23)}`, i + 1));
  }
  await keepChat('long-1', 'Long', messages);
  const { page, context } = await open({ at: '#/chat/long-1' });
  await page.getByText('Turn 9999.').waitFor();
  const rows = await page.locator('.row[role=article]').count();
  assert.ok(rows < 60, `${rows} rows are in the page`);
  const feed = page.locator('[role=feed]');
  // Through the middle and back: no hole, wherever one looks.
  for (const share of [0.75, 0.5, 0.25]) {
    await feed.evaluate((frame, share) => frame.scrollTo(0, frame.scrollHeight * share), share);
    await page.waitForFunction(() => {
      const frame = document.querySelector('[role=feed]').getBoundingClientRect();
      const rows = [...document.querySelectorAll('.row[role=article]')].map((row) => row.getBoundingClientRect());
      return rows.some((row) => row.top <= frame.top + 1) && rows.some((row) => row.bottom >= frame.bottom - 1);
    });
  }
  await feed.evaluate((frame) => frame.scrollTo(0, 0));
  await page.getByText('Turn 0.', { exact: true }).waitFor();
  await feed.focus();
  await page.keyboard.press('Alt+ArrowDown');
  await page.waitForFunction(() => document.activeElement?.getAttribute('aria-posinset') === '2');
  await page.getByRole('button', { name: 'To the newest' }).click();
  await page.getByText('Turn 9999.').waitFor();
  const times = await page.evaluate(async () => {
    const field = document.querySelector('.composer textarea');
    const times = [];
    for (let i = 0; i < 60; i += 1) {
      const began = performance.now();
      field.value += 'x';
      field.dispatchEvent(new InputEvent('input', { bubbles: true }));
      await Promise.resolve();
      field.getBoundingClientRect();
      times.push(performance.now() - began);
      await new Promise((resume) => setTimeout(resume));
    }
    return times.sort((a, b) => a - b);
  });
  t.diagnostic(`a key in a chat of 10,000 messages: median ${times[30].toFixed(1)} ms, 95th of 100 ${times[57].toFixed(1)} ms`);
  await context.close();
});

test('a question can be asked, and everything reached, by keyboard alone', { skip }, async () => {
  const { page, context } = await open();
  await composer(page).waitFor();
  await page.keyboard.press('Tab');
  assert.equal(await page.evaluate(() => document.activeElement?.textContent), 'Skip to the conversation');
  await page.keyboard.press('Enter');
  assert.equal(await page.evaluate(() => document.activeElement?.id), 'main');
  await page.keyboard.press('/');
  await page.keyboard.type('What is the capital of France?');
  await page.keyboard.press('Enter');
  await page.locator('.went').waitFor();
  await page.keyboard.press('Control+k');
  await page.waitForFunction(() => document.activeElement?.id === 'search');
  await page.keyboard.press('Control+Shift+O');
  await page.getByRole('heading', { name: 'What would you like to know?' }).waitFor();
  await page.locator('header button.shield').focus();
  await page.keyboard.press('Enter');
  await page.keyboard.press('Tab');
  assert.equal(await page.evaluate(() => document.activeElement?.getAttribute('role')), 'switch');
  // The presets of the policy, and then what this page asks for.
  await page.keyboard.press('Tab');
  await page.keyboard.press('Tab');
  await page.keyboard.press('ArrowUp');
  await page.waitForFunction(() => JSON.parse(localStorage.getItem('heph.settings')).privacy === 'own');
  await page.keyboard.press('Escape');
  await page.waitForFunction(() => document.activeElement?.classList.contains('shield'));
  await context.close();
});

test('the shield says what may leave, and the door is told', { skip }, async () => {
  const { page, context } = await open({ settings: { mode: 'auto', privacy: 'nothing', tokensMax: 8 } });
  await page.getByRole('button', { name: 'What may leave this machine: Nothing leaves' }).waitFor();
  const sent = page.waitForRequest((request) => request.url().endsWith('/v1/chat/completions'));
  await ask(page, 'Hello?');
  assert.equal((await sent).postDataJSON().heph.privacy, 'nothing');
  await context.close();
});

test('the network log says that nothing left, and what did as soon as it does', { skip }, async () => {
  const { page, context } = await open();
  await page.locator('header button.shield').click();
  await page.getByRole('link', { name: 'See what left this machine' }).click();
  await page.getByText('Nothing left this machine.').waitFor();
  const line = (to, up) => JSON.stringify({ at: Math.floor(Date.now() / 1000), kind: 'peer', to, who: 'laptop', purpose: 'session', labels: ['private'], counted: 'on-the-wire', up, down: 7 });
  const log = join(stage.door.home, 'egress.jsonl');
  // What goes to another program of this machine does not leave it.
  await writeFile(log, `${line('127.0.0.1:7842', 5)}\n`);
  await page.getByText('on this machine').waitFor();
  await page.getByText('Nothing left this machine.').waitFor();
  await writeFile(log, `${line('127.0.0.1:7842', 5)}\n${line('192.0.2.7:7842', 1234)}\n`);
  await page.getByText('1.23 kB left this machine').waitFor();
  const row = page.getByRole('row', { name: /192\.0\.2\.7:7842/ });
  assert.match(await row.innerText(), /laptop[\s\S]*answers[\s\S]*private[\s\S]*1\.23\skB/);
  await page.getByLabel('the last hour').check();
  await row.waitFor();
  await rm(log);
  await context.close();
});

/** Other looks and languages, before the scripted door: `references.test.js`. */
const LOOKS = [
  ['light', { theme: 'light' }, 1200],
  ['right to left, narrow', { theme: 'light', language: 'ar' }, 360],
];

for (const [look, settings, width] of LOOKS) {
  test(`every page can be used by everyone: ${look}`, { skip }, async () => {
    const { page, context, errors } = await open({ settings: { ...settings, tokensMax: 12 }, width });
    await composer(page).waitFor();
    await page.waitForFunction((tag) => document.documentElement.lang.startsWith(tag), settings.language ?? 'en');
    assert.equal(await page.evaluate(() => document.documentElement.dir), settings.language === 'ar' ? 'rtl' : 'ltr');
    await sound(page, `${look}: hello`);
    await composer(page).fill('Where is the fox?');
    await page.locator('.plan button').click();
    await page.locator('.plan .card').waitFor();
    await sound(page, `${look}: plan`);
    await composer(page).press('Enter');
    await page.locator('.went .line').click();
    await page.locator('.went .card').waitFor();
    await sound(page, `${look}: receipt`);
    await page.locator('header button.shield').click();
    await sound(page, `${look}: shield`);
    for (const name of ['folders', 'nodes', 'models', 'egress', 'settings']) {
      await page.evaluate((name) => (location.hash = `#/${name}`), name);
      await page.locator(`h1#${name}`).waitFor();
      await sound(page, `${look}: ${name}`);
    }
    assert.deepEqual(errors, []);
    await context.close();
  });
}
