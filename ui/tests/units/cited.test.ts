import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Citation } from '../../src/door/shapes';
import { named } from '../../src/talk/cited';

const citations = [1, 2, 3, 12].map((number): Citation => ({ number, shelf: 's', document: 'd', start: 0, end: 1, text: 'x' }));

test('an answer names excerpts by their numbers, and code names none', () => {
  const table: [string, number[]][] = [
    ['At 7:40 [1].', [1]],
    ['So it is [3, 1] and [12].', [1, 3, 12]],
    ['Nobody says [4], [0] or [1234].', []],
    ['`a[1]` and\n```js\nlet x = a[2];\n```\nbut [3]', [3]],
    ['an open fence ```\na[1]', []],
    ['[text](https://example.org/[2])', [2]],
    ['', []],
  ];
  for (const [text, numbers] of table) assert.deepEqual(named(text, citations).map(({ number }) => number), numbers, text);
});
