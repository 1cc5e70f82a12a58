// What the door answers: the shapes of `docs/gateway.md`, field for field.
import type { Receipt } from './receipt';

/** Layers from `start` to before `end`. */
export interface Layers {
  start: number;
  end: number;
}

/** The same, in the two ways in which the door writes it. */
export type RawLayers = Layers | readonly [number, number];

/** The layers that `raw` names. */
export function layersOf(raw: RawLayers): Layers {
  return 'start' in raw ? raw : { start: raw[0], end: raw[1] };
}

/** What a machine sees of a text. */
export type Sight = 'nothing' | 'activations' | 'text';

/** What may leave at most. */
export type Privacy = 'nothing' | 'own' | 'policy';

export interface Status {
  version: string;
  model: string;
  context: number;
  threads: number;
  isa: string;
  kv: string;
  memory: { total_bytes: number; available_bytes: number; peak_bytes: number };
  uptime_s: number;
  auth: string;
  modes: string[];
  requests: { running: number; waiting: number; answered: number; failed: number; refused: number; tokens: number };
}

export interface Stage {
  name: string;
  node: string | null;
  here: boolean;
  role: string | null;
  layers: RawLayers;
  sees: Sight;
  memory_bytes: number;
}

export interface Plan {
  prompt_tokens: number;
  answer_tokens: number;
  mode: string;
  exactness: string;
  stages: Stage[];
  first_token_s: number;
  tokens_per_s: number;
  total_s: number;
  bytes_up: number;
  bytes_down: number;
  price: number;
  leaves: Sight;
  reasons: string[];
  refused: { mode: string; why: string; possible: boolean }[];
}

export interface Nodes {
  here: { node: string | null; name: string; threads: number; isa: string; memory_bytes: number };
  nodes: PeerNode[];
}

export interface PeerNode {
  node: string;
  name: string;
  role: string;
  here: boolean;
  reachable: boolean;
  why: string | null;
  latency_ms: number | null;
  state: string | null;
  queue_s: number | null;
  memory_bytes: number | null;
  models: string[];
  sees: Sight | null;
}

/** An invitation for another machine. */
export interface Invitation {
  ticket: string;
  expires_ms: number;
  /** A QR code: modules a side, and the dark ones as the path of an SVG picture. */
  picture: { side: number; path: string } | null;
}

/** A page or an extension of another origin that asks, or that was let in. */
export interface Guest {
  id: string;
  name: string;
  origin: string;
  scopes: string[];
}

export interface Guests {
  requests: (Guest & { code: string; expires_ms: number; approved: boolean })[];
  pairings: (Guest & { created_ms: number; last_used_ms: number | null })[];
}

/** A folder or a file that questions can be about. */
export interface Shelf {
  id: string;
  name: string;
  path: string;
  label: Privacy;
}

/** Exactly these bytes of a document. */
export interface Citation {
  number: number;
  shelf: string;
  document: string;
  start: number;
  end: number;
  text: string;
}

/** What a question needs of the shelves. */
export interface Excerpts {
  text: string;
  citations: Citation[];
  label: Privacy;
}

/** A span and what stands around it. */
export interface Span {
  document: string;
  before: string;
  text: string;
  after: string;
}

export interface Model {
  name: string;
  kind: string;
  about: string | null;
  bytes: number;
  bundled: boolean;
  loaded: boolean;
  serving: boolean;
  context: number | null;
  layers: number | null;
  source: string | null;
  fit: { fits: boolean; memory_bytes: number; available_bytes: number; sentence: string } | null;
}

/** An event of a download. */
export type PullEvent =
  | { status: 'downloading'; done: number; total: number | null }
  | { status: 'done'; model: { name: string; bytes: number } }
  | { status: 'failed'; error: { message: string; hint?: string | null } }
  | { status: string };

export interface ChatLine {
  id: string;
  title: string;
  created_ms: number;
  updated_ms: number;
  snippet?: string | null;
}

export interface ChatPage {
  chats: ChatLine[];
  next: string | number | null;
}

export interface Chat extends ChatLine {
  body: unknown;
}

/** A chunk of `/v1/chat/completions`. */
export interface Chunk {
  choices?: { delta?: { content?: string | null; reasoning_content?: string | null }; finish_reason?: string | null }[];
  error?: { message?: string };
  heph?: { receipt_id?: string; receipt?: Receipt };
}
