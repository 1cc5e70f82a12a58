// Colours for code. Loaded when the first code is shown: a chat without code never pays for it.
import hljs from 'highlight.js/lib/core';
import bash from 'highlight.js/lib/languages/bash';
import c from 'highlight.js/lib/languages/c';
import cpp from 'highlight.js/lib/languages/cpp';
import css from 'highlight.js/lib/languages/css';
import diff from 'highlight.js/lib/languages/diff';
import go from 'highlight.js/lib/languages/go';
import ini from 'highlight.js/lib/languages/ini';
import java from 'highlight.js/lib/languages/java';
import javascript from 'highlight.js/lib/languages/javascript';
import json from 'highlight.js/lib/languages/json';
import python from 'highlight.js/lib/languages/python';
import rust from 'highlight.js/lib/languages/rust';
import sql from 'highlight.js/lib/languages/sql';
import typescript from 'highlight.js/lib/languages/typescript';
import xml from 'highlight.js/lib/languages/xml';
import yaml from 'highlight.js/lib/languages/yaml';

const languages = {
  bash, c, cpp, css, diff, go, ini, java, javascript, json, python, rust, sql, typescript, xml, yaml,
};
for (const [name, language] of Object.entries(languages)) hljs.registerLanguage(name, language);

/** So many letters have colours, and what follows them is plain: more would hold the page up. */
const LENGTH_MAX = 40_000;

/** The lines of `code` from its first on that have colours, and the same as HTML with classes. */
export interface Coloured {
  code: string;
  html: string;
}

/** Colours `code`, or `undefined` where the language is not known. What was coloured `before` is given back where it is the same. */
export function colour(code: string, language: string, before: Coloured | null): Coloured | undefined {
  if (!hljs.getLanguage(language)) return undefined;
  const lines = code.length > LENGTH_MAX ? code.slice(0, code.lastIndexOf('\n', LENGTH_MAX) + 1) : code;
  if (before?.code === lines) return before;
  return { code: lines, html: hljs.highlight(lines, { language, ignoreIllegals: true }).value };
}
