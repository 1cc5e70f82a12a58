// The policy of this machine as it stands: its preset, and whether everything is cut off. Other programs change it too.
import * as door from '../door/door';
import type { Preset, Standing } from '../door/shapes';
import { desktop } from './desktop.svelte';
import { machine } from './machine.svelte';

/** Milliseconds between two looks. */
const PAUSE = 3000;

class Policy {
  stands = $state.raw<Standing | null>(null);
  busy = $state(false);
  /** Why the last change did not come about. */
  failed = $state<string | null>(null);
  #changes = 0;

  /** Looks anew. */
  async look(): Promise<void> {
    const before = this.#changes;
    try {
      const stands = await door.policy();
      // What was asked before a change says nothing of what is after it.
      if (before === this.#changes) this.stands = stands;
    } catch {
      // The banner of a lost door says enough.
    }
  }

  /** Cuts everything off, or ends that. */
  cut(yes: boolean): Promise<void> {
    return this.#change({ cut: yes });
  }

  /** Makes `preset` the preset of the policy. */
  choose(preset: Preset): Promise<void> {
    return this.#change({ preset });
  }

  async #change(change: { cut?: boolean; preset?: Preset }): Promise<void> {
    if (this.busy) return;
    [this.busy, this.failed] = [true, null];
    this.#changes += 1;
    try {
      this.stands = await door.changePolicy(change);
    } catch (error) {
      this.failed = error instanceof door.Refused ? error.message : '';
    }
    this.#changes += 1;
    this.busy = false;
    // The window shows it in its tray and its menu.
    if (change.cut !== undefined) desktop.do('look_again');
  }

  /** Looks now and then. Called once, by the page. */
  watch(): void {
    $effect(() => {
      if (machine.link !== 'open') return undefined;
      void this.look();
      const timer = setInterval(() => {
        if (!document.hidden && !this.busy) void this.look();
      }, PAUSE);
      return () => clearInterval(timer);
    });
  }
}

export const policy = new Policy();
