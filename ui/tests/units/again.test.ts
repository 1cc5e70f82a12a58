import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Again, repeats } from '../../src/talk/again';

test('of an answer that is made again only the new words are taken, however it is cut', () => {
  const whole = 'Once upon a time 🦊 there was a fox.';
  for (let known = 0; known <= whole.length; known += 1) {
    for (const size of [1, 2, 3, 7, 100]) {
      const again = new Again(whole.slice(0, known));
      let got = '';
      for (let at = 0; at < whole.length; at += size) got += again.take(whole.slice(at, at + size)) ?? '!';
      assert.equal(got, whole.slice(known));
      assert.ok(again.whole);
    }
  }
});

test('another answer is no continuation', () => {
  assert.equal(new Again('Once upon').take('Once there'), null);
  assert.equal(new Again('Once').take('Twice'), null);
  const short = new Again('Once upon');
  assert.equal(short.take('Once'), '');
  assert.ok(!short.whole);
});

test('what costs or acts is not made again', () => {
  assert.ok(repeats({ model: 'heph-story', servers: [] }));
  assert.ok(!repeats({ model: 'heph-story', servers: ['files'] }));
  assert.ok(!repeats({ model: 'far/large', servers: [] }));
});
