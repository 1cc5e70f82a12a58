// What a person set for this page, kept by the browser. What belongs to the machine (models, policy) is not here.
import { refine, type Settings } from './refine';

export type { Settings };

const PLACE = 'heph.settings';

function kept(): unknown {
  try {
    return JSON.parse(localStorage.getItem(PLACE) ?? 'null');
  } catch {
    return null;
  }
}

export const settings: Settings = $state(refine(kept()));

/** Keeps the settings whenever they change. Called once, by the page. */
export function keepSettings(): void {
  $effect(() => localStorage.setItem(PLACE, JSON.stringify(settings)));
}
