// Light, contrast and size of text, as the settings or the system ask for them.
import { settings } from './settings.svelte';

/** Whether the system asks for what `query` names, now and from now on. */
class Asked {
  now = $state(false);

  constructor(query: string) {
    const list = matchMedia(query);
    this.now = list.matches;
    list.addEventListener('change', () => (this.now = list.matches));
  }
}

/** Keeps the page's look as it is wished. Called once, by the page. */
export function follow(): void {
  const dark = new Asked('(prefers-color-scheme: dark)');
  const more = new Asked('(prefers-contrast: more)');
  const root = document.documentElement;
  $effect.pre(() => {
    root.dataset.theme = settings.theme === 'system' ? (dark.now ? 'dark' : 'light') : settings.theme;
    root.dataset.contrast = settings.contrast === 'system' ? (more.now ? 'more' : 'usual') : settings.contrast;
    root.style.setProperty('--scale', String(settings.size));
  });
}
