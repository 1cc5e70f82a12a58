// What can be shared of this machine when something goes wrong: numbers and words of our own, and nothing that a person wrote,
// named or keeps. What may stand in it is listed here; everything else is left out.
import type { Hardware, Model, Nodes, Standing, Status } from '../door/shapes';
import type { Settings } from '../state/refine';
import { PRESETS } from '../state/guard';

/** What is known. */
export interface Known {
  at: number;
  status: Status | null;
  hardware: Hardware | null;
  policy: Standing | null;
  nodes: Nodes | null;
  models: Model[];
  settings: Settings;
  /** Counts of the door, as Prometheus reads them. */
  metrics: string;
  /** Where the page itself failed: file and line, never what was said. */
  faults: string[];
  browser: string;
}

/** Lines of counts. */
const COUNTS_MAX = 400;
/** Faults that are kept. */
export const FAULTS_MAX = 50;

const number = (value: unknown): number | null => (typeof value === 'number' && Number.isFinite(value) ? value : null);
/** A word of a list that is ours; a stranger's word is left out. */
const among = (value: unknown, all: readonly string[]): string | null => (typeof value === 'string' && all.includes(value) ? value : null);
/** A name of a version, an instruction set or a format: letters, digits and what parts them. */
const token = (value: unknown): string | null => (typeof value === 'string' && /^[\w.+-]{1,24}$/.test(value) ? value : null);

/** The report, as JSON. */
export function report(known: Known): string {
  const { status, hardware, policy, nodes, models, settings } = known;
  const told = {
    report: 'heph 1',
    at: new Date(known.at).toISOString(),
    browser: browserOf(known.browser),
    machine: status && {
      version: token(status.version),
      isa: token(status.isa),
      kv: token(status.kv),
      threads: number(status.threads),
      context: number(status.context),
      memory: Object.fromEntries(Object.entries(status.memory).map(([name, value]) => [name, number(value)])),
      uptime_s: number(status.uptime_s),
      requests: Object.fromEntries(Object.entries(status.requests).map(([name, value]) => [name, number(value)])),
    },
    hardware: hardware && {
      cores: number(hardware.cores),
      hardware_threads: number(hardware.hardware_threads),
      instruction_sets: hardware.instruction_sets.map(token),
    },
    policy: policy && {
      preset: among(policy.preset, PRESETS),
      by: among(policy.by, ['usual', 'file', 'unread']),
      rules: number(policy.rules),
      organisations: policy.organisations.length,
      cut: policy.cut === true,
      trouble: policy.trouble !== null,
    },
    // Machines by number: neither names nor identities.
    nodes: nodes?.nodes.map((node) => ({
      role: among(node.role, ['own', 'cloud', 'miner', 'edge']),
      reachable: node.reachable === true,
      latency_ms: number(node.latency_ms),
      state: token(node.state),
    })),
    // The person's models by size; those that are part of HEPH by name.
    models: models.map((model) => ({
      name: model.bundled ? token(model.name) : null,
      kind: among(model.kind, ['chat', 'encoder']),
      bytes: number(model.bytes),
      layers: number(model.layers),
      context: number(model.context),
      serving: model.serving === true,
      fits: model.fit?.fits ?? null,
    })),
    settings: {
      theme: settings.theme,
      contrast: settings.contrast,
      language: settings.language,
      size: number(settings.size),
      mode: among(settings.mode, ['auto', 'local', 'remote', 'layered', 'speculative', 'layered-speculative', 'preprocess']),
      privacy: settings.privacy,
      temperature: number(settings.temperature),
      seeded: settings.seed !== null,
      tokensMax: number(settings.tokensMax),
      systemPrompt: settings.system !== '',
    },
    counts: counts(known.metrics),
    faults: known.faults.slice(-FAULTS_MAX).filter((line) => FAULT.test(line)),
  };
  return `${JSON.stringify(told, null, 2)}\n`;
}

const FAULT = /^\w{1,40} at [\w.-]{1,80}:\d{1,7}:\d{1,7}$/;

/** A fault of the page, as its kind and the place in our own script. What it says may hold anything, and is left out. */
export function fault(error: unknown): string {
  const kind = error instanceof Error && /^\w{1,40}$/.test(error.name) ? error.name : 'Error';
  const stack = error instanceof Error ? (error.stack ?? '') : '';
  const [, file = 'unknown', line = '0', column = '0'] = /\/assets\/([\w.-]{1,80}):(\d{1,7}):(\d{1,7})/.exec(stack) ?? [];
  return `${kind} at ${file}:${line}:${column}`;
}

/** The counts of the door: names of ours with numbers. Labels of a count may hold a name of the person's, and are left out. */
function counts(metrics: string): Record<string, number> {
  const found: Record<string, number> = {};
  for (const line of metrics.split('\n').slice(0, COUNTS_MAX)) {
    const [, name, value] = /^(heph_\w{1,80})(?:\{[^}]*\})? ([\d.e+-]{1,30})$/i.exec(line) ?? [];
    // Buckets of one count are parts of each other, and have no sum.
    if (name !== undefined && !name.endsWith('_bucket') && Number.isFinite(Number(value))) found[name] = (found[name] ?? 0) + Number(value);
  }
  return found;
}

/** The browser's engine and its version; nothing else of what it says of itself. */
function browserOf(agent: string): string | null {
  return /(Firefox|Chrome|Chromium|AppleWebKit)\/\d{1,4}/.exec(agent)?.[0] ?? null;
}
