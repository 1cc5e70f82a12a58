#!/usr/bin/env bash
# The exactness suites on WebAssembly with 128-bit SIMD, in Node. Usage: see suites.
set -eu
cd "$(dirname "$0")/../.."
. tests/machines/suites

libc=/usr/lib/wasm32-wasi
target=wasm32-wasip1
isas="scalar wasm"
flags="-C target-feature=+simd128 -C linker-flavor=wasm-ld -C link-self-contained=no"
flags+=" -C link-arg=$libc/crt1-command.o -L native=$libc"
# The functions for threads that wasi-libc lacks come from wasi.mjs.
flags+=" -C link-arg=--allow-undefined"
# Debian has no standard library for this target, so it is built along, by the cargo of the same version.
cargo=(env -u RUSTFLAGS CARGO_TARGET_DIR="$PWD/target/machines/wasm" RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1
    CARGO_TARGET_WASM32_WASIP1_LINKER=/usr/bin/wasm-ld CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS="$flags"
    CARGO_TARGET_WASM32_WASIP1_RUNNER="node --no-warnings $PWD/tests/machines/wasi.mjs"
    /usr/bin/cargo -Zbuild-std=std,panic_abort,test)

needs /usr/bin/rustc /usr/bin/cargo /usr/lib/rustlib/src/rust/library /usr/bin/wasm-ld $libc/crt1-command.o
node -e 'require("node:wasi")' 2>/dev/null || { echo "no Node with node:wasi"; exit 77; }

case ${1:-} in
    --can-run) exit 0 ;;
    # A panic ends the program, so its words must not wait for the end of the test.
    --planted) planted --nocapture ;;
    "") suites --nocapture ;;
    *) echo "unknown: $1"; exit 2 ;;
esac
