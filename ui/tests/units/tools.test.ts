import assert from 'node:assert/strict';
import test from 'node:test';
import { added, far, stepped, usable } from '../../src/talk/tools';
import { messages, type Turn } from '../../src/talk/tree';

test('a call that comes in pieces is whole at the end', () => {
  const pieces = [
    [{ index: 0, id: 'a', type: 'function', function: { name: 'read', arguments: '' } }],
    [{ index: 0, function: { arguments: '{"path":' } }, { index: 1, id: 'b', function: { name: 'rm', arguments: '{}' } }],
    [{ index: 0, function: { arguments: '"x"}' } }],
  ];
  const calls = pieces.reduce(added, []);
  assert.deepEqual(calls, [
    { id: 'a', type: 'function', function: { name: 'read', arguments: '{"path":"x"}' } },
    { id: 'b', type: 'function', function: { name: 'rm', arguments: '{}' } },
  ]);
});

test('what became of a call stands where it began, with what it was told', () => {
  const call = { id: 'a', server: 's', tool: 't' };
  const steps = [{ ...call, state: 'called', arguments: { n: 1 } }, { ...call, id: 'b', state: 'called' }, { ...call, state: 'done', result: 'x' }].reduce(stepped, []);
  assert.deepEqual(steps.map(({ id, state }) => `${id} ${state}`), ['a done', 'b called']);
  assert.deepEqual(steps[0]?.arguments, { n: 1 });
});

test('how far a step is stands there while it is at work and no longer', () => {
  const step = { id: 'a', server: 's', tool: 't', state: 'called' };
  assert.deepEqual([step, { ...step, progress: 1 }, { ...step, progress: 1, total: 4 }, { ...step, progress: 1, message: 'reads' }].map(far), [undefined, '1', '1 / 4', 'reads']);
  assert.equal(far({ ...step, state: 'done', progress: 4 }), undefined);
});

test('no tool is offered where nothing may leave', () => {
  assert.deepEqual(usable(['files'], 'nothing'), []);
  assert.deepEqual(usable(['files'], 'own'), ['files']);
});

test('an answer that only waits for a word is not told to the model', () => {
  const waiting = [{ id: 'a', server: 's', tool: 't' }];
  const turn = (content: string): Turn => ({ id: 'a1', parent: null, at: 1, role: 'assistant', state: 'whole', content, waiting });
  assert.deepEqual(messages('', [turn('')]), []);
  assert.equal(messages('', [turn('So:')]).length, 1);
});
