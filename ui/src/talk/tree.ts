// A conversation is a tree of turns: editing a question or asking for another answer adds a branch and loses nothing.
// What is shown is the path from the root to one leaf.
import type { Receipt } from '../door/receipt';
import type { Message } from '../door/door';
import type { Call, Excerpts, Privacy, ToolStep, Waiting } from '../door/shapes';
import { readLabel, UNSAID, type Label } from './label';

/** A text file that went with a question. */
export interface Attachment {
  name: string;
  content: string;
}

/** How an answer ended, or that it has not yet. */
export type State = 'whole' | 'streaming' | 'stopped' | 'failed';

/** A question or an answer. */
export interface Turn {
  id: string;
  parent: string | null;
  role: 'user' | 'assistant';
  content: string;
  /** Milliseconds since 1970. */
  at: number;
  state: State;
  attachments?: Attachment[];
  /** What of the person's folders went with a question. */
  excerpts?: Excerpts;
  /** Why it failed, as a sentence. */
  error?: string;
  model?: string;
  mode?: string;
  seed?: number;
  receipt?: Receipt;
  /** Servers whose tools it may use. */
  servers?: string[];
  /** Tools of the person's servers that were called. */
  tools?: ToolStep[];
  /** Calls that wait for the person's word, and the same as the model made them. */
  waiting?: Waiting[];
  calls?: Call[];
}

/** A conversation as it is kept: the branch that is shown, from its root, and every turn that is not on it. The door
 *  exports the former and finds words in both. */
export interface Kept {
  version: 1;
  system: string;
  /** How private the person says it is. */
  label: Label;
  messages: Turn[];
  others: Turn[];
}

/** The turns of a conversation by parent, so that branches are found at once. */
export class Tree {
  readonly turns = new Map<string, Turn>();
  readonly #children = new Map<string | null, string[]>();

  constructor(turns: Iterable<Turn>) {
    for (const turn of turns) this.add(turn);
  }

  /** Adds a turn whose parent is there already. */
  add(turn: Turn): void {
    if (this.turns.has(turn.id)) return;
    if (turn.parent !== null && !this.turns.has(turn.parent)) return;
    this.turns.set(turn.id, turn);
    const siblings = this.#children.get(turn.parent);
    if (siblings) siblings.push(turn.id);
    else this.#children.set(turn.parent, [turn.id]);
  }

  /** Puts `turn` in the place of the one with its id, or adds it. */
  set(turn: Turn): void {
    if (this.turns.has(turn.id)) this.turns.set(turn.id, turn);
    else this.add(turn);
  }

  /** The turns from the root to `leaf`; none where there is no such turn. */
  path(leaf: string | null): Turn[] {
    const path: Turn[] = [];
    let at = leaf === null ? undefined : this.turns.get(leaf);
    while (at) {
      path.push(at);
      at = at.parent === null ? undefined : this.turns.get(at.parent);
    }
    return path.reverse();
  }

  /** What is to be kept of this tree while `leaf` is shown. */
  kept(system: string, label: Label, leaf: string | null): Kept {
    const path = this.path(leaf);
    const shown = new Set(path.map((turn) => turn.id));
    const others = [...this.turns.values()].filter((turn) => !shown.has(turn.id));
    return { version: 1, system, label, messages: path, others };
  }

  /** The turns beside `id`, itself included, oldest first. */
  siblings(id: string): string[] {
    const turn = this.turns.get(id);
    return turn ? (this.#children.get(turn.parent) ?? []) : [];
  }

  /** The newest leaf below `id`: where a reader who turns to this branch wants to be. */
  tip(id: string): string {
    let at = id;
    for (;;) {
      const next = this.#children.get(at)?.at(-1);
      if (next === undefined) return at;
      at = next;
    }
  }
}

/** What the model is given for `path`: the system prompt first, attachments before the question that they go with; those of
 *  the question `apart` go beside it. */
export function messages(system: string, path: Turn[], apart?: Turn): Message[] {
  const told = path
    .filter((turn) => (turn.state !== 'failed' && turn.waiting === undefined) || turn.content !== '')
    .map((turn) => ({ role: turn.role, content: turn === apart ? turn.content : whole(turn) }));
  return system.trim() === '' ? told : [{ role: 'system', content: system.trim() }, ...told];
}

/** A turn's text with its attachments. Excerpts hold the question already, behind them. */
export function whole(turn: Pick<Turn, 'content' | 'attachments' | 'excerpts'>): string {
  const files = (turn.attachments ?? []).map((file) => `${file.name}\n${fenced(file.content)}\n\n`);
  return files.join('') + (turn.excerpts?.text ?? turn.content);
}

/** The question of `path` whose files are to go beside it, so that only excerpts of them need leave. */
export function apart(mode: string, path: Turn[]): Turn | undefined {
  const question = path.at(-1);
  return mode === 'preprocess' && question?.role === 'user' && (question.attachments ?? []).length > 0 ? question : undefined;
}

/** Labels, the strictest first. */
const STRICT: readonly Privacy[] = ['nothing', 'own', 'policy'];

/** What may leave of a conversation: what is wished, or less where excerpts on `path` have a stricter label. A label that is
 *  none counts as the strictest. */
export function guarded(wished: Privacy, path: Turn[]): Privacy {
  const labels = path.flatMap((turn) => (turn.excerpts ? [turn.excerpts.label] : []));
  const strict = [wished, ...labels].map((label) => Math.max(0, STRICT.indexOf(label)));
  return STRICT[Math.min(...strict)] as Privacy;
}

/** `text` between fences that are longer than any within it. */
function fenced(text: string): string {
  const longest = Math.max(2, ...[...text.matchAll(/`+/g)].map((run) => run[0].length));
  const fence = '`'.repeat(longest + 1);
  return `${fence}\n${text}${text.endsWith('\n') ? '' : '\n'}${fence}`;
}

/** The first words of a question: what a conversation is called until a person names it. */
export function title(text: string): string {
  const line = text.trim().split('\n', 1)[0] ?? '';
  return line.length > 60 ? `${line.slice(0, 57).trimEnd()}…` : line;
}

/** Reads what was kept. A turn that is no turn, or hangs on nothing, is left out; a document that is no conversation is
 *  `undefined`. */
export function read(kept: unknown): { system: string; label: Label; tree: Tree; leaf: string | null } | undefined {
  if (typeof kept !== 'object' || kept === null) return undefined;
  const { system, label, messages: path, others } = kept as Partial<Record<keyof Kept, unknown>>;
  if (!Array.isArray(path)) return undefined;
  const shown = path.filter(isTurn);
  const turns = [...shown, ...(Array.isArray(others) ? others.filter(isTurn) : [])].map(settled);
  turns.sort((a, b) => a.at - b.at);
  const tree = new Tree(turns);
  const leaf = shown.at(-1)?.id ?? null;
  const told = typeof system === 'string' ? system : '';
  return { system: told, label: label === undefined ? UNSAID : readLabel(label), tree, leaf: leaf !== null && tree.turns.has(leaf) ? leaf : null };
}

function isTurn(value: unknown): value is Turn {
  if (typeof value !== 'object' || value === null) return false;
  const { id, parent, role, content, at } = value as Record<string, unknown>;
  const hangs = parent === null || typeof parent === 'string';
  const speaks = role === 'user' || role === 'assistant';
  return typeof id === 'string' && hangs && speaks && typeof content === 'string' && typeof at === 'number';
}

/** An answer that was under way when the page was closed has ended. */
function settled(turn: Turn): Turn {
  return turn.state === 'streaming' ? { ...turn, state: 'stopped' } : turn;
}
