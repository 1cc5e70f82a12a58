// A door whose answers are written down: for work on the page without an engine, and for what one machine alone cannot
// show (other machines, lost connections, slow downloads). It speaks `docs/gateway.md`; what the page is held to stands
// in `page/`, against the real `heph serve`.
//
//   node tests/scripted.js [PORT]
import { createServer } from 'node:http';
import { readFile } from 'node:fs/promises';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';

const DIST = fileURLToPath(new URL('../dist', import.meta.url));
const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml' };
/** Stricter than the real door's: no style in the markup either. */
const POLICY = "default-src 'self'; img-src 'self' data:; style-src 'self'; script-src 'self'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

const HERE = '0'.repeat(64);
const LAPTOP = 'a3'.repeat(32);
const CLOUD = '5c'.repeat(32);

const ANSWER = `# Three ways to share a model

A model is a stack of **layers**. HEPH can cut it anywhere, and the words stay the same.

1. *All here*: nothing leaves.
2. *Layers shared*: numbers travel, words do not.
3. *All there*: see \`heph plan\`.

| way | up | down |
|---|---|---|
| local | 0 B | 0 B |
| layered | 2.16 kB | 373 kB |

\`\`\`rust
/// The price at which \`offer\` meets \`demand\`, or \`None\` in an empty market.
pub fn price(offer: Offer, demand: Demand) -> Option<Credits> {
    let supply = NonZeroU64::new(offer.seconds)?;
    Some(scarcity(supply, demand).max(FLOOR)) // never nothing
}
\`\`\`

> Move the tokens, not the conversation.

![a picture](http://127.0.0.1:9/leak.png?what=you-said) <script>window.bad = true</script>
`;

const STAGES = {
  local: [{ name: 'here', node: HERE, here: true, role: 'own', layers: { start: 0, end: 24 }, sees: 'nothing', memory_bytes: 9e8 }],
  layered: [
    { name: 'here', node: HERE, here: true, role: 'own', layers: { start: 0, end: 6 }, sees: 'nothing', memory_bytes: 2e8 },
    { name: 'laptop', node: LAPTOP, here: false, role: 'own', layers: { start: 6, end: 18 }, sees: 'activations', memory_bytes: 5e8 },
    { name: 'here', node: HERE, here: true, role: 'own', layers: { start: 18, end: 24 }, sees: 'nothing', memory_bytes: 2e8 },
  ],
};

function receipt(id, mode, model) {
  const away = mode !== 'local' && mode !== 'auto';
  const place = (from, to, start, end, node, name, role, saw) => ({ from, to, layers: { start, end }, node, name, role, saw });
  return {
    id, created_ms: Date.now(), mode: mode === 'auto' ? 'local' : mode, model, exactness: 'exact',
    places: away
      ? [place(0, 261, 0, 6, HERE, 'here', null, 'nothing'), place(0, 120, 6, 18, LAPTOP, 'laptop', 'own', 'activations'), place(120, 261, 6, 18, CLOUD, 'attic', 'own', 'activations'), place(0, 261, 18, 24, HERE, 'here', null, 'nothing')]
      : [place(0, 261, 0, 24, HERE, 'here', null, 'nothing')],
    traffic: away ? [{ node: LAPTOP, name: 'laptop', up: 184_320, down: 372_736 }, { node: CLOUD, name: 'attic', up: 220_160, down: 301_000 }] : [],
    moves: away ? [{ layers: { start: 6, end: 18 }, from: 'laptop', to: 'attic', why: 'laptop was lost', at: 120, gap_s: 0.018 }] : [],
    degraded: [], finish: 'stop', prompt_tokens: 21, answer_tokens: 240, price: 0,
    queue_s: 0.0002, first_token_s: 0.011, tokens_per_s: 512.4, total_s: 0.48,
  };
}

/** The door. `pace`: milliseconds between two pieces of an answer; `lose`: the first stream breaks after so many events;
 *  `answer`: what is said to a question. */
export function scripted({ pace = 12, lose = Infinity, token = null, answer: written = null } = {}) {
  const chats = new Map();
  const streams = new Map();
  const asked = new Set();
  const policy = { preset: 'redact-then-remote', by: 'file', rules: 0, organisations: [], providers: [], cut: false, trouble: null };
  let losses = 1;

  const events = (id, answer, mode, model) => {
    const chunk = (choice, more = {}) => ({ id, object: 'chat.completion.chunk', model, choices: [{ index: 0, ...choice }], ...more });
    const pieces = answer.match(/\S+\s*|\s+/g) ?? [];
    return [
      ...pieces.map((content) => chunk({ delta: { content }, finish_reason: null })),
      chunk({ delta: {}, finish_reason: 'stop' }, { heph: { receipt_id: id, receipt: receipt(id, mode, model) } }),
    ].map((event) => JSON.stringify(event)).concat('[DONE]');
  };

  /** An answer that wants a tool; with the person's word it goes on. */
  const withTools = (id, { heph, mode, model }) => {
    const chunk = (choice, more = {}) => JSON.stringify({ id, object: 'chat.completion.chunk', model, choices: [{ index: 0, delta: {}, ...choice }], ...more });
    const call = { id: 'call_1', server: 'files', tool: 'read', arguments: { path: '/home/ada/notes/boats.txt' } };
    if (!asked.has(heph.mcp.join())) {
      asked.add(heph.mcp.join());
      const made = { index: 0, id: call.id, type: 'function', function: { name: 'files__read', arguments: JSON.stringify(call.arguments) } };
      return [
        chunk({ delta: { content: 'Let me look. ' } }),
        chunk({ delta: { tool_calls: [made] } }),
        chunk({ finish_reason: 'tool_calls' }, { heph: { receipt_id: id, receipt: receipt(id, mode, model), tools: { made: [], waiting: [{ ...call, policy: 'ask' }] } } }),
        '[DONE]',
      ];
    }
    asked.delete(heph.mcp.join());
    const yes = heph.approved.includes(call.id);
    const step = { id: call.id, server: call.server, tool: call.tool, state: yes ? 'done' : 'refused', result: yes ? 'From outside: The ferry to Elba leaves at 7:40.' : 'The person did not allow this call.', seconds: 0.1 };
    return [
      ...(yes ? [chunk({}, { heph: { tool: { ...call, state: 'called' } } })] : []),
      chunk({}, { heph: { tool: step } }),
      ...(yes ? 'It leaves at 7:40 from pier four.' : 'I could not look.').split(/(?<= )/).map((content) => chunk({ delta: { content } })),
      chunk({ finish_reason: 'stop' }, { heph: { receipt_id: id, receipt: receipt(id, mode, model), tools: { made: [step], waiting: [] } } }),
      '[DONE]',
    ];
  };

  async function stream(response, id, from) {
    const { list } = streams.get(id);
    response.writeHead(200, { 'content-type': 'text/event-stream', 'heph-request-id': id });
    for (let i = from; i < list.length && !response.destroyed && streams.has(id); i += 1) {
      response.write(`id: ${id}:${i + 1}\ndata: ${list[i]}\n\n`);
      if (i === lose && losses > 0) {
        losses -= 1;
        response.destroy();
        return;
      }
      await new Promise((resume) => setTimeout(resume, pace));
    }
    response.end();
  }

  const routes = {
    'GET /heph/v1/status': () => ({ name: 'HEPH', version: '0.1.0', model: 'heph-story', context: 1024, threads: 2, isa: 'avx512', kv: 'f16', memory: { total_bytes: 25.3e9, available_bytes: 22.1e9, peak_bytes: 1e8 }, uptime_s: 12.5, auth: token ? 'token' : 'none', modes: ['auto', 'local', 'remote', 'layered', 'speculative', 'layered-speculative'], requests: { running: 1, waiting: 0, answered: 3, failed: 0, refused: 0, tokens: 412 } }),
    'GET /heph/v1/policy': () => policy,
    'PUT /heph/v1/policy': (body) => Object.assign(policy, body, body.preset ? { by: 'file' } : {}),
    'GET /v1/models': () => ({ object: 'list', data: [{ id: 'heph-story' }, { id: 'far/big' }] }),
    'GET /heph/v1/hardware': () => ({ cpu: 'Emerald 8-Core', cores: 2, hardware_threads: 4, instruction_sets: ['scalar', 'avx2', 'avx512'], instruction_set_best: 'avx512', memory_bytes: 25.3e9, memory_available_bytes: 22.1e9, fits: [{ quantisation: 'f16', parameters_billion: 10.5 }, { quantisation: 'q4_k_m', parameters_billion: 34.7 }] }),
    'POST /heph/v1/models/look': (body) => ({
      repository: body.repository, hub: 'https://hub.example', licence: 'apache-2.0', gated: false,
      models: [
        { file: 'model-q4_k_m.gguf', bytes: 2.5e9, files: 1, fit: { fits: true, memory_bytes: 3.1e9, available_bytes: 22.1e9, sentence: '' } },
        { file: 'model-f16.gguf', bytes: 24e9, files: 2, fit: { fits: false, memory_bytes: 30e9, available_bytes: 22.1e9, sentence: '' } },
      ],
    }),
    'GET /heph/v1/models/heph-story/formats': () => ({ formats: [{ type: 'q4_0', bytes: 6.9e6 }, { type: 'q4_k_m', bytes: 7.4e6 }, { type: 'q8_0', bytes: 12.4e6 }] }),
    'GET /heph/v1/egress': () => ({
      since: 1_795_763_635,
      left: { up: 18_233, down: 402_113 },
      damaged: 0,
      ways: [
        { kind: 'peer', to: '192.0.2.7:7842', who: 'laptop', purpose: 'session', labels: ['private'], counted: 'on-the-wire', up: 18_233, down: 402_113, leaves: true },
        { kind: 'peer', to: '127.0.0.1:7842', who: 'beside', purpose: 'members', counted: 'on-the-wire', up: 410, down: 380, leaves: false },
      ],
    }),
    'GET /heph/v1/nodes': () => ({
      here: { node: HERE, name: 'desk', threads: 2, isa: 'avx512', memory_bytes: 25.3e9 },
      nodes: [
        { node: LAPTOP, name: 'laptop', role: 'own', here: false, reachable: true, why: null, latency_ms: 1.4, state: 'open', queue_s: 0, memory_bytes: 16e9, models: ['heph-story'], sees: 'text' },
        { node: CLOUD, name: 'attic', role: 'own', here: false, reachable: true, why: null, latency_ms: 23, state: 'open', queue_s: 0.4, memory_bytes: 64e9, models: ['heph-story', 'qwen3-8b'], sees: 'text' },
        { node: '77'.repeat(32), name: 'rented-gpu-eu-west', role: 'cloud', here: false, reachable: false, why: 'did not answer within 3 s', latency_ms: null, state: null, queue_s: null, memory_bytes: null, models: [], sees: 'nothing' },
      ],
    }),
    'GET /heph/v1/pairings': () => ({
      requests: [{ id: 'r1', name: 'Notes', origin: 'chrome-extension://abcdefghijklmnopabcdefghijklmnop', scopes: ['chat', 'models'], code: '483920', expires_ms: Date.now() + 200_000, approved: asked.has('r1') }],
      pairings: [{ id: 'p1', name: 'Reader', origin: 'https://reader.example', scopes: ['chat', 'embed'], created_ms: 1.79e12, last_used_ms: 1.7905e12 }],
    }),
    'POST /heph/v1/pairing/r1/approve': () => void asked.add('r1'),
    'POST /heph/v1/machines/invite': () => ({
      ticket: `heph-${'aeb2c3d4e5f6'.repeat(12)}`, expires_ms: Date.now() + 600_000,
      picture: { side: 21, path: Array.from({ length: 21 }, (_, y) => Array.from({ length: 21 }, (_, x) => ((x * 7 + y * 5 + x * y) % 3 === 0 ? `M${x} ${y}h1v1h-1z` : '')).join('')).join('') },
    }),
    'POST /heph/v1/machines/join': () => ({ node: LAPTOP, name: 'laptop', role: 'own' }),
    'GET /heph/v1/knowledge': () => ({ shelves: [{ id: 's1', name: 'Notes', path: '/home/ada/notes', label: 'nothing' }, { id: 's2', name: 'Manuals', path: '/usr/share/doc/manuals', label: 'policy' }] }),
    'PUT /heph/v1/knowledge/s1': (body) => ({ id: 's1', name: 'Notes', path: '/home/ada/notes', ...body }),
    'GET /heph/v1/servers': () => ({ servers: [{ name: 'files', kind: 'program', tools: {}, others: 'ask' }, { name: 'weather', kind: 'address', tools: {}, others: 'allow' }] }),
    'GET /heph/v1/folders': () => ({ path: '/home/ada', parent: '/home', folders: ['letters', 'notes', 'recipes'] }),
    'POST /heph/v1/knowledge/search': (body) => ({
      text: `Excerpts, each with its number, source and byte range:\n\n[1 boats.txt:40-89]\nThe ferry to Elba leaves at 7:40 from pier four.\n\n${body.question}`,
      citations: [{ number: 1, shelf: 's1', document: 'boats.txt', start: 40, end: 89, text: 'The ferry to Elba leaves at 7:40 from pier four.' }], named: [], label: 'nothing', local_s: 0.01,
    }),
    'GET /heph/v1/knowledge/s1/span': () => ({ document: 'boats.txt', start: 40, end: 89, before: 'Notes of the harbour.\n\n', text: 'The ferry to Elba leaves at 7:40 from pier four.', after: '\n\nSwans sleep until eight.' }),
    'GET /heph/v1/models': () => ({
      models: [
        { name: 'heph-story', kind: 'chat', about: 'Tells short stories.', bytes: 12_405_696, bundled: true, loaded: true, serving: true, context: 1024, layers: 4, source: 'part of the program', fit: { fits: true, memory_bytes: 30e6, available_bytes: 22e9, sentence: 'fits' } },
        { name: 'qwen3-8b-q4_k_m', kind: 'chat', about: null, bytes: 5.03e9, bundled: false, loaded: false, serving: false, context: 32768, layers: 36, source: 'models', fit: { fits: true, memory_bytes: 9.4e9, available_bytes: 22e9, sentence: 'fits' } },
        { name: 'llama-70b-q8_0', kind: 'chat', about: null, bytes: 74e9, bundled: false, loaded: false, serving: false, context: 131072, layers: 80, source: 'models', fit: { fits: false, memory_bytes: 78e9, available_bytes: 22e9, sentence: 'does not fit' } },
        { name: 'heph-embed', kind: 'encoder', about: 'Vectors of texts.', bytes: 2_690_000, bundled: true, loaded: false, serving: true, context: 512, layers: 3, source: 'part of the program', fit: { fits: true, memory_bytes: 8e6, available_bytes: 22e9, sentence: 'fits' } },
      ],
    }),
    'POST /heph/v1/plan': (body) => {
      const away = body.mode === 'layered' && body.privacy !== 'nothing';
      const stages = away ? STAGES.layered : STAGES.local;
      return { prompt_tokens: 21, answer_tokens: 240, mode: away ? 'layered' : 'local', exactness: 'exact', stages, first_token_s: 0.0114, tokens_per_s: away ? 312 : 804, total_s: 0.4, bytes_up: away ? 404_480 : 0, bytes_down: away ? 673_000 : 0, price: 0, leaves: away ? 'activations' : 'nothing', reasons: [away ? 'It was asked for.' : 'The speed of this machine is the bound, so the whole model runs here.'], refused: [{ mode: 'remote', why: 'It would take 0.9 s where the plan takes 0.4 s.', possible: true }], digest: '60', decision: {} };
    },
    'GET /heph/v1/chats': (_, query) => {
      const wanted = query.get('query')?.toLowerCase();
      const lines = [...chats.values()].filter((chat) => !wanted || JSON.stringify(chat).toLowerCase().includes(wanted));
      lines.sort((a, b) => b.updated_ms - a.updated_ms);
      return { chats: lines.slice(0, 50).map((chat) => ({ ...chat, body: undefined, snippet: wanted && `…of [${wanted}] and…` })), next: null };
    },
    'GET /heph/v1/export': () => ({ chats: [...chats.values()] }),
    'POST /heph/v1/import': () => ({}),
  };

  return createServer(async (request, response) => {
    const url = new URL(request.url, 'http://door');
    const pieces = [];
    for await (const piece of request) pieces.push(piece);
    const body = pieces.length > 0 ? JSON.parse(Buffer.concat(pieces).toString()) : null;
    const answer = (status, value) => {
      response.writeHead(status, { 'content-type': 'application/json' });
      response.end(value === undefined ? '' : JSON.stringify(value));
    };
    if (url.pathname === '/health') return answer(200, { status: 'ok' });
    if (!/^\/(v1|heph|metrics$)/.test(url.pathname)) return file(response, url.pathname);
    if (token && request.headers.authorization !== `Bearer ${token}`) return answer(401, { error: { message: 'the token is missing or wrong' } });
    const [, id] = /^\/heph\/v1\/chats\/([\w-]+)/.exec(url.pathname) ?? [];
    const [, streamId] = /^\/heph\/v1\/streams\/(.+)/.exec(url.pathname) ?? [];
    const route = routes[`${request.method} ${url.pathname}`];
    if (route) return answer(200, route(body, url.searchParams));
    if (url.pathname === '/metrics') return response.end('heph_requests_total{path="/v1/chat/completions"} 3\nheph_tokens_total 412\n');
    if (/\/(certify|quantize)$/.test(url.pathname)) {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      for (let done = 1; done <= 20 && !response.destroyed; done += 1) {
        response.write(`data: ${JSON.stringify({ status: 'working', done, total: 20 })}\n\n`);
        await new Promise((resume) => setTimeout(resume, pace));
      }
      const last = url.pathname.endsWith('certify')
        ? { status: 'done', certificate: { kv: 'f16', blake3: '5e'.repeat(32), ways: 20, mismatches: [] }, holds: true, arithmetic: 1 }
        : { status: 'done', model: { name: body.name, bytes: 7.4e6 } };
      return response.end(`data: ${JSON.stringify(last)}\n\n`);
    }
    if (url.pathname === '/v1/chat/completions') {
      const name = `r-${streams.size + 1}`;
      const last = body.messages.at(-1).content;
      const text = written ? written(last) : /ferry/.test(last) && /^Excerpts/.test(last) ? 'The ferry leaves at 7:40 from pier four [1].' : /fox/.test(last) ? 'Here is a story about a little fox.\nIn a green place, there lived a little fox called Maya. '.repeat(3) : ANSWER;
      streams.set(name, { list: body.heph.mcp ? withTools(name, body) : events(name, text, body.heph.mode, body.model) });
      return stream(response, name, 0);
    }
    if (streamId) {
      if (!streams.has(streamId)) return answer(404, { error: { message: 'no such stream' } });
      return stream(response, streamId, Number(request.headers['last-event-id'].split(':').pop()));
    }
    if (url.pathname.endsWith('/pull')) {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      for (let done = 0; done <= 100 && !response.destroyed; done += 2) {
        response.write(`data: ${JSON.stringify({ status: 'downloading', done: done * 5e7, total: 5e9 })}\n\n`);
        await new Promise((resume) => setTimeout(resume, pace));
      }
      return response.end(`data: ${JSON.stringify({ status: 'done', model: { name: 'qwen3-8b', bytes: 5e9 } })}\n\n`);
    }
    if (id && request.method === 'PUT') {
      const now = Date.now();
      chats.set(id, { id, title: body.title, created_ms: chats.get(id)?.created_ms ?? now, updated_ms: now, body: body.body });
      return answer(200, { id, title: body.title, created_ms: now, updated_ms: now });
    }
    if (id && chats.has(id)) {
      if (request.method === 'DELETE') chats.delete(id);
      return request.method === 'DELETE' ? answer(204) : answer(200, chats.get(id));
    }
    return answer(404, { error: { message: 'there is no such thing here' } });
  });
}

async function file(response, path) {
  const name = normalize(path === '/' || extname(path) === '' ? '/index.html' : path);
  try {
    const bytes = await readFile(join(DIST, name));
    response.writeHead(200, { 'content-type': TYPES[extname(name)] ?? 'application/octet-stream', 'content-security-policy': POLICY });
    response.end(bytes);
  } catch {
    response.writeHead(404).end();
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const port = Number(process.argv[2] ?? 11500);
  scripted().listen(port, '127.0.0.1', () => console.log(`http://127.0.0.1:${port}/`));
}
