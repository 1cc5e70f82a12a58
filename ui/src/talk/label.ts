// How private a conversation is, as the person says: a level and words, which rules of the policy know.

/** Levels, the least private first. */
export const LEVELS = ['public', 'internal', 'private', 'secret'] as const;

export type Level = (typeof LEVELS)[number];

/** Words of one conversation; the door takes 64 and the level is one. */
export const WORDS_MAX = 32;

/** Characters of a word. */
const WORD_MAX = 60;

/** What the person says of a conversation. Nothing is said where there is neither. */
export interface Label {
  level: Level | null;
  words: string[];
}

export const UNSAID: Label = { level: null, words: [] };

/** `text` in words, as people part them. */
export function wordsOf(text: string): string[] {
  const words = text.split(/[,;\n،；，]/).map((word) => word.trim().slice(0, WORD_MAX));
  return [...new Set(words.filter((word) => word !== ''))].slice(0, WORDS_MAX);
}

/** What was kept. A level that is none counts as the most private: something was said, and nobody can tell what. */
export function readLabel(kept: unknown): Label {
  if (typeof kept !== 'object' || kept === null) return UNSAID;
  const { level, words } = kept as Record<string, unknown>;
  const known = LEVELS.find((each) => each === level) ?? (level === null || level === undefined ? null : 'secret');
  const said = Array.isArray(words) ? words.filter((word): word is string => typeof word === 'string') : [];
  return { level: known, words: wordsOf(said.join(',')) };
}

/** As the door takes it. */
export function labelsOf({ level, words }: Label): string[] {
  return level === null ? [...words] : [level, ...words];
}
