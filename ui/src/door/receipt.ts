// What became of one request: who computed which tokens, what crossed the network, and what the answer's bits are worth.
import type { RawLayers, Sight } from './shapes';

/** A range of layers at a machine for a range of tokens. */
export interface PlaceLine {
  from: number;
  to: number;
  layers: RawLayers;
  /** Nothing where this machine has no name on the network. */
  node: string | null;
  name: string;
  /** What the machine is to the person; nothing for this one. */
  role: string | null;
  saw: Sight;
}

export interface Receipt {
  id: string;
  created_ms: number;
  mode: string;
  model: string;
  exactness: string;
  places: PlaceLine[];
  traffic: { node: string | null; name: string; up: number; down: number }[];
  moves: { layers: RawLayers; from: string; to: string; why: string; at: number; gap_s: number | null }[];
  degraded?: string[];
  /** Servers of tools that were told something on the way. */
  tools?: { server: string; calls: number; up: number; down: number }[];
  /** Who answered, where that was an outside provider. */
  provider?: { name: string; address: string; model: string; region: string | null; retention: string | null } | null;
  finish: string;
  prompt_tokens: number;
  answer_tokens: number;
  price: number;
  first_token_s: number;
  tokens_per_s: number;
  total_s: number;
}
