#!/usr/bin/env bash
# llama_opens: llama.cpp opens what `heph quantize` writes, in every type, and answers with it.
#
#     tests/acceptance/llama_opens.sh             the bundled model, with target/tests/heph
#     tests/acceptance/llama_opens.sh --can-run   whether a llama.cpp is here; says why if not
#
# llama.cpp is benches/peers (`cargo build --release` there builds it), or the program that PEER names.
set -u
cd "$(dirname "$0")/../.." || exit 1
heph=${HEPH:-$PWD/target/tests/heph}
peer=${PEER:-$PWD/benches/peers/target/release/peer-bench}
types="f32 f16 bf16 q8_0 q4_0 q4_1 q5_0 q5_1 q2_k q3_k_s q3_k_m q3_k_l q4_k_s q4_k_m q5_k_s q5_k_m q6_k iq4_nl mxfp4"

if [ "${1:-}" = --can-run ]; then
    [ -x "$peer" ] || { echo "benches/peers is not built"; exit 1; }
    exit 0
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export HEPH_HOME=$folder/home
passed=0 failed=0
for type in $types; do
    file=$folder/$type.gguf
    if said=$("$heph" quantize heph-story "$file" --type "$type" 2>&1) &&
        said=$(timeout 60 "$peer" bench --model "$file" --threads 1 --prompt 8 --gen 4 --repetitions 1 2>&1) &&
        [[ $said == *decode_tok_s* ]]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'FAILED %s: %s\n' "$type" "$said"
    fi
    rm -f "$file"
done
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
