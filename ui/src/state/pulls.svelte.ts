// The download that is under way. It goes on while other pages are looked at, and ends with the page itself.
import * as door from '../door/door';
import type { PullEvent } from '../door/shapes';
import { desktop } from './desktop.svelte';
import { machine } from './machine.svelte';
import { Rate, secondsFor } from './rate';
import { settings } from './settings.svelte';

class Pulls {
  running = $state(false);
  name = $state('');
  done = $state(0);
  total = $state<number | null>(null);
  /** Why the last one failed. */
  failed = $state<string | null>(null);
  /** The model that the last one brought. */
  came = $state<string | null>(null);
  readonly share = $derived(this.total ? this.done / this.total : null);
  /** Bytes a second, once it can be said. */
  rate = $state<number | null>(null);
  /** Seconds that are left, once it can be said. */
  readonly left = $derived(this.total === null ? null : secondsFor(this.total - this.done, this.rate));
  #speed = new Rate();
  #abort = new AbortController();

  /** Downloads `file` of `repository`; one at a time. */
  async start(repository: string, file: string): Promise<void> {
    if (this.running) return;
    this.#abort = new AbortController();
    [this.#speed, this.rate] = [new Rate(), null];
    [this.running, this.name, this.done, this.total, this.failed, this.came] = [true, repository, 0, null, null, null];
    try {
      for await (const event of door.pull(repository, file, this.#abort.signal)) this.#take(event);
      if (this.came === null && this.failed === null) this.failed = '';
    } catch (error) {
      if (!this.#abort.signal.aborted) this.failed = error instanceof door.Refused ? error.message : '';
    }
    this.running = false;
    if (this.rate !== null) settings.rate = this.rate;
    await machine.ask();
  }

  /** Ends it. What came is kept for the next try. */
  stop(): void {
    this.#abort.abort();
  }

  #take(event: PullEvent): void {
    if ('done' in event) {
      [this.done, this.total] = [event.done, event.total];
      this.#speed.add(performance.now(), event.done);
      this.rate = this.#speed.perSecond ?? this.rate;
    } else if ('model' in event) {
      this.came = event.model.name;
      desktop.done('model');
    } else if ('error' in event) this.failed = [event.error.message, event.error.hint].filter(Boolean).join(' ');
  }
}

export const pulls = new Pulls();
