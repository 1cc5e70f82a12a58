// The one place that asks the machine that serves this page. No other address is ever asked.
import { EventReader, type ServerEvent } from './events';
import type {
  Call, Chat, ChatLine, ChatPage, Citation, Egress, Excerpts, Guests, Hardware, Invitation, Model, Nodes, Offer, Plan, Preset, Privacy, PullEvent, Server, Shelf,
  Sized, Span, Standing, Status, WorkEvent,
} from './shapes';

/** Bytes of excerpts that go with a question: about 500 tokens, half the context of the bundled model. */
const EXCERPT_BYTES = 1800;

/** The door said no. */
export class Refused extends Error {
  readonly status: number;

  constructor(status: number, sentence: string) {
    super(sentence);
    this.status = status;
  }
}

/** The door did not answer, or the connection broke. */
export class Lost extends Error {}

/** Where the token is kept between visits. */
const TOKEN = 'heph.token';

/** Takes the token out of the page's address, so that neither history nor a shared address holds it. */
function tokenOfAddress(): string | null {
  const token = /^#token=([^&]+)$/.exec(location.hash)?.[1];
  if (token === undefined) return localStorage.getItem(TOKEN);
  history.replaceState(null, '', location.pathname + location.search);
  const clear = decodeURIComponent(token);
  localStorage.setItem(TOKEN, clear);
  return clear;
}

/** What was said. */
export interface Message {
  role: string;
  content: string;
  tool_calls?: Call[];
}

/** What is asked of a model. */
export interface Wish {
  model: string;
  mode: string;
  privacy: Privacy;
  /** How private the person says it is: a level and words. */
  labels: string[];
  /** Servers whose tools may be used. */
  servers: string[];
  /** Calls of the last message that the person said yes to. */
  approved?: string[];
  /** Texts that the last message is about. */
  documents?: { name: string; content: string }[];
  messages: Message[];
  temperature: number;
  seed: number | null;
  max_tokens: number;
}

let token = tokenOfAddress();

/** Keeps `given` as the token from now on. */
export function bringToken(given: string): void {
  token = given.trim();
  localStorage.setItem(TOKEN, token);
}

async function ask(method: string, path: string, body?: unknown, more: RequestInit = {}): Promise<Response> {
  const headers = new Headers(more.headers);
  if (token) headers.set('authorization', `Bearer ${token}`);
  if (body !== undefined) headers.set('content-type', 'application/json');
  let response: Response;
  try {
    const init: RequestInit = { ...more, method, headers, cache: 'no-store', credentials: 'omit', redirect: 'error' };
    if (body !== undefined) init.body = JSON.stringify(body);
    response = await fetch(path, init);
  } catch (error) {
    if (error instanceof DOMException && error.name === 'AbortError') throw error;
    throw new Lost();
  }
  if (!response.ok) throw new Refused(response.status, await sentence(response));
  return response;
}

/** The sentence of an error in any of the door's shapes. */
async function sentence(response: Response): Promise<string> {
  const text = await response.text().catch(() => '');
  try {
    const { error } = JSON.parse(text) as { error?: string | { message?: string } };
    const found = typeof error === 'string' ? error : error?.message;
    if (found) return found;
  } catch {
    // Not JSON: the status has to do.
  }
  return `${response.status} ${response.statusText}`.trim();
}

async function json<T>(method: string, path: string, body?: unknown, more?: RequestInit): Promise<T> {
  const response = await ask(method, path, body, more);
  try {
    return (await response.json()) as T;
  } catch {
    throw new Lost();
  }
}

async function* events(response: Response): AsyncGenerator<ServerEvent> {
  const body = response.body?.getReader();
  if (!body) throw new Lost();
  const letters = new TextDecoder();
  const reader = new EventReader();
  try {
    for (;;) {
      const { done, value } = await body.read().catch((error: unknown) => {
        if (error instanceof DOMException && error.name === 'AbortError') throw error;
        throw new Lost();
      });
      if (done) return;
      yield* reader.push(letters.decode(value, { stream: true }));
    }
  } finally {
    body.cancel().catch(() => undefined);
  }
}

/** An answer as it comes. Goes on with `after`, the id of the last event that came, where a connection was lost. The first
 *  event has no data: it is the place before all others, for a connection that is lost before anything could be read. */
export async function* answer(wish: Wish, after: string | null, signal: AbortSignal): AsyncGenerator<ServerEvent> {
  if (after !== null) {
    yield* events(await ask('GET', streamOf(after), undefined, { signal, headers: { 'last-event-id': after } }));
    return;
  }
  const { mode, privacy, labels, seed, servers, approved, documents = [], ...rest } = wish;
  const marked = labels.length === 0 ? {} : { labels };
  const tools = servers.length === 0 ? {} : { mcp: servers, approved: approved ?? [] };
  const texts = documents.length === 0 ? {} : { documents: documents.map(({ name, content }) => ({ name, text: content })) };
  const body = { ...rest, ...(seed === null ? {} : { seed }), stream: true, heph: { mode, privacy, ...marked, resume: true, ...tools, ...texts } };
  const response = await ask('POST', '/v1/chat/completions', body, { signal });
  const stream = response.headers.get('heph-request-id');
  if (stream !== null) yield { id: `${stream}:0`, data: '' };
  yield* events(response);
}

/** Ends the answer that the event `after` came from: nobody waits for it, and the machine is free for others. */
export async function end(after: string): Promise<void> {
  await ask('DELETE', streamOf(after));
}

function streamOf(event: string): string {
  return `/heph/v1/streams/${encodeURIComponent(event.slice(0, event.lastIndexOf(':')))}`;
}

/** What would happen to `wish`. */
export function plan(wish: Wish, signal: AbortSignal): Promise<Plan> {
  const { model, messages, max_tokens, mode, privacy, labels } = wish;
  return json('POST', '/heph/v1/plan', { model, messages, max_tokens, mode, privacy, labels, ahead: true }, { signal });
}

export const status = (): Promise<Status> => json('GET', '/heph/v1/status');
export const nodes = (): Promise<Nodes> => json('GET', '/heph/v1/nodes');

/** What left this machine in the last hours; in all that is kept of them for 0. */
export const egress = (hours: number): Promise<Egress> => json('GET', `/heph/v1/egress${hours > 0 ? `?hours=${hours}` : ''}`);
export const models = async (): Promise<Model[]> => (await json<{ models: Model[] }>('GET', '/heph/v1/models')).models;

/** How the policy stands. */
export const policy = (): Promise<Standing> => json('GET', '/heph/v1/policy');

/** Changes the policy's preset, or cuts everything off; gives how it stands then. */
export const changePolicy = (change: { preset?: Preset; cut?: boolean }): Promise<Standing> => json('PUT', '/heph/v1/policy', change);

/** What this machine is. */
export const hardware = (): Promise<Hardware> => json('GET', '/heph/v1/hardware');

/** Counts of the door, as text. */
export const metrics = async (): Promise<string> => (await ask('GET', '/metrics')).text();

/** A receipt that this machine signed, while it is kept. */
export const signedReceipt = async (id: string): Promise<Blob> => (await ask('GET', `/heph/v1/receipts/${encodeURIComponent(id)}/signed`)).blob();

/** Providers' models that may be asked, as PROVIDER/MODEL. */
export async function outsideModels(): Promise<string[]> {
  const { data } = await json<{ data: { id: string }[] }>('GET', '/v1/models');
  return data.map(({ id }) => id).filter((id) => id.includes('/'));
}

/** The person's servers of tools. */
export const servers = async (): Promise<Server[]> => (await json<{ servers: Server[] }>('GET', '/heph/v1/servers')).servers;

/** A ticket of this machine for another one. */
export const invite = (): Promise<Invitation> => json('POST', '/heph/v1/machines/invite');

/** Meets the machine whose ticket this is. */
export const join = (ticket: string): Promise<{ node: string; name: string }> => json('POST', '/heph/v1/machines/join', { ticket });

/** Pages and extensions of other origins. */
export const guests = (): Promise<Guests> => json('GET', '/heph/v1/pairings');

/** Lets a guest in whose code the person compared. */
export async function letIn(id: string, code: string): Promise<void> {
  await ask('POST', `/heph/v1/pairing/${encodeURIComponent(id)}/approve`, { code });
}

export async function sendAway(id: string): Promise<void> {
  await ask('POST', `/heph/v1/pairing/${encodeURIComponent(id)}/refuse`);
}

export async function revoke(id: string): Promise<void> {
  await ask('DELETE', `/heph/v1/pairings/${encodeURIComponent(id)}`);
}

export const shelves = async (): Promise<Shelf[]> => (await json<{ shelves: Shelf[] }>('GET', '/heph/v1/knowledge')).shelves;
export const addShelf = (path: string, label: Privacy): Promise<Shelf> => json('POST', '/heph/v1/knowledge', { path, label });

/** Says anew what of a shelf may leave. */
export const markShelf = (id: string, label: Privacy): Promise<Shelf> => json('PUT', `/heph/v1/knowledge/${encodeURIComponent(id)}`, { label });

export async function removeShelf(id: string): Promise<void> {
  await ask('DELETE', `/heph/v1/knowledge/${encodeURIComponent(id)}`);
}

/** The folders in a folder of this machine; of the person's home with an empty path. */
export function folders(path: string): Promise<{ path: string; parent: string | null; folders: string[] }> {
  return json('GET', path === '' ? '/heph/v1/folders' : `/heph/v1/folders?${new URLSearchParams({ path }).toString()}`);
}

/** What `question` needs of these shelves. */
export const excerpts = (question: string, shelves: string[]): Promise<Excerpts> => json('POST', '/heph/v1/knowledge/search', { question, shelves, bytes_max: EXCERPT_BYTES });

/** A cited span and what stands around it. */
export function span({ shelf, document, start, end }: Citation): Promise<Span> {
  const asked = new URLSearchParams({ document, start: String(start), end: String(end) });
  return json('GET', `/heph/v1/knowledge/${encodeURIComponent(shelf)}/span?${asked.toString()}`);
}

/** What a repository of the hub offers. Downloads nothing, and tells the hub which one is looked at. */
export const offer = (repository: string): Promise<Offer> => json('POST', '/heph/v1/models/look', { repository });

/** How large a model would be in each format, the smallest first. */
export const formats = async (name: string): Promise<Sized[]> => (await json<{ formats: Sized[] }>('GET', `/heph/v1/models/${encodeURIComponent(name)}/formats`)).formats;

/** Writes a model in another format, or certifies it; closing the generator stops it. */
export async function* work(name: string, what: { quantize: { type: string; name?: string } } | 'certify', signal: AbortSignal): AsyncGenerator<WorkEvent> {
  const [path, body] = what === 'certify' ? ['certify', {}] : ['quantize', what.quantize];
  for await (const { data } of events(await ask('POST', `/heph/v1/models/${encodeURIComponent(name)}/${path}`, body, { signal }))) {
    yield JSON.parse(data) as WorkEvent;
  }
}

/** Downloads a model; closing the generator stops it. */
export async function* pull(repository: string, file: string, signal: AbortSignal): AsyncGenerator<PullEvent> {
  const body = { repository, ...(file === '' ? {} : { file }) };
  for await (const { data } of events(await ask('POST', '/heph/v1/models/pull', body, { signal }))) {
    if (data !== '[DONE]') yield JSON.parse(data) as PullEvent;
  }
}

export async function removeModel(name: string): Promise<void> {
  await ask('DELETE', `/heph/v1/models/${encodeURIComponent(name)}`);
}

/** Chats, newest first; those that hold the words of `query` where there are some. */
export function chats(query: string, before: string | number | null): Promise<ChatPage> {
  const asked = new URLSearchParams({ limit: '50' });
  if (query !== '') asked.set('query', query);
  if (before !== null) asked.set('before', String(before));
  return json('GET', `/heph/v1/chats?${asked.toString()}`);
}

export const chat = (id: string): Promise<Chat> => json('GET', `/heph/v1/chats/${id}`);
export const keepChat = (id: string, title: string, body: unknown): Promise<ChatLine> => json('PUT', `/heph/v1/chats/${id}`, { title, body });

export async function removeChat(id: string): Promise<void> {
  await ask('DELETE', `/heph/v1/chats/${id}`);
}

/** A chat, or with no `id` all of them, as a file. */
export async function exported(id: string | null, format: 'markdown' | 'json'): Promise<Blob> {
  const path = id === null ? '/heph/v1/export' : `/heph/v1/chats/${id}/export?format=${format}`;
  return (await ask('GET', path)).blob();
}

/** Takes back what was exported. */
export async function imported(document: unknown): Promise<void> {
  await ask('POST', '/heph/v1/import', document);
}
