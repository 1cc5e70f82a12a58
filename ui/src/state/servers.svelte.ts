// The person's servers of tools, and which of them the next answer may use.
import * as door from '../door/door';
import type { Server } from '../door/shapes';

class Servers {
  all = $state.raw<Server[]>([]);
  /** Names of those that may be used. Nobody is chosen until the person says so. */
  chosen = $state.raw<string[]>([]);

  /** Looks anew. One that is gone is chosen no longer. */
  async look(): Promise<void> {
    try {
      this.all = await door.servers();
      this.chosen = this.chosen.filter((name) => this.all.some((server) => server.name === name));
    } catch {
      // Without a list there is nothing to choose from.
    }
  }

  choose(name: string, yes: boolean): void {
    this.chosen = yes ? [...this.chosen.filter((other) => other !== name), name] : this.chosen.filter((other) => other !== name);
  }
}

export const servers = new Servers();
