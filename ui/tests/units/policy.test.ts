// What may leave, as the page tells it: the shield, labels, and a report that holds nothing of the person's.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Preset, Standing } from '../../src/door/shapes';
import { guardOf, looser, PRESETS } from '../../src/state/guard';
import { refine } from '../../src/state/refine';
import { Rate, secondsFor } from '../../src/state/rate';
import { labelsOf, readLabel, UNSAID, wordsOf, WORDS_MAX } from '../../src/talk/label';
import { read, Tree } from '../../src/talk/tree';
import { fault, report, type Known } from '../../src/text/report';

const stands = (preset: string, more: Partial<Standing> = {}): Standing => ({ preset: preset as Preset, by: 'file', rules: 0, organisations: [], providers: [], cut: false, trouble: null, ...more });

test('the shield shows the strictest of policy, page and mode', () => {
  const cases: [Standing | null, string, 'nothing' | 'own' | 'policy', string][] = [
    [stands('open'), 'auto', 'policy', 'open'],
    [stands('open'), 'auto', 'own', 'own-devices'],
    [stands('redact-then-remote'), 'auto', 'policy', 'redact-then-remote'],
    [stands('own-devices'), 'remote', 'policy', 'own-devices'],
    [stands('local-only'), 'auto', 'own', 'local-only'],
    [stands('open'), 'local', 'policy', 'local-only'],
    [stands('open'), 'auto', 'nothing', 'local-only'],
    [stands('open', { cut: true }), 'auto', 'policy', 'cut'],
    [stands('local-only', { cut: true }), 'local', 'nothing', 'cut'],
    [stands('of a later version'), 'auto', 'policy', 'local-only'],
    [stands('local-only', { rules: 1 }), 'auto', 'policy', 'ruled'],
    [stands('own-devices', { by: 'usual', providers: ['far/big'] }), 'auto', 'policy', 'ruled'],
    [stands('own-devices', { by: 'usual', providers: ['far/big'] }), 'auto', 'own', 'own-devices'],
    [stands('open', { rules: 1 }), 'local', 'policy', 'local-only'],
    [stands('open', { rules: 1, cut: true }), 'auto', 'policy', 'cut'],
    [stands('local-only', { by: 'unread', rules: 1 }), 'auto', 'policy', 'local-only'],
    [null, 'auto', 'policy', 'unknown'],
    [null, 'auto', 'own', 'own-devices'],
    [null, 'local', 'policy', 'local-only'],
  ];
  for (const [policy, mode, privacy, shown] of cases) assert.equal(guardOf(policy, mode, privacy), shown, JSON.stringify([policy, mode, privacy]));
});

test('what lets more out is asked for again', () => {
  const asked = PRESETS.flatMap((from) => PRESETS.filter((to) => looser(from, to)).map((to) => `${from} > ${to}`));
  assert.deepEqual(asked, ['local-only > own-devices', 'local-only > redact-then-remote', 'local-only > open', 'own-devices > redact-then-remote', 'own-devices > open', 'redact-then-remote > open']);
});

test('labels are words, and what cannot be read is the most private', () => {
  assert.deepEqual(wordsOf(' salaries, health;\nsalaries，工资، الرواتب ,, '), ['salaries', 'health', '工资', 'الرواتب']);
  assert.equal(wordsOf(Array.from({ length: 99 }, (_, i) => `w${i}`).join(',')).length, WORDS_MAX);
  assert.deepEqual(labelsOf({ level: 'secret', words: ['salaries'] }), ['secret', 'salaries']);
  assert.deepEqual(labelsOf(UNSAID), []);
  assert.deepEqual(readLabel({ level: 'private', words: ['a', 7, 'b, c'] }), { level: 'private', words: ['a', 'b', 'c'] });
  assert.deepEqual(readLabel({ level: 'sekret', words: 'x' }), { level: 'secret', words: [] });
  for (const none of [null, undefined, 3, 'private']) assert.deepEqual(readLabel(none), UNSAID);
});

test('a conversation keeps its label, and one of an earlier version has none', () => {
  const label = { level: 'secret' as const, words: ['salaries'] };
  assert.deepEqual(read(JSON.parse(JSON.stringify(new Tree([]).kept('', label, null))))?.label, label);
  assert.deepEqual(read({ version: 1, system: '', messages: [], others: [] })?.label, UNSAID);
});

test('the speed of a download is told once it is known, and follows it', () => {
  const rate = new Rate();
  rate.add(0, 500);
  assert.equal(rate.perSecond, null);
  rate.add(500, 1000);
  assert.equal(rate.perSecond, null, 'half a second says little');
  for (let at = 1000; at <= 30_000; at += 500) rate.add(at, at * 2);
  assert.equal(rate.perSecond, 2000);
  for (let at = 30_500; at <= 60_000; at += 500) rate.add(at, 60_000 + (at - 30_000) / 10);
  assert.equal(Math.round(rate.perSecond ?? 0), 100, 'what was long ago is forgotten');
  rate.add(61_000, 0);
  assert.equal(rate.perSecond, null, 'what begins anew has no speed yet');
  assert.equal(secondsFor(1000, 100), 10);
  for (const [bytes, speed] of [[null, 100], [1000, null], [1000, 0]] as const) assert.equal(secondsFor(bytes, speed), null);
});

/** Stands in every place that a person, another program or another machine can write to. */
const CANARY = 'Ada-Lovelace-10.9';

test('a report holds nothing that a person or another machine wrote', () => {
  const known = {
    at: 1.79e12,
    status: {
      name: CANARY, version: '0.1.0', model: CANARY, context: 1024, threads: 2, isa: 'avx512', kv: `f16 ${CANARY}`, auth: CANARY, modes: [CANARY], uptime_s: 1,
      memory: { total_bytes: 1, available_bytes: 1, peak_bytes: CANARY }, requests: { running: 0, waiting: 0, answered: 3, failed: 0, refused: 0, tokens: 5 },
    },
    hardware: { cpu: CANARY, cores: 2, hardware_threads: 4, instruction_sets: ['avx2', `x ${CANARY}`], instruction_set_best: CANARY, memory_bytes: 1, memory_available_bytes: 1, fits: [] },
    policy: stands(CANARY, { organisations: [CANARY], trouble: CANARY }),
    nodes: {
      here: { node: CANARY, name: CANARY, threads: 2, isa: CANARY, memory_bytes: 1 },
      nodes: [{ node: CANARY, name: CANARY, role: CANARY, here: false, reachable: true, why: CANARY, latency_ms: 2, state: `open ${CANARY}`, queue_s: 0, memory_bytes: 1, models: [CANARY], sees: CANARY }],
    },
    models: [
      { name: CANARY, kind: 'chat', about: CANARY, bytes: 5, bundled: false, loaded: true, serving: false, context: 8, layers: 2, source: CANARY, fit: { fits: true, memory_bytes: 1, available_bytes: 2, sentence: CANARY } },
      { name: 'heph-story', kind: CANARY, about: CANARY, bytes: 5, bundled: true, loaded: true, serving: true, context: 8, layers: 2, source: CANARY, fit: null },
    ],
    settings: { ...refine({ system: CANARY, mode: CANARY, model: CANARY }), mode: CANARY },
    metrics: `# HELP heph_tokens_total ${CANARY}\nheph_tokens_total 412\nheph_requests_total{path="${CANARY}"} 2\nheph_requests_total{path="b"} 3\nheph_first_bucket{le="1"} 9\n${CANARY} 7\n`,
    faults: [fault(Object.assign(new Error(CANARY), { stack: `${CANARY}\n at f (http://127.0.0.1/assets/index-abc.js:81:12)\n` })), CANARY, `TypeError at ${CANARY}/x:1:1`],
    browser: `Mozilla/5.0 (${CANARY}) Chrome/140.0 Safari/537`,
  } as unknown as Known;
  const text = report(known);
  for (const part of ['Ada', 'Lovelace', '10.9']) assert.ok(!text.includes(part), text);
  const told = JSON.parse(text);
  assert.deepEqual(told.counts, { heph_tokens_total: 412, heph_requests_total: 5 });
  assert.deepEqual(told.faults, ['Error at index-abc.js:81:12']);
  assert.deepEqual([told.machine.requests.answered, told.machine.isa, told.browser, told.models[1].name], [3, 'avx512', 'Chrome/140', 'heph-story']);
});

test('faults are kinds and places whatever was thrown', () => {
  for (const thrown of [null, 'words', { stack: '/assets/a.js:1:1' }, new TypeError('x')]) assert.match(fault(thrown), /^(Error|TypeError) at (unknown|[\w.-]+):\d+:\d+$/);
});
