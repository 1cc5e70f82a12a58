// Plants bugs in the page's guards, one at a time, and demands that the unit tests notice each.
import { spawnSync } from 'node:child_process';
import { readFileSync, rmSync } from 'node:fs';
import { basename } from 'node:path';
import { buildUnits } from './build.js';

// name | file | what stands there once | the wrong form
const TABLE = [
  ['pictures of an answer are fetched', 'text/blocks.ts', 'return `<a href="${escape(href)}">${escape(text || href)}</a>`;', 'return `<img src="${escape(href)}">`;'],
  ['HTML of an answer is obeyed', 'text/blocks.ts', 'return escape(text);\n      },\n      checkbox', 'return text;\n      },\n      checkbox'],
  ['what is shown was not cleaned', 'text/blocks.ts', 'this.#clean(this.#marked.parser([token]))', 'this.#marked.parser([token])'],
  ['a privacy that is none is believed', 'state/refine.ts', "among(raw.privacy, ['nothing', 'own', 'policy'], USUAL.privacy)", 'raw.privacy as Settings["privacy"]'],
  ['an event without end is read', 'door/events.ts', 'this.#rest.length > LENGTH_MAX', 'false'],
  ['bytes that are no text are sent', 'text/files.ts', '{ fatal: true }', '{ fatal: false }'],
  ['a file that cannot be read counts as an empty one', 'text/files.ts', "if (file.type === UNREAD) refused.push({ name: file.name, why: 'unread' });", "if (file.name === '') refused.push({ name: file.name, why: 'unread' });"],
  ['a machine that was sent something is not told', 'parts/picture.ts', 'gather([...seen, ...silent, ...tools])', 'gather([...seen, ...tools])'],
  ['a server of tools that was told something is not shown', 'parts/picture.ts', '...silent, ...tools]', '...silent]'],
  ['a machine saw less than it did', 'parts/picture.ts', 'known.sight = sight', 'known.sight = known.sight'],
  ['a private folder leaves', 'talk/tree.ts', 'Math.min(...strict)', 'Math.max(...strict)'],
  ['a label that is none lets leave', 'talk/tree.ts', 'Math.max(0, STRICT.indexOf(label))', '(STRICT.indexOf(label) + 3) % 3'],
  ['a cut is not shown', 'state/guard.ts', "if (stands?.cut) return 'cut';", ''],
  ['the shield forgets what the page asks for', 'state/guard.ts', "const most = privacy === 'own' ? 1 : PRESETS.length - 1;", 'const most = PRESETS.length - 1;'],
  ['a preset that nobody knows counts as open', 'state/guard.ts', 'PRESETS[Math.max(0, Math.min(PRESETS.indexOf(stands.preset), most))]', 'PRESETS.at(Math.min(PRESETS.indexOf(stands.preset), most))'],
  ['rules of the person are not seen', 'state/guard.ts', '(stands.rules > 0 || stands.providers.length > 0)', 'false'],
  ['a leave for a provider is not seen', 'state/guard.ts', ' || stands.providers.length > 0', ''],
  ['more is let out without a question', 'state/guard.ts', 'PRESETS.indexOf(to) > PRESETS.indexOf(from)', 'PRESETS.indexOf(to) > PRESETS.indexOf(from) + 1'],
  ['a label that is none says nothing', 'talk/label.ts', "? null : 'secret')", "? null : null)"],
  ['a label is not sent', 'talk/label.ts', 'level === null ? [...words] : [level, ...words]', '[...words]'],
  ['a label is not kept', 'talk/tree.ts', 'return { version: 1, system, label, messages: path, others };', 'return { version: 1, system, label: UNSAID, messages: path, others };'],
  ['a report names models', 'text/report.ts', 'model.bundled ? token(model.name) : null', 'token(model.name)'],
  ['a report tells whatever failed', 'text/report.ts', '.filter((line) => FAULT.test(line))', ''],
  ['a report tells strange words', 'text/report.ts', 'all.includes(value)', 'true'],
  ['a report tells what counts are of', 'text/report.ts', "!name.endsWith('_bucket')", 'true'],
  ['a fault tells what it was about', 'text/report.ts', "/^\\w{1,40}$/.test(error.name) ? error.name : 'Error'", 'true ? error.message : ""'],
  ['a tool hears what may not leave', 'talk/tools.ts', "privacy === 'nothing' ? [] : [...servers]", '[...servers]'],
  ['another answer is taken for a continuation', 'talk/again.ts', 'if (!piece.startsWith(known)) return null;', ''],
  ['words come twice after an engine was started anew', 'talk/again.ts', 'return piece.slice(known.length);', 'return piece;'],
  ['a provider is paid twice', 'talk/again.ts', " && !wish.model.includes('/')", ''],
  ['tools act twice', 'talk/again.ts', 'wish.servers.length === 0 && ', ''],
  ['formulas link and load', 'text/formulas.ts', 'trust: false', 'trust: true'],
  ['a formula without end holds the page up', 'text/formulas.ts', 'tex.length > LENGTH_MAX', 'false'],
  ['money is a formula', 'text/blocks.ts', '\\$(?![\\d$])/u, false]', '\\$/u, false]'],
  ['a bound that is no amount is taken', 'text/bounds.ts', 'bytes >= 1 && bytes <= BYTES_MAX ? bytes : undefined', 'Number.isNaN(bytes) ? null : bytes'],
  ['more than all cores are lent', 'text/bounds.ts', 'share >= 1 && share <= 100', 'share >= 1'],
  ['a file ends its own fence', 'talk/tree.ts', "'`'.repeat(longest + 1)", "'```'"],
];

/** The tests as they are built without a bug, by name: only those that a bug reaches can notice it. Parts that tests share have names after
 *  what is in them, so a test differs where such a part does. */
const sound = await buildUnits('.planted');
const texts = new Map(sound.files.map((file) => [basename(file), readFileSync(file, 'utf8')]));

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
  const reached = files.filter((file) => readFileSync(file, 'utf8') !== texts.get(basename(file)));
  const noticed = planted > 0 && reached.length > 0 && spawnSync(process.execPath, ['--test', ...reached], { timeout: 60_000 }).status !== 0;
  rmSync(out, { recursive: true, force: true });
  missed += Number(!noticed);
  console.log(`${noticed ? 'noticed' : 'MISSED '}  ${name}`);
}
console.log(`${TABLE.length - missed} passed, ${missed} failed`);
process.exit(missed > 0 ? 1 : 0);
