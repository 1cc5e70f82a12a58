// What an answer says of tools, put together as it comes.
import type { Call, Privacy, ToolStep } from '../door/shapes';

/** `steps` with `step` in the place of what was known of the same call. */
export function stepped(steps: readonly ToolStep[], step: ToolStep): ToolStep[] {
  const at = steps.findIndex((known) => known.id === step.id);
  return at < 0 ? [...steps, step] : steps.map((known, i) => (i === at ? { ...known, ...step } : known));
}

/** How far a step is while it is at work, as its server says it; nothing where it does not. */
export function far({ state, progress, total, message }: ToolStep): string | undefined {
  if (state !== 'called' || progress === undefined) return undefined;
  return message ?? (total === undefined ? String(progress) : `${progress} / ${total}`);
}

/** `calls` with what a chunk adds to them. */
export function added(calls: readonly Call[], pieces: readonly Call[]): Call[] {
  const all = [...calls];
  for (const { index = 0, ...piece } of pieces) {
    const { id, type, function: made } = all[index] ?? {};
    const name = piece.function?.name ?? made?.name ?? '';
    const text = (made?.arguments ?? '') + (piece.function?.arguments ?? '');
    all[index] = { id: piece.id ?? id ?? '', type: piece.type ?? type ?? 'function', function: { name, arguments: text } };
  }
  return all;
}

/** The servers whose tools may be used under a label: none where nothing may leave, since nobody knows what a tool does with
 *  what it is told. */
export function usable(servers: readonly string[], privacy: Privacy): string[] {
  return privacy === 'nothing' ? [] : [...servers];
}
