// One conversation as it is held: asks, takes the answer in as it comes, branches, keeps.
import * as door from '../door/door';
import type { Wish } from '../door/door';
import type { Chunk } from '../door/shapes';
import type { Excerpts } from '../door/shapes';
import { guarded, messages, read, title, Tree, type Attachment, type Turn } from '../talk/tree';

/** What a conversation needs to know to ask: everything of a wish but the words. */
export type Manner = Omit<Wish, 'messages'>;

/** Seconds to wait before each try to take up an answer whose connection was lost. */
const WAITS = [0.3, 1, 2, 4, 8];

/** Milliseconds between two times that a long answer is kept while it comes. */
const KEEP_EVERY = 10_000;

/** An answer that is under way. */
class Live {
  readonly turn: Turn;
  /** What is shown of it: at most one change for each picture that the screen shows. */
  text = $state('');
  state = $state<'waiting' | 'coming' | 'reconnecting'>('waiting');
  readonly abort = new AbortController();
  #whole = '';
  #drawn = true;

  constructor(turn: Turn) {
    this.turn = turn;
  }

  get whole(): string {
    return this.#whole;
  }

  add(piece: string): void {
    this.#whole += piece;
    this.state = 'coming';
    if (!this.#drawn) return;
    this.#drawn = false;
    const draw = (): void => {
      this.#drawn = true;
      this.text = this.#whole;
    };
    if (document.hidden) setTimeout(draw, 100);
    else requestAnimationFrame(draw);
  }
}

export class Conversation {
  readonly id: string;
  /** The turns that are shown. */
  path = $state.raw<Turn[]>([]);
  title = $state('');
  system = $state('');
  /** What is being written and was not asked yet. */
  draft = $state('');
  live = $state.raw<Live | null>(null);
  /** Whether the last change is on the disk. `large`: it never will be, the door takes no more. */
  kept = $state<'yes' | 'no' | 'large'>('yes');
  /** Told whenever the chat was kept. */
  onkept: () => void = () => undefined;
  #tree = new Tree([]);
  #leaf: string | null = null;
  #last = 0;

  constructor(id: string, system: string) {
    this.id = id;
    this.system = system;
  }

  /** Reads the conversation `id`. */
  static async open(id: string): Promise<Conversation> {
    const chat = await door.chat(id);
    const conversation = new Conversation(id, '');
    conversation.title = chat.title;
    const found = read(chat.body);
    if (found) {
      conversation.system = found.system;
      conversation.#tree = found.tree;
      conversation.#show(found.leaf);
    }
    return conversation;
  }

  /** Asks `text` after what is shown. */
  async ask(text: string, attachments: Attachment[], manner: Manner, excerpts?: Excerpts): Promise<void> {
    await this.#question(this.#leaf, text, attachments, manner, excerpts);
  }

  /** The turn with that id. */
  turn(id: string): Turn | undefined {
    return this.#tree.turns.get(id);
  }

  /** Asks question `id` in other words, beside it. */
  async edit(id: string, text: string, manner: Manner): Promise<void> {
    const turn = this.#tree.turns.get(id);
    if (turn) await this.#question(turn.parent, text, turn.attachments ?? [], manner);
  }

  /** Another answer to the same question, beside answer `id`. */
  async retry(id: string, manner: Manner): Promise<void> {
    const turn = this.#tree.turns.get(id);
    if (turn?.parent && !this.live) await this.#answer(turn.parent, manner);
  }

  /** Ends the answer that is under way. */
  stop(): void {
    this.live?.abort.abort();
  }

  /** The branches at turn `id`. */
  branches(id: string): string[] {
    return this.#tree.siblings(id);
  }

  /** Shows the branch that begins with turn `id`. */
  turnTo(id: string): void {
    if (this.live) return;
    this.#show(this.#tree.tip(id));
    void this.keep();
  }

  /** Writes it to the machine's disk. */
  async keep(): Promise<void> {
    this.kept = 'no';
    try {
      await door.keepChat(this.id, this.title, this.#tree.kept(this.system, this.#leaf));
      this.kept = 'yes';
      this.onkept();
    } catch (error) {
      if (error instanceof door.Refused && error.status === 413) this.kept = 'large';
    }
  }

  /** Calls it `name`. */
  async rename(name: string): Promise<void> {
    this.title = name.trim() || this.title;
    await this.keep();
  }

  async #question(parent: string | null, text: string, attachments: Attachment[], manner: Manner, excerpts?: Excerpts): Promise<void> {
    if (this.live) return;
    const turn: Turn = { id: newId(), parent, role: 'user', content: text, at: this.#now(), state: 'whole' };
    if (attachments.length > 0) turn.attachments = attachments;
    if (excerpts) turn.excerpts = excerpts;
    this.#tree.add(turn);
    if (this.title === '') this.title = title(text) || (attachments[0]?.name ?? '');
    await this.#answer(turn.id, manner);
  }

  async #answer(question: string, manner: Manner): Promise<void> {
    // A seed of its own for each answer, and kept: so any answer can be had again, bit for bit.
    const seed = manner.seed ?? (crypto.getRandomValues(new Uint32Array(1))[0] as number);
    const turn: Turn = { id: newId(), parent: question, role: 'assistant', content: '', at: this.#now(), state: 'streaming', model: manner.model, mode: manner.mode, seed };
    const path = this.#tree.path(question);
    const wish = { ...manner, seed, privacy: guarded(manner.privacy, path), messages: messages(this.system, path) };
    this.#tree.add(turn);
    const live = new Live(turn);
    this.live = live;
    this.#show(turn.id);
    void this.keep();
    // What has come is kept now and then: a page that is closed in the middle loses little.
    const timer = setInterval(() => {
      turn.content = live.whole;
      void this.keep();
    }, KEEP_EVERY);
    try {
      await this.#take(wish, live);
      turn.state = 'whole';
    } catch (error) {
      turn.state = live.abort.signal.aborted ? 'stopped' : 'failed';
      if (turn.state === 'failed') turn.error = error instanceof door.Refused ? error.message : '';
    }
    clearInterval(timer);
    turn.content = live.whole;
    this.live = null;
    this.#tree.turns.set(turn.id, { ...turn });
    this.#show(this.#leaf);
    await this.keep();
  }

  /** Takes the answer in. A lost connection is taken up after the last event that came; nothing is asked twice. */
  async #take(wish: Wish, live: Live): Promise<void> {
    let after: string | null = null;
    for (let lost = 0; ; lost += 1) {
      try {
        for await (const { id, data } of door.answer(wish, after, live.abort.signal)) {
          if (id !== '') after = id;
          if (data === '') continue;
          lost = 0;
          if (data === '[DONE]') return;
          take(JSON.parse(data) as Chunk, live);
        }
        throw new door.Lost();
      } catch (error) {
        const wait = WAITS[lost];
        const again = error instanceof door.Lost && after !== null && wait !== undefined && !live.abort.signal.aborted;
        if (!again) {
          // A door that is gone needs not be told.
          if (live.abort.signal.aborted && after !== null) void door.end(after).catch(() => undefined);
          throw error;
        }
        live.state = 'reconnecting';
        await new Promise((resume) => setTimeout(resume, 1000 * wait));
      }
    }
  }

  #show(leaf: string | null): void {
    this.#leaf = leaf;
    this.path = this.#tree.path(leaf);
  }

  /** Never twice the same, so that the order of turns is that in which they were made. */
  #now(): number {
    this.#last = Math.max(Date.now(), this.#last + 1);
    return this.#last;
  }
}

function take(chunk: Chunk, live: Live): void {
  if (chunk.error) throw new door.Refused(500, chunk.error.message ?? '');
  const piece = chunk.choices?.[0]?.delta?.content;
  if (piece) live.add(piece);
  if (chunk.heph?.receipt) live.turn.receipt = chunk.heph.receipt;
}

/** A name that no other chat or turn has. `randomUUID` is there in secure contexts only; this works on any address. */
export function newId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}
