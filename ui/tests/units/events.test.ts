import assert from 'node:assert/strict';
import test from 'node:test';
import { EventReader } from '../../src/door/events';

const BODY = ': hello\nid: s:1\ndata: {"a":\ndata: 1}\n\nid: s:2\r\ndata:two\r\n\r\ndata: [DONE]\n\nevent: x\n\n';
const EVENTS = [
  { id: 's:1', data: '{"a":\n1}' },
  { id: 's:2', data: 'two' },
  { id: 's:2', data: '[DONE]' },
];

test('events are the same however the body is cut', () => {
  for (let size = 1; size <= BODY.length; size += 1) {
    const reader = new EventReader();
    const events = [];
    for (let at = 0; at < BODY.length; at += size) events.push(...reader.push(BODY.slice(at, at + size)));
    assert.deepEqual(events, EVENTS, `in pieces of ${size}`);
  }
});

test('half an event is none', () => {
  const reader = new EventReader();
  assert.deepEqual(reader.push('data: ha'), []);
  assert.deepEqual(reader.push('lf\n'), []);
  assert.deepEqual(reader.push('\n'), [{ id: '', data: 'half' }]);
});

test('a body without end is refused', () => {
  const reader = new EventReader();
  const piece = 'x'.repeat(1 << 20);
  assert.throws(() => {
    for (let i = 0; i < 5; i += 1) reader.push(piece);
  }, /longer/);
});
