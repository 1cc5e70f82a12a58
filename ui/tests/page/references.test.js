// Pictures of every page, and where its parts lie, held against those that were looked at and found good (`tests/references`).
// Another system has other typefaces, so letters are not compared: parts must be there, in their order, as far from the start of
// the line and as wide as they were, and the picture, made small enough that no letter can be read, must have the same shades.
//
//   node tests/references.js     writes them anew; look at each before you commit it
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { scripted } from '../scripted.js';
import { LOOKS, opened, pictured, STATES, walk } from '../walk.js';
import { browser, executable } from './browser.js';
import { cut, layout } from './seen.js';
import { sound } from './sound.js';

const skip = executable ? false : 'chromium is not installed';
const REFERENCES = fileURLToPath(new URL('../references/', import.meta.url));
/** Other letters make words wider: so many pixels may something begin or end elsewhere, along the line. */
const ALONG = 48;
/** Of the cells of a small picture, so much of all shades may differ in the middle, from 0 to 1. */
const SHADES = 0.045;

let chromium;

before(async () => {
  if (!skip) chromium = await browser();
});
after(async () => {
  await chromium?.close();
});

/** A scripted door for the test `t`, which is closed after it, and so is what was opened before it. */
async function doorway(t) {
  const door = scripted({ pace: 1 });
  await new Promise((ready) => door.listen(0, '127.0.0.1', ready));
  t.after(async () => {
    await Promise.all(chromium.contexts().map((context) => context.close()));
    door.close();
    door.closeAllConnections();
  });
  return { address: `http://127.0.0.1:${door.address().port}/` };
}

/** How much two pictures differ in the middle, each made 64 by 40 cells: 0 the same, 1 black and white. Computed in a page of its own. */
async function difference(judge, one, other) {
  return judge.evaluate(
    async (pictures) => {
      const cells = await Promise.all(
        pictures.map(async (base64) => {
          const picture = await createImageBitmap(await (await fetch(`data:image/png;base64,${base64}`)).blob(), { resizeWidth: 64, resizeHeight: 40, resizeQuality: 'high' });
          const canvas = new OffscreenCanvas(64, 40);
          const context = canvas.getContext('2d');
          context.drawImage(picture, 0, 0);
          return context.getImageData(0, 0, 64, 40).data;
        }),
      );
      const [a, b] = cells;
      let sum = 0;
      for (let i = 0; i < a.length; i += 4) sum += (Math.abs(a[i] - b[i]) + Math.abs(a[i + 1] - b[i + 1]) + Math.abs(a[i + 2] - b[i + 2])) / 765;
      return sum / (a.length / 4);
    },
    [one, other].map((bytes) => bytes.toString('base64')),
  );
}

/** Parts that lie elsewhere than they did. Their kinds and order are the same, or that is said. */
function moved(was, is) {
  const kinds = (boxes) => boxes.map(([kind]) => kind).join(' ');
  // What is below the fold on one system may be above it on another: what both show is compared.
  const count = Math.min(was.length, is.length);
  if (Math.abs(was.length - is.length) > Math.max(2, was.length / 8)) return [`parts: ${kinds(was)} are ${kinds(is)}`];
  if (kinds(was.slice(0, count)) !== kinds(is.slice(0, count))) return [`parts: ${kinds(was)} are ${kinds(is)}`];
  return was.slice(0, count).flatMap(([kind, start, width], i) => {
    const [, nowStart, nowWidth] = is[i];
    const off = Math.abs(start - nowStart) > ALONG || Math.abs(width - nowWidth) > Math.max(ALONG, width / 6);
    return off ? [`${kind}: ${start} + ${width} is ${nowStart} + ${nowWidth}`] : [];
  });
}

for (const [look, settings] of Object.entries(LOOKS)) {
  test(`every page looks as it did: ${look}`, { skip }, async (t) => {
    const door = await doorway(t);
    const wrong = [];
    const { page } = await opened(chromium, settings, {}, (what) => wrong.push(what));
    const judge = await chromium.newPage();
    const boxes = JSON.parse(await readFile(`${REFERENCES}layout-${look}.json`, 'utf8'));
    const problems = [];
    let farthest = 0;
    for await (const name of walk(page, door.address)) {
      const says = (list) => problems.push(...list.map((problem) => `${name}: ${problem}`));
      says(await page.evaluate(cut));
      says(moved(boxes[name], await page.evaluate(layout)));
      // In light ones it is held before the real door, and from right to left on a narrow page.
      if (look === 'dark') await sound(page, `${look}: ${name}`);
      if (!pictured(look, name)) continue;
      const off = await difference(judge, await readFile(`${REFERENCES}${look}-${name}.png`), await page.screenshot());
      farthest = Math.max(farthest, off);
      if (off > SHADES) says([`the picture differs by ${off.toFixed(3)}`]);
    }
    t.diagnostic(`${look}: pictures differ by ${farthest.toFixed(4)} at most`);
    assert.deepEqual(problems, []);
    assert.deepEqual(wrong, []);
  });
}

const NARROW = [
  ['German', { theme: 'dark', language: 'de' }, 360],
  ['Arabic', { theme: 'light', language: 'ar' }, 360],
  ['German, large letters', { theme: 'light', language: 'de', size: 1.6 }, 480],
  ['high contrast, Chinese', { theme: 'dark', contrast: 'more', language: 'zh' }, 1280],
];

for (const [look, settings, width] of NARROW) {
  test(`nothing is cut, spilled or unnamed on any page: ${look}, ${width} pixels`, { skip }, async (t) => {
    const door = await doorway(t);
    const wrong = [];
    const { page } = await opened(chromium, settings, { width, height: 740 }, (what) => wrong.push(what));
    const problems = [];
    const states = [];
    for await (const name of walk(page, door.address)) {
      states.push(name);
      problems.push(...(await page.evaluate(cut)).map((problem) => `${name}: ${problem}`));
      await sound(page, `${look}: ${name}`);
    }
    assert.deepEqual(problems, []);
    assert.deepEqual(wrong, []);
    assert.deepEqual(states, STATES);
  });
}

test('what is cut, spilled or broken is found', { skip }, async () => {
  const page = await chromium.newPage({ viewport: { width: 400, height: 300 } });
  const told = async (html) => {
    await page.setContent(`<style>* { box-sizing: border-box }</style>${html}`);
    return (await page.evaluate(cut)).map((problem) => problem.split(':')[0]);
  };
  assert.deepEqual(await told('<p>All of it can be read.</p>'), []);
  assert.deepEqual(await told('<p style="width:5em;overflow:hidden;white-space:nowrap">Too wide for the place that it has</p>'), ['cut at the side']);
  assert.deepEqual(await told('<p style="height:1em;overflow:hidden;width:5em">Too high for the place that it has</p>'), ['cut below or above']);
  assert.deepEqual(await told('<p style="width:5em;white-space:nowrap">Too wide for the place that it has</p>'), ['spills']);
  assert.deepEqual(await told('<p style="width:1.2em;overflow-wrap:anywhere">private</p>'), ['broken into letters']);
  assert.deepEqual(await told('<p style="width:5em;overflow:hidden;text-overflow:ellipsis;white-space:nowrap">Nobody can read the rest of it</p>'), ['cut at the side']);
  assert.deepEqual(await told('<button title="All of it" style="width:5em;overflow:hidden;text-overflow:ellipsis;white-space:nowrap">All of it, and more than that</button>'), []);
  assert.deepEqual(await told('<div style="width:5em;overflow:auto"><p style="white-space:nowrap;width:20em">It can be scrolled to</p></div>'), []);
  await page.close();
});

test('a part that moved, went or came, and a page of other shades, are found', { skip }, async () => {
  const was = [['header', 0, 1280, 0, 52], ['nav', 0, 93, 52, 748], ['main', 93, 1187, 52, 748]];
  const is = (change) => moved(was, change(structuredClone(was)));
  assert.deepEqual(is((boxes) => boxes), []);
  assert.equal(is((boxes) => { boxes[1][1] = 200; return boxes; }).length, 1);
  assert.equal(is((boxes) => { boxes[2][2] = 500; return boxes; }).length, 1);
  assert.equal(is((boxes) => [boxes[1], boxes[0], boxes[2]]).length, 1);
  const judge = await chromium.newPage({ viewport: { width: 400, height: 300 } });
  const shot = async (html) => {
    await judge.setContent(html);
    return judge.screenshot();
  };
  const plain = await shot('<body style="background:#fff">Words</body>');
  assert.ok((await difference(judge, plain, await shot('<body style="background:#fff">Other words</body>'))) < SHADES);
  assert.ok((await difference(judge, plain, await shot('<body style="background:#eee">Words</body>'))) > SHADES);
  await judge.close();
});
