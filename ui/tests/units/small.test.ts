import assert from 'node:assert/strict';
import test from 'node:test';
import { refine } from '../../src/state/refine';
import { Amounts } from '../../src/text/amounts';
import { asText, FILE_BYTES_MAX, FILES_MAX, ofBase64, readTexts, unread } from '../../src/text/files';
import { spoken } from '../../src/words/spoken';

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
    [amounts.seconds(9000), '2.5 hr'],
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

test('of files that are brought those that are text are taken, and of each other one it is said why', async () => {
  const broken = new File(['x'], 'broken');
  broken.arrayBuffer = () => Promise.reject(new Error('gone'));
  const brought = [unread('pipe'), new File([ofBase64('R3LDvMOfZQ==')], 'text'), new File([new Uint8Array([255])], 'bytes'), new File(['x'.repeat(FILE_BYTES_MAX + 1)], 'long'), broken];
  const { taken, refused } = await readTexts(brought, 0);
  assert.deepEqual(taken, [{ name: 'text', content: 'Grüße' }]);
  assert.deepEqual(refused.map(({ name, why }) => [name, why]), [['pipe', 'unread'], ['bytes', 'not-text'], ['long', 'large'], ['broken', 'unread']]);
  const many = await readTexts([new File(['a'], 'last'), new File(['b'], 'beyond')], FILES_MAX - 1);
  assert.deepEqual([many.taken.length, many.refused], [1, [{ name: 'beyond', why: 'many' }]]);
});

test('a reader is spoken to in the first language that is known', () => {
  const known = ['en', 'de', 'zh', 'ar'];
  assert.equal(spoken(['fr-FR', 'de-AT', 'en'], known), 'de');
  assert.equal(spoken(['zh-Hant-TW'], known), 'zh');
  assert.equal(spoken(['fr'], known), 'en');
});
