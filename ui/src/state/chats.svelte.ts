// The chats that are kept, and those that are open. A chat whose answer is under way goes on while another is looked at.
import * as door from '../door/door';
import type { ChatLine } from '../door/shapes';
import { Conversation, newId } from './conversation.svelte';
import { place } from './place.svelte';
import { settings } from './settings.svelte';

/** So many conversations stay in memory beside those with an answer under way. */
const OPEN_MAX = 8;

class Chats {
  lines = $state.raw<ChatLine[]>([]);
  query = $state('');
  more = $state<string | number | null>(null);
  failed = $state(false);
  /** Whether the list was read at all: nobody is welcomed who was here before. */
  listed = $state(false);
  /** The chat that has no question yet: one at a time, so that what is being written in it is there when one comes back. */
  #blank = new Conversation(newId(), settings.system);
  current = $state.raw<Conversation>(this.#blank);
  /** Why the chat of the address is not shown. */
  missing = $state<string | null>(null);
  readonly #open = new Map<string, Conversation>();
  #asked = 0;

  /** Reads the list anew. */
  async list(): Promise<void> {
    this.#asked += 1;
    const asked = this.#asked;
    try {
      const page = await door.chats(this.query.trim(), null);
      if (asked !== this.#asked) return;
      [this.lines, this.more, this.failed, this.listed] = [page.chats, page.next, false, true];
    } catch {
      this.failed = true;
    }
  }

  /** Reads on where the list ended. */
  async listMore(): Promise<void> {
    if (this.more === null) return;
    const page = await door.chats(this.query.trim(), this.more);
    const known = new Set(this.lines.map((line) => line.id));
    this.lines = [...this.lines, ...page.chats.filter((line) => !known.has(line.id))];
    this.more = page.next;
  }

  /** Shows chat `id`, or a new one. */
  async show(id: string | null): Promise<void> {
    this.missing = null;
    if (id === this.current.id) return;
    if (id === null) {
      this.current = this.#blank;
      return;
    }
    const known = this.#open.get(id);
    if (known) {
      this.current = known;
      return;
    }
    try {
      const opened = await Conversation.open(id);
      this.hold(opened);
      if (place.chat === id) this.current = opened;
    } catch (error) {
      this.missing = error instanceof door.Refused ? error.message : '';
    }
  }

  /** Keeps `conversation` in memory. */
  hold(conversation: Conversation): void {
    if (conversation === this.#blank) this.#blank = new Conversation(newId(), settings.system);
    conversation.onkept = () => void this.list();
    this.#open.set(conversation.id, conversation);
    for (const [id, other] of this.#open) {
      if (this.#open.size <= OPEN_MAX) break;
      if (other !== this.current && !other.live) this.#open.delete(id);
    }
  }

  async remove(id: string): Promise<void> {
    const open = this.#open.get(id);
    open?.stop();
    // What is still on its way to the disk would bring it back.
    await open?.forget();
    try {
      await door.removeChat(id);
    } catch (error) {
      open?.regain();
      throw error;
    }
    this.#open.delete(id);
    if (this.current.id === id) {
      this.current = this.#blank;
      place.go('chat');
    }
    await this.list();
  }
}

export const chats = new Chats();
