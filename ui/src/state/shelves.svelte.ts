// The folders that questions can be about, and which of them the next question is about.
import * as door from '../door/door';
import type { Shelf } from '../door/shapes';

class Shelves {
  all = $state.raw<Shelf[]>([]);
  /** Ids of those that the next question is about. */
  chosen = $state.raw<string[]>([]);

  /** Looks anew. One that is gone is chosen no longer. */
  async look(): Promise<void> {
    try {
      this.all = await door.shelves();
      this.chosen = this.chosen.filter((id) => this.all.some((shelf) => shelf.id === id));
    } catch {
      // The banner of a lost door says enough.
    }
  }

  choose(id: string, yes: boolean): void {
    this.chosen = yes ? [...this.chosen.filter((other) => other !== id), id] : this.chosen.filter((other) => other !== id);
  }
}

export const shelves = new Shelves();
