// Builds the unit tests and runs them in Node: the parts of the page that need no page.
import { spawnSync } from 'node:child_process';
import { readdirSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { build } from 'vite';

const here = fileURLToPath(new URL('.', import.meta.url));
const out = fileURLToPath(new URL('../../.units/', import.meta.url));
const tests = readdirSync(here).filter((name) => name.endsWith('.test.ts'));

rmSync(out, { recursive: true, force: true });
await build({
  configFile: false,
  logLevel: 'warn',
  ssr: { noExternal: true },
  build: { ssr: true, outDir: out, target: 'node20', minify: false, rolldownOptions: { input: tests.map((name) => here + name) } },
});
const files = readdirSync(out).filter((name) => name.endsWith('.test.js')).map((name) => out + name);
process.exit(spawnSync(process.execPath, ['--test', ...files], { stdio: 'inherit' }).status ?? 1);
