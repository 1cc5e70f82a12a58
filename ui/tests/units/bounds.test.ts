// What a person writes as a bound is that bound, or none is changed.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bytesOf, shareOf } from '../../src/text/bounds';

test('an amount is bytes, nothing is no bound, and what is no amount changes nothing', () => {
  assert.equal(bytesOf('4', 1e9), 4e9);
  assert.equal(bytesOf('0.5', 1e9), 5e8);
  assert.equal(bytesOf('1.1', 1e6), 1_100_000);
  assert.equal(bytesOf('', 1e9), null);
  assert.equal(bytesOf('  ', 1e9), null);
  for (const text of ['0', '-1', 'much', '1e99', 'NaN', 'Infinity', '4GB', '0.0000000001']) assert.equal(bytesOf(text, 1e9), undefined, text);
});

test('a share of the cores is 1 to 100 in the hundred', () => {
  assert.deepEqual(['1', '50', '100', '49.6'].map(shareOf), [1, 50, 100, 50]);
  for (const text of ['', '0', '101', '-5', 'all', '1e9']) assert.equal(shareOf(text), undefined, text);
});
