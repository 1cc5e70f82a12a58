// Every page and every sheet that opens, one after another, before the scripted door: what pictures are taken of, and what is held
// against the references.

/** What is looked at, in this order. */
export const STATES = [
  'hello', 'plan', 'answer', 'text', 'label', 'tool-waits', 'tool-done', 'cited', 'beside', 'shield', 'cut-off', 'folders', 'nodes', 'models', 'pull', 'egress', 'settings', 'report',
];

/** Waits until nothing changed in the page over three frames, 2 s at most. Runs in the page. */
function quiet() {
  return new Promise((done) => {
    const until = performance.now() + 2000;
    let still = 0;
    const watch = new MutationObserver(() => (still = 0));
    watch.observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
    const frame = () => {
      still += 1;
      if (still <= 3 && performance.now() < until) return requestAnimationFrame(frame);
      watch.disconnect();
      done();
    };
    requestAnimationFrame(frame);
  });
}

/** Goes from state to state, and gives the name of each when it is there. */
export async function* walk(page, address) {
  const settled = () => page.evaluate(quiet);
  /** The answer that is turn `n` is whole. Rows that are out of sight are not in the page. */
  const answered = (n) => page.locator(`.row[aria-posinset='${n}'] .went`).waitFor();
  await page.goto(address);
  await page.locator('.composer textarea').waitFor();
  await page.locator('#welcome').waitFor();
  await settled();
  yield 'hello';
  await page.locator('.composer textarea').fill('How can a model be shared among machines?');
  await page.locator('.plan button').click();
  await page.locator('.plan .card').waitFor();
  await settled();
  yield 'plan';
  await page.locator('.plan button').first().click();
  await page.locator('.composer textarea').press('Enter');
  await page.locator('.went .line').click();
  await page.locator('.went .card').waitFor();
  await page.locator('.went .card').scrollIntoViewIfNeeded();
  await settled();
  yield 'answer';
  await page.locator('[role=feed]').evaluate((feed) => feed.scrollTo(0, 0));
  await page.locator('.text h1').first().waitFor();
  await settled();
  yield 'text';
  await page.locator('.top button').first().click();
  await page.locator('.top select').selectOption('private');
  await settled();
  yield 'label';
  await page.keyboard.press('Escape');
  const servers = page.locator('.composer .row > *').nth(3).locator('button').first();
  await servers.click();
  await page.locator('.shelf input').last().check();
  await page.keyboard.press('Escape');
  await page.locator('.sheet').waitFor({ state: 'detached' });
  await page.locator('.composer textarea').fill('Look it up in my files.');
  await page.locator('.composer textarea').press('Enter');
  await page.locator('.turn section.card .main').waitFor();
  await settled();
  yield 'tool-waits';
  await page.locator('.turn section.card .main').click();
  await answered(4);
  await page.locator('.turn ul details summary').last().click();
  await settled();
  yield 'tool-done';
  await page.locator('.composer .row > *').nth(2).locator('button').first().click();
  await page.locator('.shelf input').first().check();
  await page.keyboard.press('Escape');
  await page.locator('.composer textarea').fill('When does the ferry of the fox leave?');
  await page.locator('.composer textarea').press('Enter');
  await answered(6);
  // The answer names the excerpt, which opens there too.
  await page.locator('.turn.assistant .cited').waitFor();
  // Pressed without a search for the place: what looks for one scrolls a list of which only a part is in the page.
  await page.locator('.turn.user .cited > summary').evaluate((summary) => summary.click());
  await page.locator('.turn.user .cited details summary').evaluate((summary) => summary.click());
  await page.locator('.turn.user .cited mark').waitFor();
  await settled();
  yield 'cited';
  await page.locator('.turn.assistant').last().locator('.acts > button').nth(1).click();
  await page.locator('[aria-pressed]').last().click();
  await page.locator('.beside li').nth(1).waitFor();
  await settled();
  yield 'beside';
  await page.locator('header button.shield').click();
  await page.locator('[role=switch]').waitFor();
  await settled();
  yield 'shield';
  await page.locator('[role=switch]').click();
  await page.locator('[role=switch][aria-checked=true]').waitFor();
  await settled();
  yield 'cut-off';
  await page.locator('[role=switch]').click();
  await page.locator('[role=switch][aria-checked=false]').waitFor();
  // The switch kept the focus, so that Escape closes the sheet that it is in.
  await page.keyboard.press('Escape');
  await page.locator('.sheet').waitFor({ state: 'detached' });
  const go = async (name) => {
    await page.goto(`${address}#/${name}`);
    await page.locator(`h1#${name}`).waitFor();
    await settled();
  };
  await go('folders');
  yield 'folders';
  await go('nodes');
  await page.locator('.ways button').first().click();
  await page.locator('.ticket').waitFor();
  await settled();
  yield 'nodes';
  await go('models');
  await page.locator('li.card details').first().locator('summary').click();
  await page.locator('li.card form').waitFor();
  await settled();
  yield 'models';
  await page.locator('.known button').first().click();
  await page.locator('.offers li').nth(1).waitFor();
  await page.locator('.offers').scrollIntoViewIfNeeded();
  await settled();
  yield 'pull';
  await go('egress');
  await page.locator('tbody tr').first().waitFor();
  yield 'egress';
  await go('settings');
  yield 'settings';
  await page.locator('.page').evaluate((frame) => frame.scrollTo(0, frame.scrollHeight));
  await settled();
  yield 'report';
}

/** The looks of which there are references. */
export const LOOKS = {
  light: { theme: 'light', language: 'en' },
  dark: { theme: 'dark', language: 'en' },
  rtl: { theme: 'light', language: 'ar' },
};

/** Of these one picture is enough: in other looks they have other colours and another side, as the rest has. */
const ONCE = ['plan', 'text', 'label', 'tool-waits', 'tool-done', 'cited', 'pull', 'report'];

/** Whether there is a picture of `name` in `look`. Where the parts lie is kept of all. */
export const pictured = (look, name) => look === 'light' || !ONCE.includes(name);

/** Opens the page as a person with `settings` does; what goes wrong in it is given to `wrong`. */
export async function opened(chromium, settings, { width = 1280, height = 800 }, wrong) {
  const context = await chromium.newContext({ viewport: { width, height }, deviceScaleFactor: 1, timezoneId: 'UTC', locale: 'en-US', reducedMotion: 'reduce' });
  context.setDefaultTimeout(30_000);
  await context.addInitScript((kept) => {
    if (localStorage.getItem('heph.settings') === null) localStorage.setItem('heph.settings', JSON.stringify(kept));
  }, { contrast: 'usual', ...settings, mode: 'layered' });
  const page = await context.newPage();
  page.on('pageerror', (error) => wrong(error.message));
  page.on('console', (line) => line.type() === 'error' && wrong(line.text()));
  return { page, context };
}
