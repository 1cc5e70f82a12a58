// Runs one WebAssembly program (WASI) in Node: node --no-warnings wasi.mjs PROGRAM.wasm [ARGUMENTS].
//
// It sees the files of this repository and the environment, and no thread: whoever asks for one is refused, as on
// a machine that is out of threads. Debian's wasi-libc declares threads and does not define them, so the linker
// leaves them to be given here.
import { readFile } from 'node:fs/promises';
import { WASI } from 'node:wasi';

const REFUSED = 6; // EAGAIN of WASI
const threads = {
    pthread_attr_init: () => 0,
    pthread_attr_setstacksize: () => 0,
    pthread_attr_destroy: () => 0,
    pthread_create: () => REFUSED,
    pthread_join: () => REFUSED,
    pthread_detach: () => 0,
};

const root = new URL('../..', import.meta.url).pathname.replace(/\/$/, '');
const [program, ...rest] = process.argv.slice(2);
const wasi = new WASI({
    version: 'preview1',
    args: [program, ...rest],
    env: process.env,
    preopens: { [root]: root },
    returnOnExit: true,
});
const module = await WebAssembly.compile(await readFile(program));
const unknown = WebAssembly.Module.imports(module).filter(({ module, name }) => module === 'env' && !threads[name]);
if (unknown.length > 0) throw new Error(`${program} wants ${unknown.map((i) => i.name).join(', ')}`);
const instance = await WebAssembly.instantiate(module, { ...wasi.getImportObject(), env: threads });
process.exitCode = wasi.start(instance);
