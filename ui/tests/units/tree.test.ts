import assert from 'node:assert/strict';
import test from 'node:test';
import { apart, guarded, messages, read, title, Tree, whole, type Turn } from '../../src/talk/tree';

const turn = (id: string, parent: string | null, at: number, more: Partial<Turn> = {}): Turn => ({
  id, parent, at, role: id.startsWith('q') ? 'user' : 'assistant', content: `words of ${id}`, state: 'whole', ...more,
});
const grown = (): Tree =>
  new Tree([turn('q1', null, 1), turn('a1', 'q1', 2), turn('q2', 'a1', 3), turn('a2', 'q2', 4), turn('a3', 'q2', 5), turn('q4', null, 6)]);
const ids = (turns: Turn[]): string => turns.map(({ id }) => id).join(' ');

test('a branch is the path from the root to its leaf', () => {
  const tree = grown();
  assert.equal(ids(tree.path('a2')), 'q1 a1 q2 a2');
  assert.equal(ids(tree.path('q4')), 'q4');
  assert.equal(ids(tree.path('nobody')), '');
});

test('a branch is turned to at its newest leaf', () => {
  const tree = grown();
  assert.deepEqual(tree.siblings('a2'), ['a2', 'a3']);
  assert.deepEqual(tree.siblings('q1'), ['q1', 'q4']);
  assert.equal(tree.tip('q1'), 'a3');
});

test('what is kept comes back as it was, whichever branch is shown', () => {
  for (const leaf of ['a2', 'a3', 'q4', null]) {
    const kept = JSON.parse(JSON.stringify(grown().kept('be brief', { level: 'secret', words: ['salaries'] }, leaf)));
    const back = read(kept);
    assert.ok(back);
    assert.equal(back.system, 'be brief');
    assert.equal(back.leaf, leaf);
    assert.deepEqual([...back.tree.turns.values()], [...grown().turns.values()]);
  }
});

test('what is no conversation is refused, and a turn that hangs on nothing is left out', () => {
  for (const bad of [null, 7, 'x', [], {}, { messages: 3 }]) assert.equal(read(bad), undefined);
  const back = read({ messages: [turn('q1', null, 1), turn('a9', 'gone', 2), { role: 'user' }, null], others: 'none' });
  assert.equal(ids([...(back?.tree.turns.values() ?? [])]), 'q1');
});

test('a ring of parents ends', () => {
  const back = read({ messages: [turn('q1', 'a1', 1), turn('a1', 'q1', 2)] });
  assert.equal(back?.tree.turns.size, 0);
});

test('an answer that was under way when the page was closed has ended', () => {
  assert.equal(read({ messages: [turn('q1', null, 1), turn('a1', 'q1', 2, { state: 'streaming' })] })?.tree.turns.get('a1')?.state, 'stopped');
});

test('the model is given the branch, the system prompt first, and no answer that failed before its first word', () => {
  const path = [turn('q1', null, 1), turn('a1', 'q1', 2, { state: 'failed', content: '' }), turn('q2', 'a1', 3)];
  assert.deepEqual(messages(' brief ', path).map(({ role, content }) => `${role}: ${content}`), ['system: brief', 'user: words of q1', 'user: words of q2']);
});

test('in mode preprocess the files of the question go beside it, and those of earlier ones as before', () => {
  const attachments = [{ name: 'a.md', content: 'x' }];
  const path = [turn('q1', null, 1, { attachments }), turn('a1', 'q1', 2), turn('q2', 'a1', 3, { attachments })];
  assert.equal(apart('preprocess', path), path[2]);
  assert.equal(apart('layered', path), undefined);
  assert.equal(apart('preprocess', path.slice(0, 2)), undefined);
  const told = messages('', path, path[2]).map(({ content }) => content);
  assert.match(told[0] ?? '', /a\.md/);
  assert.equal(told[2], 'words of q2');
});

test('a file stands between fences that it does not contain', () => {
  const text = whole({ content: 'Why?', attachments: [{ name: 'a.md', content: 'x\n````\ny' }] });
  assert.equal(text, 'a.md\n`````\nx\n````\ny\n`````\n\nWhy?');
});

test('a chat is called by the first line of its question', () => {
  assert.equal(title('  Why?\nBecause.'), 'Why?');
  assert.equal(title('x'.repeat(80)).length, 58);
});

test('what stands on a private shelf makes the whole conversation private', () => {
  const excerpts = (label: string): Partial<Turn> => ({ excerpts: { text: 'excerpts and question', citations: [], label: label as 'own' } });
  const path = [turn('q1', null, 1, excerpts('own')), turn('a1', 'q1', 2), turn('q2', 'a1', 3)];
  assert.equal(guarded('policy', path), 'own');
  assert.equal(guarded('nothing', path), 'nothing');
  assert.equal(guarded('policy', [...path, turn('q3', 'q2', 4, excerpts('nothing'))]), 'nothing');
  assert.equal(guarded('policy', [turn('q1', null, 1, excerpts('whatever'))]), 'nothing', 'a label that is none is the strictest');
  assert.equal(guarded('policy', [turn('q1', null, 1)]), 'policy');
});

test('excerpts hold the question', () => {
  const [, told] = messages('be brief', [turn('q1', null, 1, { excerpts: { text: 'excerpts and question', citations: [], label: 'own' } })]);
  assert.equal(told?.content, 'excerpts and question');
});
