// Long work on a model, one at a time: writing it in another format, or certifying it. It goes on while other pages are looked at.
import * as door from '../door/door';
import { machine } from './machine.svelte';

/** What came of the last work on a model. */
export type Result =
  | { kind: 'failed'; why: string }
  | { kind: 'made'; name: string; bytes: number }
  | { kind: 'certified'; holds: boolean; ways: number; differ: number; hash: string; kv: string };

class Works {
  /** The model that is worked on; `null` while nothing is done. */
  model = $state<string | null>(null);
  what = $state<'quantize' | 'certify'>('certify');
  /** How far it is, as a share of one; `null` while that cannot be said. */
  share = $state<number | null>(null);
  results = $state.raw<Record<string, Result>>({});
  #abort = new AbortController();

  /** Writes `model` in the format `type`, as the model `name`. */
  quantize(model: string, type: string, name: string): Promise<void> {
    return this.#run(model, 'quantize', { quantize: { type, name } });
  }

  /** Certifies that `model` gives the same bits in every way. */
  certify(model: string): Promise<void> {
    return this.#run(model, 'certify', 'certify');
  }

  /** Ends what is under way. */
  stop(): void {
    this.#abort.abort();
  }

  async #run(model: string, what: 'quantize' | 'certify', asked: Parameters<typeof door.work>[1]): Promise<void> {
    if (this.model !== null) return;
    this.#abort = new AbortController();
    [this.model, this.what, this.share] = [model, what, null];
    let result: Result | null = { kind: 'failed', why: '' };
    try {
      for await (const event of door.work(model, asked, this.#abort.signal)) {
        if (event.status === 'working') this.share = event.total > 0 ? event.done / event.total : null;
        else if (event.status === 'failed') result = { kind: 'failed', why: [event.error.message, event.error.hint].filter(Boolean).join(' ') };
        else if (event.model) result = { kind: 'made', ...event.model };
        else if (event.certificate) {
          const { ways, mismatches, blake3, kv } = event.certificate;
          result = { kind: 'certified', holds: event.holds === true, ways, differ: mismatches.length, hash: blake3, kv };
        }
      }
    } catch (error) {
      result = this.#abort.signal.aborted ? null : { kind: 'failed', why: error instanceof door.Refused ? error.message : '' };
    }
    const others = Object.entries(this.results).filter(([name]) => name !== model);
    this.results = Object.fromEntries(result === null ? others : [...others, [model, result]]);
    this.model = null;
    if (result?.kind === 'made') await machine.ask();
  }
}

export const works = new Works();
