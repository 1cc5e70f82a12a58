// The window around the page, where there is one: what the page asks of it, and what it tells the page. In a browser there is none,
// and nothing of this does anything.
import { tick } from 'svelte';
import { ofBase64, unread } from '../text/files';
import { machine } from './machine.svelte';
import { place } from './place.svelte';

/** How the page calls the window's program. */
interface Window {
  invoke<T>(command: string, args?: Record<string, unknown>): Promise<T>;
}

/** What becomes of the engine: `said` is a sentence for the person where something is wrong, `why` what the engine itself said. */
interface Engine {
  state: 'starting' | 'open' | 'again' | 'ended';
  said?: string;
  why?: string;
}

/** Whether this computer is lent to other machines: `why` says what a node that ended by itself complained of. */
export interface Lending {
  state: 'off' | 'on' | 'paused' | 'failed';
  why?: string;
}

/** What it gives away at most: memory in bytes, bandwidth in bytes a second, `null` where there is no bound. */
export interface Caps {
  on: boolean;
  cpu_percent: number;
  memory: number | null;
  bandwidth: number | null;
  /** Whether it rests while the person works. */
  rests: boolean;
}

/** How the window stands, as far as the page shows it. */
interface Standing {
  lending: Lending;
  caps: Caps;
}

/** What was dropped on the window: bytes in base64, `null` where they cannot be read. */
interface Dropped {
  files: { name: string; bytes: string | null }[];
  folders: string[];
}

const around = (globalThis as { __TAURI_INTERNALS__?: Window }).__TAURI_INTERNALS__;

class Desktop {
  /** Whether there is a window. */
  readonly here = around !== undefined;
  engine = $state.raw<Engine | null>(null);
  /** The ticket of a link that a person followed. */
  ticket = $state('');
  /** A folder that was dropped on the window. */
  folder = $state('');
  /** `null` until the window was asked. */
  lending = $state.raw<Lending | null>(null);
  caps = $state.raw<Caps | null>(null);

  /** Listens to the window. Called once, by the page; `onchat` begins a new chat, `oncut` looks at the switch that cuts off. */
  watch(onchat: () => void, oncut: () => void): void {
    if (around === undefined) return;
    addEventListener('heph', (event) => {
      const { what, about } = (event as CustomEvent<{ what: string; about: unknown }>).detail;
      if (what === 'engine') this.#engine(about as Engine);
      if (what === 'wish' && about === 'chat') onchat();
      if (what === 'link') void this.#link();
      if (what === 'cut') oncut();
      if (what === 'lending') this.lending = about as Lending;
      if (what === 'dropped') void this.#dropped(about as Dropped);
    });
    void this.#link();
  }

  /** Has the window do something; what it refuses changes nothing here. */
  do(command: string, args?: Record<string, unknown>): void {
    around?.invoke(command, args).catch(() => undefined);
  }

  /** Asks how sharing stands. */
  async look(): Promise<void> {
    const stands = await around?.invoke<Standing>('standing').catch(() => null);
    if (!stands) return;
    this.lending = stands.lending;
    this.caps = stands.caps;
  }

  /** Lends this computer, or ends that. */
  lend(on: boolean): void {
    if (this.caps) this.caps = { ...this.caps, on };
    this.do('change', { change: { lend: on } });
  }

  /** Changes what is given away at most; what is lent already is lent within it from then on. */
  bound(changed: Partial<Omit<Caps, 'on'>>): void {
    if (!this.caps) return;
    this.caps = { ...this.caps, ...changed };
    this.do('change', { change: { caps: this.caps } });
  }

  /** Says that long work is done; the window tells the person where nobody looks at it. */
  done(what: 'answer' | 'model'): void {
    this.do('done', { what });
  }

  /** Has the person choose a folder in the system's own way; `null` where they chose none. */
  async chooseFolder(): Promise<string | null> {
    return (await around?.invoke<string | null>('choose_folder').catch(() => null)) ?? null;
  }

  #engine(engine: Engine): void {
    const came = engine.state === 'open' && this.engine?.state !== 'open';
    this.engine = engine;
    if (came) void machine.ask();
  }

  async #link(): Promise<void> {
    const ticket = await around?.invoke<string | null>('link').catch(() => null);
    if (!ticket) return;
    this.ticket = ticket;
    place.go('nodes');
  }

  async #dropped({ files, folders }: Dropped): Promise<void> {
    const [folder] = folders;
    if (folder !== undefined) {
      this.folder = folder;
      place.go('folders');
      return;
    }
    const dropped = new DataTransfer();
    for (const { name, bytes } of files) dropped.items.add(bytes === null ? unread(name) : new File([ofBase64(bytes)], name));
    if (place.page !== 'chat') {
      const there = new Promise((come) => addEventListener('hashchange', come, { once: true }));
      place.go('chat', place.chat ?? undefined);
      await there;
      await tick();
    }
    // The place where a question is written takes it as it takes what is dropped in a browser.
    const composer = document.querySelector('.composer');
    composer?.dispatchEvent(new DragEvent('drop', { dataTransfer: dropped, bubbles: true, cancelable: true }));
  }
}

export const desktop = new Desktop();
