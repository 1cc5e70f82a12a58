// What can be set, what is usual, and how settings that were kept are read: nothing in them is believed.
import type { Privacy } from '../door/shapes';

/** The settings of the page. */
export interface Settings {
  theme: 'system' | 'light' | 'dark';
  contrast: 'system' | 'usual' | 'more';
  language: 'system' | 'en' | 'de' | 'zh' | 'ar';
  /** Size of text, as a share of the browser's. */
  size: number;
  enterSends: boolean;
  mode: string;
  /** The model that is asked; empty for the one that the machine serves. */
  model: string;
  privacy: Privacy;
  temperature: number;
  /** `null`: another one for every answer. */
  seed: number | null;
  tokensMax: number;
  /** What new chats tell the model first. */
  system: string;
  /** Bytes a second of the last download, for an honest guess at the next; `null` before the first. */
  rate: number | null;
}

const USUAL: Settings = {
  theme: 'system',
  contrast: 'system',
  language: 'system',
  size: 1,
  enterSends: true,
  mode: 'auto',
  model: '',
  privacy: 'policy',
  temperature: 0.7,
  seed: null,
  tokensMax: 512,
  system: '',
  rate: null,
};

/** Takes from `kept` what is of the right kind; everything else is as usual. */
export function refine(kept: unknown): Settings {
  const settings = { ...USUAL };
  if (typeof kept !== 'object' || kept === null) return settings;
  const raw = kept as Record<string, unknown>;
  const among = <T>(value: unknown, all: readonly T[], usual: T): T => (all.includes(value as T) ? (value as T) : usual);
  const within = (value: unknown, least: number, most: number, usual: number): number =>
    typeof value === 'number' && value >= least && value <= most ? value : usual;
  settings.theme = among(raw.theme, ['system', 'light', 'dark'], USUAL.theme);
  settings.contrast = among(raw.contrast, ['system', 'usual', 'more'], USUAL.contrast);
  settings.language = among(raw.language, ['system', 'en', 'de', 'zh', 'ar'], USUAL.language);
  settings.privacy = among(raw.privacy, ['nothing', 'own', 'policy'], USUAL.privacy);
  settings.size = within(raw.size, 0.8, 1.6, USUAL.size);
  settings.temperature = within(raw.temperature, 0, 2, USUAL.temperature);
  settings.tokensMax = Math.round(within(raw.tokensMax, 1, 1 << 20, USUAL.tokensMax));
  settings.seed = typeof raw.seed === 'number' && Number.isSafeInteger(raw.seed) && raw.seed >= 0 ? raw.seed : null;
  if (typeof raw.enterSends === 'boolean') settings.enterSends = raw.enterSends;
  if (typeof raw.mode === 'string') settings.mode = raw.mode;
  if (typeof raw.model === 'string') settings.model = raw.model;
  if (typeof raw.rate === 'number' && raw.rate > 0 && Number.isFinite(raw.rate)) settings.rate = raw.rate;
  if (typeof raw.system === 'string') settings.system = raw.system;
  return settings;
}
