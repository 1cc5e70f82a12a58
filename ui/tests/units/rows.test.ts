import assert from 'node:assert/strict';
import test from 'node:test';
import { Rows } from '../../src/parts/rows';

/** Tops by plain addition. */
const plain = (keys: string[], heights: Map<string, number>, guess: number): number[] => {
  const tops = [0];
  for (const key of keys) tops.push((tops.at(-1) ?? 0) + (heights.get(key) ?? guess));
  return tops;
};

test('tops are what plain addition gives, whatever is measured, added and taken away', () => {
  const rows = new Rows(100);
  const heights = new Map<string, number>();
  let keys = Array.from({ length: 300 }, (_, i) => `r${i}`);
  let state = 7;
  const draw = (below: number): number => {
    state = (state * 1103515245 + 12345) % 2147483648;
    return state % below;
  };
  rows.lay(keys);
  for (let round = 0; round < 400; round += 1) {
    const index = draw(keys.length);
    const height = 20 + draw(500);
    rows.measure(keys[index] as string, index, height);
    heights.set(keys[index] as string, height);
    if (round % 50 === 0) keys = keys.slice(0, 200 + draw(50)).concat(`new${round}`);
    rows.lay(keys);
    const tops = plain(keys, heights, 100);
    const at = draw(keys.length);
    assert.equal(rows.top(at), tops[at]);
    assert.equal(rows.total(), tops.at(-1));
    const found = rows.at((tops[at] as number) + 1);
    assert.equal(found, at);
  }
});

test('a measure that comes late, for a row that is elsewhere now, changes nothing', () => {
  const rows = new Rows(10);
  rows.lay(['a', 'b']);
  rows.lay(['c']);
  assert.equal(rows.measure('b', 1, 500), 0);
  assert.equal(rows.total(), 10);
});

test('an empty list has no height', () => {
  const rows = new Rows(10);
  rows.lay([]);
  assert.equal(rows.total(), 0);
  assert.equal(rows.at(50), 0);
});
