#!/usr/bin/env bash
# The first command of README.md on a fresh clone, without a network: builds, answers, compares the bits.
#
# Cargo must have the crates already (`cargo fetch`). Takes as long as a build from nothing, so ./check leaves it out.
set -eu -o pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
clone=$(mktemp -d)
trap 'rm -rf "$clone"' EXIT

git clone --quiet "$here" "$clone/heph"
cd "$clone/heph"
# A network of its own with nobody in it but this machine.
alone=(unshare --user --map-root-user --net sh -c 'ip link set lo up && exec "$@"' alone)
"${alone[@]}" true 2>/dev/null || { alone=(); echo "no network namespaces here: cargo alone is told to stay offline"; }

HEPH_HOME="$clone/home" "${alone[@]}" cargo run --release --offline -- demo </dev/null | tee "$clone/said"
grep -q ' same$' "$clone/said"
! grep -q ' differs$' "$clone/said"
# Every mode, and a node that was killed, said the same.
[ "$(grep -c '  yes  ' "$clone/said")" -eq 7 ]
[ -z "$(git status --porcelain)" ] || { echo "the build left files that git does not ignore"; exit 1; }
echo "1 passed, 0 failed"
