// Builds the page again and demands that `dist`, which is part of the tree, is that build to the last byte.
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'vite';

const root = fileURLToPath(new URL('..', import.meta.url));
const dist = join(root, 'dist');
const fresh = mkdtempSync(join(tmpdir(), 'heph-dist-'));

const files = (folder) =>
  readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1))
    .sort();

process.chdir(root);
await build({ logLevel: 'error', build: { outDir: fresh, emptyOutDir: true } });
const names = [...new Set([...files(dist), ...files(fresh)])];
const differ = names.filter((name) => {
  try {
    return !readFileSync(join(dist, name)).equals(readFileSync(join(fresh, name)));
  } catch {
    return true;
  }
});
rmSync(fresh, { recursive: true });
if (differ.length > 0) {
  console.error(`ui/dist is not what ui/src makes; run "npm --prefix ui run build". Different: ${differ.join(', ')}`);
  process.exit(1);
}
console.log(`${names.length} files are as built`);
