// What the machine that serves this page says of itself, asked again while the page is looked at.
import * as door from '../door/door';
import type { Model, Status } from '../door/shapes';
import { settings } from './settings.svelte';

/** Milliseconds between two questions. */
const PAUSE = 10_000;

class Machine {
  status = $state.raw<Status | null>(null);
  models = $state.raw<Model[]>([]);
  /** Providers' models that may be asked, as PROVIDER/MODEL. */
  outside = $state.raw<string[]>([]);
  /** `locked`: it wants its token; `lost`: it does not answer. */
  link = $state<'asking' | 'open' | 'locked' | 'lost'>('asking');

  /** Asks anew. */
  async ask(): Promise<void> {
    try {
      // At once: until all three are there nothing can be asked.
      [this.status, this.models, this.outside] = await Promise.all([door.status(), door.models(), door.outsideModels()]);
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

  /** The model that is asked: the person's choice while it is here, else the one that is served. */
  get model(): string {
    const chosen = this.models.find((model) => model.name === settings.model && model.kind === 'chat');
    const outside = this.outside.find((name) => name === settings.model);
    return chosen?.name ?? outside ?? this.status?.model ?? '';
  }

  /** Who answers: the served model, alone or together with other machines; another one of this machine, alone; or a provider. */
  get asks(): 'served' | 'here' | 'outside' {
    if (this.status === null || this.model === this.status.model) return 'served';
    return this.outside.includes(this.model) ? 'outside' : 'here';
  }

  /** The mode that is asked for. */
  get mode(): string {
    const { asks } = this;
    return asks === 'served' ? settings.mode : asks === 'here' ? 'local' : 'auto';
  }

  /** Whether `mode` can be asked for now. */
  offers(mode: string): boolean {
    return this.status === null || this.status.modes.includes(mode);
  }
}

export const machine = new Machine();
