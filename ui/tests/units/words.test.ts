// Every language says everything that English does, in words of its own.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ar } from '../../src/words/ar';
import { de } from '../../src/words/de';
import { en } from '../../src/words/en';
import { zh } from '../../src/words/zh';

/** What is the same word in German, or no word at all. */
const SAME = new Set(['tag', 'direction', 'examples.0', 'examples.1', 'examples.2', 'model', 'modes.auto', 'themes.system', 'state', 'plainCode', 'threads', 'repository', 'memory', 'temperature', 'format', 'region', 'nodes', 'models', 'chat', 'version', 'machine']);

function each(words: object, path = ''): [string, unknown][] {
  return Object.entries(words).flatMap(([key, value]) => (typeof value === 'object' && value !== null ? each(value, `${path}${key}.`) : [[path + key, value] as [string, unknown]]));
}

const PUT = ['α', 'β', 'γ'];
const said = (value: unknown): string => (typeof value === 'function' ? String(value(...PUT)) : String(value));

for (const [name, words] of Object.entries({ de, zh, ar })) {
  test(`${name} has each word of English, and no other`, () => {
    const [theirs, ours] = [new Map(each(words)), new Map(each(en))];
    assert.deepEqual([...theirs.keys()].sort(), [...ours.keys()].sort());
    for (const [key, value] of ours) {
      const [word, english] = [said(theirs.get(key)), said(value)];
      assert.equal(typeof theirs.get(key), typeof value, key);
      assert.ok(word.trim() !== '' && !/undefined|\[object/.test(word), `${key}: ${word}`);
      assert.ok(word !== english || SAME.has(key), `${key} is still English: ${word}`);
      // What is put into a sentence stands in it in every language.
      for (const put of PUT) assert.equal(word.includes(put), english.includes(put), `${key} leaves something out, or adds it: ${word}`);
    }
  });
}
