// Colours are given to the beginning of long code, and to whole lines of it; letters stay what they are.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { colour } from '../../src/text/colour';

const plain = (html: string): string => html.replace(/<[^>]*>/g, '').replace(/&lt;/g, '<').replace(/&gt;/g, '>').replace(/&quot;/g, '"').replace(/&#x27;/g, "'").replace(/&amp;/g, '&');

function there<T>(value: T | undefined): T {
  if (value === undefined) assert.fail('it is not there');
  return value;
}

test('short code is coloured whole, and says what it said', () => {
  const code = 'fn main() { println!("{}", 1 < 2 && true); } // <b>';
  const coloured = there(colour(code, 'rust', null));
  assert.ok(coloured.html.includes('hljs-keyword'));
  assert.equal(coloured.code, code);
  assert.equal(plain(coloured.html), code);
  assert.ok(!coloured.html.includes('<b>'));
  assert.equal(colour(code, 'rust', coloured), coloured, 'what is the same is not coloured again');
  assert.equal(colour(code, 'no-such-language', null), undefined);
});

test('of long code whole lines from the first on have colours', () => {
  const line = 'let word = 1; // and a word\n';
  const code = line.repeat(2000);
  const coloured = there(colour(code, 'rust', null));
  assert.ok(coloured.code.length > 39_000 && coloured.code.length <= 40_001);
  assert.ok(code.startsWith(coloured.code) && coloured.code.endsWith('\n'));
  assert.equal(plain(coloured.html), coloured.code);
  // It may grow behind them.
  assert.equal(colour(code + line, 'rust', coloured), coloured);
  assert.equal(colour('x'.repeat(50_000), 'rust', null)?.html, '', 'one line without end is plain');
});
