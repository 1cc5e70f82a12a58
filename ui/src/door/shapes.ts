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
  fit: Fit | null;
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

/** One of the person's servers of tools. */
export interface Server {
  name: string;
  kind: string;
}

/** A call of a server's tool: begun, or what became of it. */
export interface ToolStep {
  id: string;
  server: string;
  tool: string;
  state: string;
  arguments?: unknown;
  result?: string;
  /** How far it is while it is at work, by the server's own word, and how far that will be at the end. */
  progress?: number;
  total?: number;
  message?: string;
}

/** A call that needs the person's word. */
export type Waiting = Omit<ToolStep, 'state' | 'result'>;

/** A call as the model made it; of a stream a piece of it. */
export interface Call {
  index?: number;
  id?: string;
  type?: string;
  function?: { name?: string; arguments?: string };
}

/** A chunk of `/v1/chat/completions`. */
export interface Chunk {
  choices?: { delta?: { content?: string | null; reasoning_content?: string | null; tool_calls?: Call[] }; finish_reason?: string | null }[];
  error?: { message?: string };
  heph?: { receipt_id?: string; receipt?: Receipt; tool?: ToolStep; tools?: { made: ToolStep[]; waiting: Waiting[] } };
}

/** The presets of a policy. */
export type Preset = 'local-only' | 'own-devices' | 'redact-then-remote' | 'open';

/** How the policy of the machine stands. */
export interface Standing {
  preset: Preset;
  /** `usual`: nobody wrote one; `unread`: what is there cannot be read. */
  by: 'usual' | 'file' | 'unread';
  /** Rules beside the preset's. */
  rules: number;
  organisations: string[];
  /** Providers' models that may be asked where nobody wrote a policy. */
  providers: string[];
  /** Nothing leaves, whatever the preset is. */
  cut: boolean;
  trouble: string | null;
}

/** What the machine is, and what fits. */
export interface Hardware {
  cpu: string;
  cores: number;
  hardware_threads: number;
  instruction_sets: string[];
  instruction_set_best: string;
  memory_bytes: number;
  memory_available_bytes: number;
  /** The largest models that fit, by how weights are stored, the largest weights first. */
  fits: { quantisation: string; parameters_billion: number }[];
}

/** Whether something fits into memory. */
export interface Fit {
  fits: boolean;
  memory_bytes: number;
  available_bytes: number;
  sentence: string;
}

/** What a repository offers. */
export interface Offer {
  repository: string;
  hub: string;
  licence: string | null;
  /** One has to agree to something at the hub first. */
  gated: boolean;
  models: { file: string | null; bytes: number | null; files: number; fit: Fit | null }[];
}

/** A model's weights in one format. */
export interface Sized {
  type: string;
  bytes: number;
}

/** An event of a long work on a model. */
export type WorkEvent =
  | { status: 'working'; done: number; total: number }
  | { status: 'done'; model?: { name: string; bytes: number }; certificate?: { kv: string; blake3: string; ways: number; mismatches: unknown[] }; holds?: boolean }
  | { status: 'failed'; error: { message: string; hint?: string | null } };

/** The network log, summed: with whom, for what, how many bytes. */
export interface Egress {
  since: number | null;
  left: { up: number; down: number };
  ways: { kind: string; to: string; who?: string; purpose: string; labels?: string[]; counted: string; up: number; down: number; leaves: boolean }[];
  damaged: number;
}
