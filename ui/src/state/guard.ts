// What may leave, in one word: of the policy, of what this page asks for, and of the mode, the strictest.
import type { Preset, Privacy, Standing } from '../door/shapes';

/** What the shield shows, the strictest first. `ruled`: rules of the person's own say more than the preset, and
 *  may let out more; `unknown`: the machine has not said yet. */
export type Guard = 'cut' | 'local-only' | 'own-devices' | 'redact-then-remote' | 'open' | 'ruled' | 'unknown';

/** Presets of the policy, the strictest first. */
export const PRESETS: readonly Preset[] = ['local-only', 'own-devices', 'redact-then-remote', 'open'];

/** What of the next question may leave. A preset that is none of those known counts as the strictest: nobody can say what it
 *  lets out, and the door lets nothing out that it cannot read. */
export function guardOf(stands: Standing | null, mode: string, privacy: Privacy): Guard {
  if (stands?.cut) return 'cut';
  if (mode === 'local' || privacy === 'nothing') return 'local-only';
  if (stands === null) return privacy === 'own' ? 'own-devices' : 'unknown';
  if (privacy === 'policy' && stands.by !== 'unread' && (stands.rules > 0 || stands.providers.length > 0)) return 'ruled';
  const most = privacy === 'own' ? 1 : PRESETS.length - 1;
  return PRESETS[Math.max(0, Math.min(PRESETS.indexOf(stands.preset), most))] as Preset;
}

/** Whether `to` lets more out than `from`. */
export function looser(from: Preset, to: Preset): boolean {
  return PRESETS.indexOf(to) > PRESETS.indexOf(from);
}
