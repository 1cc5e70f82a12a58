// One conversation as it is held: asks, takes the answer in as it comes, branches, keeps.
import * as door from '../door/door';
import type { Wish } from '../door/door';
import type { Chunk, Excerpts, ToolStep } from '../door/shapes';
import { Again, repeats } from '../talk/again';
import { labelsOf, UNSAID, type Label } from '../talk/label';
import { added, stepped, usable } from '../talk/tools';
import { apart, guarded, messages, read, title, Tree, type Attachment, type Turn } from '../talk/tree';
import { desktop } from './desktop.svelte';

/** What a conversation needs to know to ask: everything of a wish but the words and what the conversation itself knows. */
export type Manner = Omit<Wish, 'messages' | 'labels'>;

/** Seconds to wait before each try to take up an answer whose connection was lost. */
const WAITS = [0.3, 1, 2, 4, 8];

/** Milliseconds between two times that a long answer is kept while it comes. */
const KEEP_EVERY = 10_000;

/** Milliseconds until it is tried again to keep what could not be kept. */
const KEEP_AGAIN = 5_000;

/** Times that an answer is made again: a door that forgets it each time would never be done with it. */
const AGAIN_MAX = 3;

/** Milliseconds after which a person may be at something else. */
const LONG = 10_000;

/** An answer that is under way. */
class Live {
  readonly turn: Turn;
  /** What is shown of it: at most one change for each picture that the screen shows. */
  text = $state('');
  state = $state<'waiting' | 'coming' | 'reconnecting'>('waiting');
  /** Tools that were called, or are being. */
  steps = $state.raw<ToolStep[]>([]);
  readonly abort = new AbortController();
  #whole = '';
  #again: Again | null = null;
  #drawn = true;

  constructor(turn: Turn) {
    this.turn = turn;
    this.#whole = turn.content;
    this.text = turn.content;
    this.steps = turn.tools ?? [];
  }

  get whole(): string {
    return this.#whole;
  }

  /** The answer is made again from its beginning. */
  again(): void {
    this.#again = new Again(this.#whole);
  }

  add(made: string): void {
    const piece = this.#again === null ? made : this.#again.take(made);
    if (piece === null) throw new door.Lost();
    if (piece === '') return;
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
  /** How private the person says it is. */
  label = $state.raw<Label>(UNSAID);
  /** What is being written and was not asked yet. */
  draft = $state('');
  live = $state.raw<Live | null>(null);
  /** The question whose answers are shown beside each other. */
  beside = $state<string | null>(null);
  /** Whether the last change is on the disk. `refused`: the door says why not, and is asked again; `large`: it takes no more. */
  kept = $state<'yes' | 'no' | 'refused' | 'large'>('yes');
  /** What the door said when it did not keep it. */
  refusal = $state('');
  /** Told whenever the chat was kept. */
  onkept: () => void = () => undefined;
  #tree = new Tree([]);
  #leaf: string | null = null;
  #last = 0;
  /** Counts what was sent to be kept: only the last one says how it stands. */
  #keeps = 0;
  #keeping: Promise<void> = Promise.resolve();
  #later: ReturnType<typeof setTimeout> | undefined;
  #gone = false;

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
      conversation.label = found.label;
      conversation.#tree = found.tree;
      conversation.#show(found.leaf);
    }
    return conversation;
  }

  /** Asks `text` after what is shown. */
  async ask(text: string, attachments: Attachment[], manner: Manner, excerpts?: Excerpts): Promise<void> {
    await this.#question(this.#leaf, text, attachments, manner, excerpts);
  }

  /** How private it is, as the door takes it. */
  get labels(): string[] {
    return labelsOf(this.label);
  }

  /** Says how private it is, from the next question on. */
  async mark(label: Label): Promise<void> {
    this.label = label;
    // A conversation without a question is kept nowhere.
    if (this.path.length > 0) await this.keep();
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

  /** Goes on with answer `id`, whose calls waited: those in `approved` are made, and the others are refused. */
  async decide(id: string, approved: string[], manner: Manner): Promise<void> {
    const turn = this.#tree.turns.get(id);
    if (!turn?.parent || turn.waiting === undefined || this.live) return;
    const { waiting, calls } = turn;
    const going: Turn = { ...turn, state: 'streaming' };
    delete going.waiting;
    delete going.calls;
    delete going.receipt;
    const said = { role: 'assistant', content: turn.content, tool_calls: calls ?? [] };
    const told = messages(this.system, this.#tree.path(turn.parent));
    // Where it breaks off, the calls wait again.
    const again = { waiting, ...(calls ? { calls } : {}) };
    await this.#run(going, { ...manner, servers: turn.servers ?? manner.servers, approved, labels: this.labels, messages: [...told, said] }, again);
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

  /** Writes it to the machine's disk; again after a while where that could not be done. */
  keep(): Promise<void> {
    if (this.#gone) return Promise.resolve();
    this.#keeping = this.#kept();
    return this.#keeping;
  }

  /** Keeps it no more: what is on its way has arrived when this comes back. */
  async forget(): Promise<void> {
    this.#gone = true;
    clearTimeout(this.#later);
    await this.#keeping;
    clearTimeout(this.#later);
  }

  /** Keeps it again: it could not be removed. */
  regain(): void {
    this.#gone = false;
  }

  async #kept(): Promise<void> {
    clearTimeout(this.#later);
    this.#keeps += 1;
    const keeps = this.#keeps;
    // While it is tried again, what was said of it stays.
    if (this.kept === 'yes') this.kept = 'no';
    let stands: Conversation['kept'] = 'yes';
    try {
      await door.keepChat(this.id, this.title, this.#tree.kept(this.system, this.label, this.#leaf));
    } catch (error) {
      stands = !(error instanceof door.Refused) ? 'no' : error.status === 413 ? 'large' : 'refused';
      if (error instanceof door.Refused) this.refusal = error.message;
    }
    if (keeps !== this.#keeps) return;
    this.kept = stands;
    if (stands === 'yes') this.onkept();
    else if (stands !== 'large') this.#later = setTimeout(() => void this.keep(), KEEP_AGAIN);
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
    const beside = apart(manner.mode, path);
    await this.#run(turn, { ...manner, labels: this.labels, documents: beside?.attachments ?? [], messages: messages(this.system, path, beside) });
  }

  /** Has `wish` answered into `turn`; what `broken` holds is put into a turn that came to no end. */
  async #run(turn: Turn, wish: Wish, broken: Partial<Turn> = {}): Promise<void> {
    const privacy = guarded(wish.privacy, turn.parent === null ? [] : this.#tree.path(turn.parent));
    const servers = usable(wish.servers, privacy);
    if (servers.length > 0) turn.servers = servers;
    this.#tree.set(turn);
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
      await this.#take({ ...wish, privacy, servers, seed: turn.seed ?? wish.seed }, live);
      turn.state = 'whole';
      if (Date.now() - turn.at > LONG) desktop.done('answer');
    } catch (error) {
      turn.state = live.abort.signal.aborted ? 'stopped' : 'failed';
      if (turn.state === 'failed') turn.error = error instanceof door.Refused ? error.message : '';
      Object.assign(turn, broken);
    }
    clearInterval(timer);
    turn.content = live.whole;
    if (live.steps.length > 0) turn.tools = live.steps;
    this.live = null;
    this.#tree.set({ ...turn });
    this.#show(this.#leaf);
    await this.keep();
  }

  /** Takes the answer in. A lost connection is taken up after the last event that came. Where the door was started anew and
   *  knows nothing of the answer, it makes it again, with the same seed and so with the same words; nothing else is asked twice. */
  async #take(wish: Wish, live: Live): Promise<void> {
    let after: string | null = null;
    let forgotten = 0;
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
        if (error instanceof door.Refused && error.status === 404 && after !== null && forgotten < AGAIN_MAX && repeats(wish)) {
          [after, forgotten] = [null, forgotten + 1];
          live.again();
          continue;
        }
        const wait = WAITS[lost];
        // One that is made again is asked for again, also where it was lost before anything of it came.
        const again = error instanceof door.Lost && (after !== null || forgotten > 0) && wait !== undefined && !live.abort.signal.aborted;
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
  const calls = chunk.choices?.[0]?.delta?.tool_calls;
  if (calls) live.turn.calls = added(live.turn.calls ?? [], calls);
  if (chunk.heph?.receipt) live.turn.receipt = chunk.heph.receipt;
  if (chunk.heph?.tool) live.steps = stepped(live.steps, chunk.heph.tool);
  for (const step of chunk.heph?.tools?.made ?? []) live.steps = stepped(live.steps, step);
  const waiting = chunk.heph?.tools?.waiting ?? [];
  if (waiting.length > 0) live.turn.waiting = waiting;
}

/** A name that no other chat or turn has. `randomUUID` is there in secure contexts only; this works on any address. */
export function newId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}
