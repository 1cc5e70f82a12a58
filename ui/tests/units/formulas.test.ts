// Formulas are found where they are, sums of money are none, and what is made of them loads nothing and leads nowhere.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BlockReader } from '../../src/text/blocks';
import { formula } from '../../src/text/formulas';

/** What is seen of `text`, with formulas in marks. */
function read(text: string): string {
  const reader = new BlockReader((html) => html, (tex, alone) => `<${alone ? 'A' : 'W'}:${tex}>`);
  return reader.read(text).map((block) => (block.kind === 'html' ? block.html.replace(/<\/?p>|\n/g, '') : block.code)).join('|');
}

test('formulas are found by their signs', () => {
  assert.equal(read('so $x^2$ is'), 'so <W:x^2> is');
  assert.equal(read('so \\(x\\) is'), 'so <W:x> is');
  assert.equal(read('$$\na+b\n$$\nthen'), '<A:\na+b\n>|then'.replaceAll('\n', ''));
  assert.equal(read('\\[ a \\]'), '<A: a >');
  assert.equal(read('in a line $$a$$ of text'), 'in a line <A:a> of text');
  assert.equal(read('- $a$\n- $b$').replace(/<\/?(?:ul|li)>/g, ''), '<W:a><W:b>');
  assert.equal(read('$\\text{a \\$ b}$'), '<W:\\text{a \\$ b}>');
  assert.equal(read('$2x + 1 = 3$'), '<W:2x + 1 = 3>');
});

test('money, code and what has no end are no formulas', () => {
  for (const text of ['costs $5 and $6', 'from $5-$6', 'pay $x/$5 each', '$5 to$', 'a $ b $ c', 'only $x', '\\$x\\$', 'US$ and A$', '$20 or 20$', '$5,000 or $6,000 a year', '\\(x']) {
    assert.ok(!read(text).includes('W:') && !read(text).includes('A:'), `${text}: ${read(text)}`);
  }
  assert.equal(read('`$x$`'), '<code>$x$</code>');
  assert.equal(read('```\n$x$\n```'), '$x$');
  assert.ok(!read('$$a\n\nb$$').includes('A:'));
});

test('without what shows them, and where they cannot be read, they stand as they were written', () => {
  const plain = new BlockReader((html) => html);
  assert.deepEqual(plain.read('so $a<b$ and \\(c\\)'), [{ kind: 'html', html: '<p>so $a&#60;b$ and \\(c\\)</p>\n' }]);
  const wrong = new BlockReader((html) => html, formula);
  assert.deepEqual(wrong.read('$\\frac{$'), [{ kind: 'html', html: '<p>$\\frac{$</p>\n' }]);
});

test('an answer with formulas that comes in pieces reads as it does whole', () => {
  const text = 'One $a_1$ and\n\n$$\n\\frac{a}{b}\n$$\n\nthen \\(c\\), `$`, $5 and\n\n\\[\nd\n\\]\n\nlast';
  const whole = new BlockReader((html) => html, formula).read(text);
  for (const step of [1, 2, 7]) {
    const reader = new BlockReader((html) => html, formula);
    for (let end = 0; end < text.length; end += step) reader.read(text.slice(0, end));
    assert.deepEqual(reader.read(text), whole, `in steps of ${step}`);
  }
});

test('a formula is MathML, and links, pictures and styles of its own are refused', () => {
  assert.match(formula('x^2', false) ?? '', /^<math><msup>/);
  assert.match(formula('x^2', true) ?? '', /^<math display="block"/);
  for (const tex of ['\\href{https://example.org}{x}', '\\url{https://example.org}', '\\includegraphics{http://127.0.0.1/a.png}', '\\class{a}{x}', '\\id{a}{x}', '\\style{background:url(http://127.0.0.1)}{x}', '\\data{a=b}{x}', '\\color{red}x']) {
    const html = formula(tex, false) ?? '';
    assert.doesNotMatch(html, /href=|src=|url\(|<a |<img|id=|data-|style=/, `${tex}: ${html}`);
  }
  assert.equal(formula('<script>', false)?.includes('<script'), false);
});

test('what would hold the page up is not read', () => {
  assert.equal(formula('x'.repeat(2001), false), undefined);
  const began = performance.now();
  for (const tex of ['\\def\\a{\\a\\a}\\a', `${'{'.repeat(1000)}x${'}'.repeat(999)}`, '\\frac'.repeat(400), '\\left('.repeat(300), `\\begin{matrix}${'&'.repeat(1900)}\\end{matrix}`]) formula(tex, true);
  for (const text of ['\\('.repeat(20_000), '$'.repeat(20_000), '$$ '.repeat(10_000), '\\['.repeat(20_000), '$a '.repeat(10_000)]) read(text);
  // Of a machine that does much else besides.
  assert.ok(performance.now() - began < 20_000, `${performance.now() - began} ms`);
});
