#!/usr/bin/env python3
"""Compares the vectors of `heph embed` with the stored ones of all-MiniLM-L6-v2, computed in 32-bit floats elsewhere.

usage: embeddings.py EXPECTED.jsonl HEPH MODEL_FOLDER [LEAST_COSINE]

Each text must have the same tokens in number, a vector of length 1, and a cosine to the stored one of at least 0.9999.
"""

import json
import math
import subprocess
import sys

# What the stored vectors read of a text at most.
TOKENS_MAX = 256


def main(expected, heph, model, least="0.9999"):
    wanted = [json.loads(line) for line in open(expected, encoding="utf-8")]
    command = [heph, "embed", "--model", model, "--json", "--cut", str(TOKENS_MAX), "--", *(w["text"] for w in wanted)]
    answers = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout.splitlines()
    if len(answers) != len(wanted):
        sys.exit(f"{len(answers)} answers to {len(wanted)} texts")
    bad, worst = 0, 1.0
    for want, line in zip(wanted, answers):
        got = json.loads(line)
        vector, stored = got["embedding"], want["embedding"]
        length = math.sqrt(sum(x * x for x in vector))
        cosine = sum(a * b for a, b in zip(vector, stored)) / (length * math.sqrt(sum(x * x for x in stored)))
        worst = min(worst, cosine)
        same = len(vector) == len(stored) and got["tokens"] == len(want["ids"]) and abs(length - 1) < 1e-3
        if not same or cosine < float(least):
            bad += 1
            print(f"FAIL {want['id']} {want['text'][:30]!r}: {got['tokens']} tokens, {len(want['ids'])} wanted, cosine {cosine:.6f}, length {length:.4f}")
    print(f"worst cosine {worst:.6f}")
    print(f"{len(wanted) - bad} passed, {bad} failed")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
