// The language that the page speaks. English is always there; the others are loaded when they are wanted.
import { Amounts } from '../text/amounts';
import { settings, type Settings } from '../state/settings.svelte';
import { en, type Words } from './en';
import { spoken } from './spoken';

/** Languages by the names that they have for themselves. */
export const LANGUAGES: [Exclude<Settings['language'], 'system'>, string][] = [
  ['en', 'English'],
  ['de', 'Deutsch'],
  ['zh', '中文'],
  ['ar', 'العربية'],
];

const LOAD: Record<string, () => Promise<Words>> = {
  en: async () => en,
  de: async () => (await import('./de')).de,
  zh: async () => (await import('./zh')).zh,
  ar: async () => (await import('./ar')).ar,
};

class Tongue {
  say = $state.raw<Words>(en);
  readonly amounts = $derived(new Amounts(this.say.tag));

  /** Speaks what the settings ask for, or what the browser does. Called once, by the page. */
  follow(): void {
    $effect(() => {
      const wanted = settings.language === 'system' ? spoken(navigator.languages, Object.keys(LOAD)) : settings.language;
      let late = false;
      void LOAD[wanted]?.().then((words) => {
        if (late) return;
        this.say = words;
        document.documentElement.lang = words.tag;
        document.documentElement.dir = words.direction;
      });
      return () => {
        late = true;
      };
    });
  }
}

export const tongue = new Tongue();
