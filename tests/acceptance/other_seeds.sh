#!/usr/bin/env bash
# other_seeds: reference models of other seeds than those that `check` compares with.
#
#     tests/acceptance/other_seeds.sh [SEED...]      seeds 1 and 7 where none is named
#
# Makes random models with ../shared/accept/reference_models.py, runs `heph logits` on each and compares with what
# PyTorch says. The first time it makes a Python environment with PyTorch, which takes minutes and gigabytes, so it is
# not part of `check`; PYTHON names another one that has torch, transformers, sentencepiece, safetensors and gguf.
# Seen on 24 November 2026 with seeds 1 and 7: each of the 9 Hugging Face folders of either seed passes (the GGUF files
# want llama.cpp's converter, which this script does without).
set -eu
cd "$(dirname "$0")/../.."
accept=$(cd ../shared/accept && pwd)
heph=target/tests/heph
venv=target/other-seeds/venv
python=${PYTHON:-$venv/bin/python}
only=llama,llama-gqa-rope3,llama-linear-rope,mistral-swa,mistral,mixtral,qwen2,qwen3,qwen3moe
[ "$#" -gt 0 ] || set -- 1 7

cargo build --profile tests --quiet
if ! "$python" -c 'import torch, transformers, sentencepiece, safetensors, gguf' 2>/dev/null; then
    python3 -m venv "$venv"
    python=$venv/bin/python
    "$python" -m pip install --quiet numpy safetensors torch transformers sentencepiece gguf
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failed=0
for seed in "$@"; do
    printf 'seed %s\n' "$seed"
    "$python" "$accept/reference_models.py" "$folder/$seed" --seed "$seed" --no-peer --only "$only" >"$folder/$seed.log" 2>&1 ||
        { tail -n 20 "$folder/$seed.log"; exit 1; }
    "$python" "$accept/compare_logits.py" "$folder/$seed" \
        --cmd "$heph logits --model {model} --prompts {ids} --greedy {n} --out {out}" || failed=1
    rm -rf "${folder:?}/$seed"
done
exit "$failed"
