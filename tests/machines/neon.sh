#!/usr/bin/env bash
# The exactness suites on 64-bit ARM, in qemu: NEON with 8-bit dot products and without. Usage: see suites.
set -eu
cd "$(dirname "$0")/../.."
. tests/machines/suites

target=aarch64-unknown-linux-gnu

# on PROCESSOR: the suites run on this processor of the emulator.
on() {
    # With another root than `-L /`, programs with threads hang.
    cargo=(env -u RUSTFLAGS CARGO_TARGET_DIR="$PWD/target/machines/neon" RUSTC=/usr/bin/rustc
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64-static -L / -cpu $1" cargo)
}
on max
isas="scalar neon neondot"

needs /usr/bin/rustc /usr/lib/rustlib/$target /usr/bin/aarch64-linux-gnu-gcc /usr/bin/qemu-aarch64-static \
    /lib/ld-linux-aarch64.so.1

case ${1:-} in
    --can-run) exit 0 ;;
    --planted) planted ;;
    "")
        suites
        # A processor of 2012 must not meet an instruction that it lacks.
        on cortex-a53
        isas="scalar neon"
        suites the_bundled_model the_machine
        ;;
    *) echo "unknown: $1"; exit 2 ;;
esac
