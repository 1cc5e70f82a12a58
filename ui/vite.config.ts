import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vite';

/** Where `heph serve` listens while the page is being worked on. */
const DOOR = process.env.HEPH_DOOR ?? 'http://127.0.0.1:11500';

/**
 * The page is built into `dist`, which is part of the tree: a fresh clone has no Node. Paths are relative, so that it
 * can stand below any address; nothing is inlined, so that the strictest content policy holds.
 */
export default defineConfig({
  base: './',
  plugins: [svelte()],
  build: {
    target: 'es2022',
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
    // All that the first frame needs comes as one script and one sheet of styles: each request is work of three processes.
    rolldownOptions: { output: { codeSplitting: { groups: [{ name: 'first', tags: ['$initial'] }] } } },
  },
  server: {
    proxy: Object.fromEntries(['/v1', '/heph', '/api', '/health'].map((path) => [path, { target: DOOR }])),
  },
});
