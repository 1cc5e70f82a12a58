// Which of the excerpts that went with a question its answer names.
import type { Citation } from '../door/shapes';

/** The citations that `text` names by their numbers, as [2] or [1, 3]; in the order of their numbers. Code names none. */
export function named(text: string, citations: readonly Citation[]): Citation[] {
  const prose = text.replace(/```[^]*?(?:```|$)|`[^`\n]*`/g, ' ');
  const numbers = new Set([...prose.matchAll(/\[(\d{1,3}(?:\s*[,;–-]\s*\d{1,3})*)\]/g)].flatMap(([, list = '']) => list.split(/\D+/).map(Number)));
  return citations.filter((citation) => numbers.has(citation.number));
}
