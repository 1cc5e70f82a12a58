// The real `heph serve`, with a home of its own, and a cable before it that can be cut.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The program; `HEPH` names another. */
export const program = process.env.HEPH ?? fileURLToPath(new URL('../../../target/tests/heph', import.meta.url));

/** Why the door cannot be opened here, or nothing. */
export const missing = reason();

function reason() {
  if (!existsSync(program)) return `no ${program}: build it first`;
  return spawnSync(program, ['serve', '--help']).status === 0 ? '' : `${program} has no command serve`;
}

/** A machine that computes for others too may take this long to load the model, in milliseconds. */
const START_MAX = 60_000;

function freePort() {
  return new Promise((give, fail) => {
    const server = createServer();
    server.on('error', fail);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => give(port));
    });
  });
}

/** Starts `heph serve`, waits until it answers, and gives its address, its token and how to end it. */
export async function serve() {
  const home = await mkdtemp(join(tmpdir(), 'heph-page-'));
  const port = await freePort();
  const env = { ...process.env, HEPH_HOME: home, HEPH_MODELS: join(home, 'models'), RUST_LOG: 'error' };
  const child = spawn(program, ['serve', '--listen', `127.0.0.1:${port}`], { env, stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  const ended = new Promise((resume) => child.on('exit', resume));
  const token = await new Promise((give, fail) => {
    const hear = (piece) => {
      said += piece;
      const found = /#token=(\S+)/.exec(said);
      if (found) give(found[1]);
    };
    child.stdout.on('data', hear);
    child.stderr.on('data', hear);
    child.on('error', fail);
    void ended.then((code) => fail(new Error(`heph serve ended with ${code}: ${said}`)));
    setTimeout(() => fail(new Error(`heph serve did not say where it is: ${said}`)), START_MAX).unref();
  });
  const address = `http://127.0.0.1:${port}`;
  const ask = (path, init = {}) => fetch(address + path, { ...init, headers: { authorization: `Bearer ${token}`, ...init.headers } });
  for (const until = Date.now() + START_MAX; ; ) {
    const answer = await fetch(`${address}/health`).catch(() => null);
    if (answer?.ok) break;
    if (Date.now() > until) throw new Error(`heph serve does not answer: ${said}`);
    await new Promise((resume) => setTimeout(resume, 100));
  }
  const end = async () => {
    child.kill('SIGTERM');
    const timer = setTimeout(() => child.kill('SIGKILL'), 5000);
    await ended;
    clearTimeout(timer);
    await rm(home, { recursive: true, force: true });
  };
  return { address, port, token, home, ask, end };
}

/** A cable to `port` that breaks each answer of an event stream after so many bytes, as often as `cuts` says; or, for no
 *  cuts, holds back what follows, as if the answer were slow. */
export function cable(port, bytes, cuts) {
  const state = { left: cuts, cut: 0, held: 0 };
  const server = createServer((near) => {
    const far = connect(port, '127.0.0.1');
    let streamed = -1;
    near.pipe(far);
    far.on('data', (piece) => {
      if (streamed < 0 && piece.includes('text/event-stream')) streamed = 0;
      if (streamed >= 0 && cuts === 0) {
        near.write(piece.subarray(0, Math.max(0, bytes - streamed)));
        streamed += piece.length;
        state.held = Math.max(0, streamed - bytes);
        return;
      }
      if (streamed < 0 || streamed + piece.length <= bytes || state.left === 0) {
        if (streamed >= 0) streamed += piece.length;
        near.write(piece);
        return;
      }
      state.left -= 1;
      state.cut += 1;
      // What fits still arrives: the reader must know what it was reading to go on with it.
      near.end(piece.subarray(0, bytes - streamed));
      far.destroy();
    });
    near.on('error', () => far.destroy());
    near.on('close', () => far.destroy());
    far.on('error', () => near.destroy());
    far.on('close', () => near.end());
  });
  return new Promise((ready) => {
    server.listen(0, '127.0.0.1', () => ready({ address: `http://127.0.0.1:${server.address().port}`, state, close: () => server.close() }));
  });
}
