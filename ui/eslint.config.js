import svelte from 'eslint-plugin-svelte';
import ts from 'typescript-eslint';
import svelteConfig from './svelte.config.js';

export default ts.config(
  { ignores: ['dist/', 'node_modules/', 'shots/', '.units/', '.planted/'] },
  ...ts.configs.strict,
  ...svelte.configs.recommended,
  {
    files: ['**/*.svelte', '**/*.svelte.ts'],
    languageOptions: { parserOptions: { parser: ts.parser, svelteConfig } },
  },
  {
    rules: {
      eqeqeq: 'error',
      'no-console': 'error',
      '@typescript-eslint/no-explicit-any': 'error',
      // What is shown where is decided by `location.hash`; there is no router whose paths could be resolved.
      'svelte/no-navigation-without-resolve': 'off',
    },
  },
  { files: ['tests/**/*.js'], rules: { 'no-console': 'off' } },
);
