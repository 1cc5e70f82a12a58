// What the page itself works until its first frame, in chromium without a window: `page_work.js [COUNT]`, before the `heph serve` that HEPH
// names. A JSON line for each opening, in milliseconds of the processor of the page's main thread by what they went to; `desktop.py page`
// keeps them. Chromium draws by software, too, but what it takes to start and to put a window on a screen is not in these.
import { browser, executable } from '../ui/tests/page/browser.js';
import { missing, serve } from '../ui/tests/page/door.js';

const COUNT = Number(process.argv[2] ?? 10);

/** What an event of the trace is counted as; what is none of these counts as whatever it stands in. */
const KINDS = {
  script: ['EvaluateScript', 'v8.compile', 'v8.compileModule', 'v8.evaluateModule', 'v8.produceCache', 'FunctionCall', 'TimerFire', 'FireAnimationFrame', 'RunMicrotasks', 'EventDispatch', 'MinorGC', 'MajorGC', 'V8.GC_SCAVENGER'],
  reading: ['ParseHTML', 'ParseAuthorStyleSheet'],
  styles: ['UpdateLayoutTree', 'RecalculateStyles'],
  places: ['Layout', 'UpdateLayerTree'],
  drawing: ['PrePaint', 'Paint', 'Layerize', 'Commit', 'CompositeLayers', 'UpdateLayer'],
};
const kindOf = new Map(Object.entries(KINDS).flatMap(([kind, names]) => names.map((name) => [name, kind])));

if (!executable || missing) {
  console.error(missing || 'chromium is not installed');
  process.exit(2);
}
const door = await serve();
const chromium = await browser();
try {
  // The first one has to read the browser from the disk.
  for (let n = -1; n < COUNT; n += 1) {
    const line = await opened();
    if (n >= 0) console.log(JSON.stringify(line));
  }
} finally {
  await chromium.close();
  await door.end();
}

/** Opens the page as a person does for the first time, with the token in its address. */
async function opened() {
  const context = await chromium.newContext({ viewport: { width: 1180, height: 742 } });
  const page = await context.newPage();
  await chromium.startTracing(page, { categories: ['-*', 'loading', 'devtools.timeline', 'disabled-by-default-devtools.timeline', 'v8', 'blink.user_timing'] });
  await page.goto(`${door.address}/#token=${door.token}`);
  await page.locator('.composer button.main').waitFor();
  await page.locator('#welcome').waitFor();
  const first = await page.waitForFunction(() => {
    const [paint] = performance.getEntriesByName('first-contentful-paint');
    if (!paint) return null;
    const own = performance.getEntriesByType('resource').filter((one) => one.startTime <= paint.startTime && /\.(js|css)$/.test(one.name));
    const all = [...performance.getEntriesByType('navigation'), ...own];
    return { at: paint.startTime, files: all.length, bytes: all.reduce((sum, one) => sum + one.decodedBodySize, 0) };
  });
  const { at, files, bytes } = await first.jsonValue();
  const { traceEvents: events } = JSON.parse((await chromium.stopTracing()).toString());
  const session = await context.newCDPSession(page);
  await session.send('HeapProfiler.collectGarbage');
  const { usedSize } = await session.send('Runtime.getHeapUsage');
  await context.close();
  return { ms: Math.round(at), files, bytes, heap_kb: Math.round(usedSize / 1024), ...worked(events) };
}

/** Milliseconds of the main thread until the first frame, by kind. */
function worked(events) {
  const drawn = events.find((event) => event.name === 'firstContentfulPaint');
  if (!drawn) throw new Error('the trace has no first frame');
  const begun = Math.max(...events.filter((event) => event.name === 'navigationStart' && event.pid === drawn.pid && event.ts <= drawn.ts).map((event) => event.ts));
  const own = events
    .filter((event) => event.ph === 'X' && event.pid === drawn.pid && event.tid === drawn.tid && event.ts >= begun && event.ts < drawn.ts)
    .sort((a, b) => a.ts - b.ts || b.dur - a.dur);
  const sums = Object.fromEntries(Object.keys(KINDS).map((kind) => [kind, 0]));
  const open = [];
  for (const event of own) {
    while (open.length > 0 && open.at(-1).until <= event.ts) open.pop();
    const around = open.at(-1);
    const kind = kindOf.get(event.name) ?? around?.kind;
    const took = (event.tdur ?? event.dur) / 1000;
    if (kind) sums[kind] += took;
    // It is counted here and no more in what it stands in.
    if (around?.kind && kind) sums[around.kind] -= took;
    open.push({ until: event.ts + event.dur, kind });
  }
  return Object.fromEntries(Object.entries(sums).map(([kind, took]) => [kind, Math.round(took * 100) / 100]));
}
