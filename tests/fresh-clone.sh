#!/usr/bin/env bash
# The first command of README.md on a fresh clone, without a network: builds, answers, compares the bits.
#
# Cargo must have the crates already (`cargo fetch`). Takes as long as a build from nothing, so ./check leaves it out.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
clone=$(mktemp -d)
trap 'rm -rf "$clone"' EXIT

git clone --quiet "$here" "$clone/heph"
cd "$clone/heph"
without_network=()
unshare --user --map-root-user --net true 2>/dev/null && without_network=(unshare --user --map-root-user --net)
[ "${#without_network[@]}" -gt 0 ] || echo "no network namespaces here: cargo alone is told to stay offline"

HEPH_HOME="$clone/home" "${without_network[@]}" cargo run --release --offline -- demo </dev/null | tee "$clone/said"
grep -q ' same$' "$clone/said"
! grep -q ' differs$' "$clone/said"
[ -z "$(git status --porcelain)" ] || { echo "the build left files that git does not ignore"; exit 1; }
echo "1 passed, 0 failed"
