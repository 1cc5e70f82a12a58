// What the machine that serves this page says of itself, asked again while the page is looked at.
import * as door from '../door/door';
import type { Model, Status } from '../door/shapes';

/** Milliseconds between two questions. */
const PAUSE = 10_000;

class Machine {
  status = $state.raw<Status | null>(null);
  models = $state.raw<Model[]>([]);
  /** `locked`: it wants its token; `lost`: it does not answer. */
  link = $state<'asking' | 'open' | 'locked' | 'lost'>('asking');

  /** Asks anew. */
  async ask(): Promise<void> {
    try {
      this.status = await door.status();
      this.models = await door.models();
      this.link = 'open';
    } catch (error) {
      this.link = error instanceof door.Refused && error.status === 401 ? 'locked' : 'lost';
    }
  }

  /** Asks now and then. Called once, by the page. */
  watch(): void {
    $effect(() => {
      void this.ask();
      const timer = setInterval(() => {
        if (!document.hidden) void this.ask();
      }, PAUSE);
      return () => clearInterval(timer);
    });
  }

  /** Whether `mode` can be asked for now. */
  offers(mode: string): boolean {
    return this.status === null || this.status.modes.includes(mode);
  }
}

export const machine = new Machine();
