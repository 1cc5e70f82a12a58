#!/usr/bin/env python3
"""llama.cpp's fork ik_llama.cpp as a further peer of ../run.py: its own llama-bench, asked and answering as peer-bench.

    OTHER_PEER="benches/peers/fork.py PATH/TO/llama-bench" benches/run.py pairs ...

Built by its own instructions for the CPU it stands on (`cmake -DGGML_NATIVE=ON`). Asked with attention fused, and with weights
repacked as they are loaded and not, of which the faster counts. A pass of few tokens (`--verify`) is a prompt of so many.
"""
import argparse
import json
import statistics
import subprocess
import sys


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="the fork's llama-bench")
    parser.add_argument("--model", required=True)
    for name in ("threads", "prompt", "gen", "depth", "repetitions"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--verify", default="")
    asked = parser.parse_args()
    # A count of 0 leaves a kind of test out, which would otherwise be taken with a count of its own.
    tests = ["-p", str(asked.prompt), "-n", str(0 if asked.depth else asked.gen)]
    if asked.gen and asked.depth:
        tests += ["-gp", f"{asked.depth},{asked.gen}"]
    for count in filter(None, asked.verify.split(",")):
        tests += ["-p", count]
    runs = [run(asked, tests, repack) for repack in (0, 1)]
    print(json.dumps(max(runs, key=lambda line: statistics.median(line["decode_tok_s"] or line["prefill_tok_s"]))))


def run(asked, tests, repack):
    """The figures of one set-up."""
    command = [asked.program, "-m", asked.model, "-t", str(asked.threads), "-r", str(asked.repetitions), "-fa", "1",
               "-rtr", str(repack), "-o", "json", *tests]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-800:]}")
    line = {"prefill_tok_s": [], "decode_tok_s": [], "repack": repack}
    for test in json.loads(done.stdout):
        rates = test["samples_ts"]
        if test["n_gen"]:
            line["decode_tok_s"] = rates
        elif test["n_prompt"] == asked.prompt:
            line["prefill_tok_s"] = rates
        else:
            seconds = [test["n_prompt"] / rate for rate in rates]
            line.setdefault("verify_s", {})[str(test["n_prompt"])] = seconds
    return line


if __name__ == "__main__":
    main()
