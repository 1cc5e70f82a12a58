// Builds the unit tests for Node.
import { readdirSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { build } from 'vite';

const here = fileURLToPath(new URL('.', import.meta.url));

/** Builds every test of this folder into `folder` of the page, with `plugins`. */
export async function buildUnits(folder, plugins = []) {
  const out = fileURLToPath(new URL(`../../${folder}/`, import.meta.url));
  const tests = readdirSync(here).filter((name) => name.endsWith('.test.ts'));
  rmSync(out, { recursive: true, force: true });
  await build({
    configFile: false,
    logLevel: 'warn',
    plugins,
    ssr: { noExternal: true },
    build: { ssr: true, outDir: out, target: 'node20', minify: false, rolldownOptions: { input: tests.map((name) => here + name) } },
  });
  return { out, files: readdirSync(out).filter((name) => name.endsWith('.test.js')).map((name) => out + name) };
}
