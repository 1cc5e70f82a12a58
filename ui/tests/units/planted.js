// Plants bugs in the page's guards, one at a time, and demands that the unit tests notice each.
import { spawnSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { buildUnits } from './build.js';

// name | file | what stands there once | the wrong form
const TABLE = [
  ['pictures of an answer are fetched', 'text/blocks.ts', 'return `<a href="${escape(href)}">${escape(text || href)}</a>`;', 'return `<img src="${escape(href)}">`;'],
  ['HTML of an answer is obeyed', 'text/blocks.ts', 'return escape(text);\n    },\n    checkbox', 'return text;\n    },\n    checkbox'],
  ['what is shown was not cleaned', 'text/blocks.ts', 'this.#clean(marked.parser([token]))', 'marked.parser([token])'],
  ['a privacy that is none is believed', 'state/refine.ts', "among(raw.privacy, ['nothing', 'own', 'policy'], USUAL.privacy)", 'raw.privacy as Settings["privacy"]'],
  ['an event without end is read', 'door/events.ts', 'this.#rest.length > LENGTH_MAX', 'false'],
  ['bytes that are no text are sent', 'text/files.ts', '{ fatal: true }', '{ fatal: false }'],
  ['a machine that was sent something is not told', 'parts/picture.ts', 'gather([...seen, ...silent])', 'gather(seen)'],
  ['a machine saw less than it did', 'parts/picture.ts', 'known.sight = sight', 'known.sight = known.sight'],
  ['a private folder leaves', 'talk/tree.ts', 'Math.min(...strict)', 'Math.max(...strict)'],
  ['a label that is none lets leave', 'talk/tree.ts', 'Math.max(0, STRICT.indexOf(label))', '(STRICT.indexOf(label) + 3) % 3'],
  ['a file ends its own fence', 'talk/tree.ts', "'`'.repeat(longest + 1)", "'```'"],
];

let missed = 0;
for (const [name, file, right, wrong] of TABLE) {
  let planted = 0;
  const plugin = {
    name: 'planted',
    enforce: 'pre',
    transform(code, id) {
      if (!id.endsWith(`/src/${file}`)) return undefined;
      if (code.split(right).length !== 2) throw new Error(`${name}: ${file} does not have it once`);
      planted += 1;
      return code.replace(right, () => wrong);
    },
  };
  const { out, files } = await buildUnits('.planted', [plugin]);
  const noticed = planted > 0 && spawnSync(process.execPath, ['--test', ...files], { timeout: 60_000 }).status !== 0;
  rmSync(out, { recursive: true, force: true });
  missed += Number(!noticed);
  console.log(`${noticed ? 'noticed' : 'MISSED '}  ${name}`);
}
console.log(`${TABLE.length - missed} passed, ${missed} failed`);
process.exit(missed > 0 ? 1 : 0);
