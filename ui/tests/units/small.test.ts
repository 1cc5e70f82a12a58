import assert from 'node:assert/strict';
import test from 'node:test';
import { refine } from '../../src/state/refine';
import { Amounts } from '../../src/text/amounts';
import { asText } from '../../src/text/files';
import { ar } from '../../src/words/ar';
import { de } from '../../src/words/de';
import { en } from '../../src/words/en';
import { spoken } from '../../src/words/spoken';
import { zh } from '../../src/words/zh';

test('amounts are written with three digits that mean something', () => {
  const amounts = new Amounts('en');
  const table: [string, string][] = [
    [amounts.bytes(0), '0 bytes'],
    [amounts.bytes(999), '999 bytes'],
    [amounts.bytes(12_405_696), '12.4 MB'],
    [amounts.bytes(5e12), '5 TB'],
    [amounts.seconds(0.0113), '11.3 ms'],
    [amounts.seconds(0.9999), '1 sec'],
    [amounts.seconds(90), '90 sec'],
    [amounts.seconds(600), '10 min'],
    [amounts.count(1699.6), '1,700'],
    [amounts.share(0.85), '85%'],
  ];
  for (const [written, right] of table) assert.equal(written, right);
  assert.equal(new Amounts('de').bytes(12_405_696), '12,4 MB');
});

test('settings that were tampered with are the usual ones', () => {
  const usual = refine(null);
  assert.deepEqual(refine('x'), usual);
  assert.deepEqual(refine({ theme: 'pink', privacy: 'everything', size: 99, temperature: -1, seed: 1.5, tokensMax: 0, mode: 7, system: {} }), usual);
  assert.equal(refine({ privacy: 'nothing', seed: 3 }).privacy, 'nothing');
});

test('bytes that are no text are not sent to a model as text', () => {
  assert.equal(asText(new TextEncoder().encode('Grüße').buffer as ArrayBuffer), 'Grüße');
  assert.equal(asText(new Uint8Array([0xff, 0xfe, 0x00]).buffer), undefined);
  assert.equal(asText(new Uint8Array([65, 0xff, 66]).buffer), undefined);
  assert.equal(asText(new Uint8Array([65, 0, 66]).buffer), undefined);
});

test('a reader is spoken to in the first language that is known', () => {
  const known = ['en', 'de', 'zh', 'ar'];
  assert.equal(spoken(['fr-FR', 'de-AT', 'en'], known), 'de');
  assert.equal(spoken(['zh-Hant-TW'], known), 'zh');
  assert.equal(spoken(['fr'], known), 'en');
});

test('no language leaves a word in English or empty', () => {
  const same = new Set(['tag', 'direction', 'examples', 'model', 'modes.auto', 'themes.system', 'state', 'plainCode', 'threads', 'repository', 'memory', 'temperature']);
  const walk = (a: unknown, b: unknown, path: string): void => {
    if (typeof a === 'string') {
      assert.ok(typeof b === 'string' && b.trim() !== '', path);
      assert.ok(same.has(path) || a !== b, `${path} is still English: ${a}`);
    } else if (typeof a === 'object' && a !== null && !Array.isArray(a)) {
      assert.deepEqual(Object.keys(b as object).sort(), Object.keys(a).sort(), path);
      for (const key of Object.keys(a)) walk((a as Record<string, unknown>)[key], (b as Record<string, unknown>)[key], path === '' ? key : `${path}.${key}`);
    }
  };
  for (const words of [de, zh, ar]) walk(en, words, '');
});
