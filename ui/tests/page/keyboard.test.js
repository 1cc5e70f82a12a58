// Thirty things that a person does, with the keys of a keyboard and nothing else: each is reached by Tab, pressed by Enter, Space or
// an arrow, and what comes of it is seen. Before the scripted door, which has other machines and a hub.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { opened } from '../walk.js';
import { skip, staged } from './stage.js';

/** Nothing on a page is farther away than this many presses of Tab. */
const TABS_MAX = 150;

const stage = staged({ pace: 4 });

/** What has the focus: its kind and what it is called. Runs in the page. */
function focused() {
  const at = document.activeElement;
  if (!at || at === document.body) return ['', ''];
  const name = at.getAttribute('aria-label') ?? (at.labels?.length ? [...at.labels].map((label) => label.textContent).join(' ') : null) ?? at.textContent ?? '';
  const role = at.getAttribute('role') ?? (at.tagName === 'INPUT' ? at.type : at.tagName.toLowerCase());
  const box = at.getBoundingClientRect();
  // What has the focus must be seen to have it.
  const seen = box.width > 0 && box.height > 0 && at.checkVisibility({ visibilityProperty: true });
  return [`${role}${seen ? '' : ' (unseen)'}`, name.replace(/\s+/g, ' ').trim()];
}

test('thirty things are done by keyboard alone', { skip }, async (t) => {
  const wrong = [];
  const { page, context } = await opened(stage.chromium, { theme: 'light', language: 'en', enterSends: true }, {}, (what) => wrong.push(what));
  await page.goto(stage.address());
  await page.locator('.composer textarea').waitFor();
  const key = (name) => page.keyboard.press(name);
  const done = [];

  /** Goes on by Tab until what has the focus is a `role` that is called like `name`. */
  async function to(role, name) {
    const passed = [];
    for (let i = 0; i < TABS_MAX; i += 1) {
      const [kind, called] = await page.evaluate(focused);
      if (kind === role && name.test(called)) return;
      passed.push(`${kind} ${called.slice(0, 30)}`);
      await key('Tab');
    }
    assert.fail(`no ${role} ${name} in ${TABS_MAX} steps; passed ${[...new Set(passed)].join(' | ')}`);
  }
  async function press(role, name, by = 'Enter') {
    await to(role, name);
    await key(by);
  }
  async function does(what, work, seen) {
    await work();
    await seen?.waitFor?.();
    done.push(what);
  }
  const text = (words) => page.getByText(words).first();
  const answered = (n) => page.locator(`.row[aria-posinset='${n}'] .went`);
  const page_ = (name) => press('a', new RegExp(`^${name}$`));

  await does('skip to the conversation', () => press('a', /^Skip/), page.locator('main:focus'));
  await does('ask a question', async () => {
    await key('/');
    await page.keyboard.type('Tell me a story about a fox.');
    await key('Enter');
  }, answered(2));
  await does('see what would happen', async () => {
    await page.keyboard.type('How is a model shared?');
    await page.locator('.plan button').waitFor();
    await page.locator('.composer textarea').focus();
    await page.keyboard.press('Shift+Tab');
    await key('Enter');
  }, page.locator('.plan .card'));
  await does('ask it', async () => {
    await key('/');
    await key('Enter');
  }, answered(4));
  await does('see where an answer went', () => press('button', /sent to|Stayed/), page.locator('.went .card').first());
  const saved = page.waitForEvent('download');
  await does('save its receipt', async () => {
    await press('button', /^Save the receipt/);
    await saved;
  });
  await does('copy an answer', () => press('button', /^Copy$/), text('Copied'));
  await does('have another answer', () => press('button', /^Another answer$/), page.getByText('2 of 2').last());
  await does('see both beside each other', () => press('button', /^Side by side/), page.locator('.beside li').nth(1));
  await does('go on from one', () => press('button', /^Go on from this one/), page.getByText(/[12] of 2/).last());
  await does('turn to the other branch', async () => {
    const was = await page.locator('.count').last().innerText();
    await press('button', was.startsWith('1') ? /^Next branch/ : /^Branch before/);
    await page.locator('.count', { hasText: was.startsWith('1') ? '2 of 2' : '1 of 2' }).waitFor();
  });
  await does('write a question anew', async () => {
    await press('button', /^Edit$/);
    await page.locator('.edit textarea:focus').waitFor();
    await key('Control+a');
    await page.keyboard.type('Tell me about another fox.');
    await key('Control+Enter');
  }, page.locator('.bubble', { hasText: 'another fox' }));
  await page.locator('.composer button[type=submit]').waitFor();
  await does('say how private the chat is', async () => {
    await press('button', /^How private this chat is/);
    await to('select', /Level/);
    await page.keyboard.type('secret');
  }, page.getByRole('button', { name: 'How private this chat is: secret' }));
  await does('close a sheet', () => key('Escape'));
  assert.equal(await page.locator('.sheet').count(), 0);
  await does('tell the model something first', async () => {
    await press('button', /^What the model is told first/);
    await to('textarea', /What the model is told first/);
    await page.keyboard.type('Be brief.');
    await key('Escape');
  });
  await does('name the chat', async () => {
    await press('button', /^More about this chat/);
    await press('button', /^Rename/);
    await to('text', /^Name of the chat/);
    await key('Control+a');
    await page.keyboard.type('Foxes');
    await key('Enter');
  }, page.locator('.top h1', { hasText: 'Foxes' }));
  await does('search the chats', async () => {
    await page.locator('dialog').waitFor({ state: 'detached' });
    await key('Control+k');
    await page.locator('#search:focus').waitFor();
    await page.keyboard.type('fox');
  }, page.locator('.history mark').first());
  await does('open what was found', () => press('a', /Foxes/), page.locator('.history a[aria-current]'));
  await does('begin a new chat', () => key('Control+Shift+O'), page.getByRole('heading', { name: 'What would you like to know?' }));
  await does('choose another mode', async () => {
    await press('button', /^Where it is computed/);
    await to('radio', /^Layers shared/);
    await key('ArrowUp');
    await key('Escape');
  });
  await does('let it use tools', async () => {
    await press('button', /^Let it use tools/);
    await press('checkbox', /^weather/, 'Space');
    await key('Escape');
  }, page.getByRole('button', { name: 'Let it use tools: 1' }));
  await does('cut everything off', async () => {
    await press('button', /^What may leave this machine/);
    await press('switch', /^Cut everything off/, 'Space');
  }, page.getByRole('button', { name: 'What may leave this machine: Cut off' }));
  await does('end that', () => key('Space'), page.getByRole('button', { name: 'What may leave this machine: Others, without names' }));
  await does('choose a stricter policy', async () => {
    await to('radio', /^Others, without names/);
    await key('ArrowUp');
  }, page.getByRole('button', { name: 'What may leave this machine: Own machines only' }));
  await does('see what left', () => press('a', /^See what left/), page.locator('h1#egress'));
  await does('look through folders', async () => {
    await page_('Folders');
    await page.locator('h1#folders').waitFor();
    await press('button', /^Look around/);
  }, page.locator('.found li').first());
  await does('say what of a folder may leave', async () => {
    await to('select', /What of it may leave this machine: Notes/);
    await page.keyboard.type('Own');
  });
  await does('invite a machine', async () => {
    await page_('Machines');
    await page.locator('h1#nodes').waitFor();
    await press('button', /^Invite another machine/);
  }, page.locator('.ticket'));
  await does('meet a machine', async () => {
    await to('textarea', /^Ticket of another machine/);
    await page.keyboard.type('heph-ticket');
    await press('button', /^Meet it/);
  }, text('is one of your machines now'));
  await does('certify a model', async () => {
    await page_('Models');
    await page.locator('h1#models').waitFor();
    await press('button', /^Certify/);
  }, text('The same bits in all 20 ways.'));
  await does('write a model in another format', async () => {
    await press('summary', /^Write it in another format/);
    await press('button', /^Write it$/);
  }, text(/heph-story-q4_k_m is here/));
  await does('see what a repository offers, and download it', async () => {
    await to('text', /^Repository/);
    await page.keyboard.type('owner/name');
    await key('Enter');
    await page.locator('.offers li').first().waitFor();
    await press('button', /^Download: model-q4_k_m/);
  }, text('qwen3-8b is here.'));
  await does('make a report', async () => {
    await page_('Settings');
    await page.locator('h1#settings').waitFor();
    await press('button', /^Make a report/);
  }, page.locator('pre[aria-label="A report to share"]'));
  await does('let a page in', async () => {
    await press('button', /^It does: let it in/);
    await page.getByRole('button', { name: 'It does: let it in' }).waitFor({ state: 'detached' });
  });
  await does('change the look', async () => {
    await to('radio', /^Light/);
    await key('ArrowDown');
  }, page.locator('html[data-theme=dark]'));
  await does('change the language', async () => {
    await to('select', /^Language/);
    await page.keyboard.type('Deutsch');
  }, page.getByRole('heading', { name: 'Einstellungen' }));
  t.diagnostic(`${done.length} things: ${done.join(', ')}`);
  assert.ok(done.length >= 30);
  assert.deepEqual(wrong, []);
  await context.close();
});
