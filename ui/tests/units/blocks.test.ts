import assert from 'node:assert/strict';
import test from 'node:test';
import { BlockReader } from '../../src/text/blocks';

const TEXT = `# Title

First *words*, and
a line.

- one
- two

  still two

| a | b |
|---|---|
| 1 | 2 |

\`\`\`rust
fn main() {}

// still code
\`\`\`

> said

[named] and <b>raw</b>

[named]: https://example.org
1. last`;

test('an answer that comes in pieces reads as it does whole', () => {
  const whole = new BlockReader((html) => html).read(TEXT);
  for (const step of [1, 3, 17]) {
    const reader = new BlockReader((html) => html);
    for (let end = 0; end < TEXT.length; end += step) reader.read(TEXT.slice(0, end));
    // A link whose address comes after it stays as it was written: what is done is not read again.
    const told = JSON.stringify(reader.read(TEXT)).replaceAll('[named]', '<a href=\\"https://example.org\\">named</a>');
    assert.equal(told, JSON.stringify(whole), `in steps of ${step}`);
  }
});

test('a block that is done is the same object for ever', () => {
  const reader = new BlockReader((html) => html);
  const [first] = reader.read('One.\n\nTwo.\n\nThr');
  for (const more of ['ee', 'ee and', 'ee and\n\nfour']) {
    assert.equal(reader.read(`One.\n\nTwo.\n\nThr${more}`)[0], first);
  }
});

test('another text is read from its start', () => {
  const reader = new BlockReader((html) => html);
  reader.read('One.\n\nTwo.\n\nThree.');
  assert.deepEqual(reader.read('Other.'), [{ kind: 'html', html: '<p>Other.</p>\n' }]);
});

test('everything that is shown was cleaned, and neither pictures nor raw HTML are obeyed', () => {
  const cleaned: string[] = [];
  const reader = new BlockReader((html) => {
    cleaned.push(html);
    return 'clean';
  });
  const blocks = reader.read('![see](http://127.0.0.1/x.png)\n\n<script>bad()</script>\n\na <img src=x onerror=bad()> b');
  assert.ok(blocks.every((block) => block.kind === 'html' && block.html === 'clean'));
  assert.ok(!/<img|<script/.test(cleaned.join('')), cleaned.join(''));
  assert.match(cleaned.join(''), /<a href="http:&#47;|<a href="http:\/\/127/);
});
