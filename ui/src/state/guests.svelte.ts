// Pages and extensions of other origins: who asks to come in, and who was let in.
import * as door from '../door/door';
import type { Guests } from '../door/shapes';
import { machine } from './machine.svelte';

/** Milliseconds between two looks: a person who has just pressed a button elsewhere is waiting. */
const PAUSE = 4000;

class Callers {
  all = $state.raw<Guests>({ requests: [], pairings: [] });

  /** Who waits for the person's word. */
  get asking(): Guests['requests'] {
    return this.all.requests.filter((request) => !request.approved);
  }

  /** Looks anew. */
  async look(): Promise<void> {
    try {
      this.all = await door.guests();
    } catch {
      // The banner of a lost door says enough.
    }
  }

  /** Looks now and then. Called once, by the page. */
  watch(): void {
    $effect(() => {
      if (machine.link !== 'open') return undefined;
      void this.look();
      const timer = setInterval(() => {
        if (!document.hidden) void this.look();
      }, PAUSE);
      return () => clearInterval(timer);
    });
  }
}

export const guests = new Callers();
