#!/usr/bin/env python3
"""The network lab: real `heph node` processes in namespaces of their own, with real distance between them.

    run.py --can-run      says what is missing, and ends with 1 where something is
    run.py kills [N] [FIRST]   strikes real nodes in mid-answer, N times and 100 by default, and compares the texts;
                          FIRST is the number of the first answer, from which everything drawn follows
    run.py straits        holds the distances themselves: round trips, rates, loss and cuts, measured by UDP
    run.py all            everything at full length
    run.py                the short version, for ./check: at most 90 s
"""

import statistics
import subprocess
import sys
import time

from netlab import ROOT, Lab, why_not
from nodes import HEPH, small_network, struck

PROBE = ROOT / "tests" / "lab" / "probe.py"
PASSED, FAILED = [], []


def claim(name, holds, detail=""):
    """Counts a claim that holds or does not."""
    (PASSED if holds else FAILED).append(name)
    print(f"{'ok    ' if holds else 'FAILED'} {name}  {detail}", flush=True)


def straits(rtts, mbits):
    """A ping and a flood find the distance that was asked for."""
    with Lab() as lab:
        left, right = lab.host("left"), lab.host("right")
        way = lab.strait(left, right)
        right.start([sys.executable, PROBE, "echo", way.right])
        left.run([sys.executable, PROBE, "ping", way.right, 3])
        for rtt in rtts:
            way.shape(rtt=rtt)
            told = left.run([sys.executable, PROBE, "ping", way.right, 9]).stdout.split()
            median = statistics.median(float(word) for word in told if word != "lost")
            claim(f"a round trip of {rtt} ms", rtt <= median < rtt * 1.02 + 2, f"{median:.2f} ms")
        for mbit in mbits:
            way.shape(rtt=5, mbit=mbit)
            told = left.run([sys.executable, PROBE, "flood", way.right, mbit * 1.5, 1.5]).stdout
            rate = float(told)
            claim(f"a rate of {mbit} Mbit/s", 0.85 * mbit < rate < 1.05 * mbit, f"{rate:.2f} Mbit/s")
        way.shape(rtt=0)
        way.cut("right")
        told = left.run([sys.executable, PROBE, "ping", way.right, 1]).stdout.split()
        claim("a half-open way answers nothing", told == ["lost"])
        way.heal()
        told = left.run([sys.executable, PROBE, "ping", way.right, 1]).stdout.split()
        claim("a healed way answers", told != ["lost"])
        out = left.run(["ip", "route", "get", "192.0.2.1"])
        claim("no way leads out", out.returncode != 0)
    left_over = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    claim("nothing is left over", left.space not in left_over and right.space not in left_over)


def kills(wanted, seconds_max, first=0):
    """Real processes are struck while they work, until so many were; no text changes."""
    hits, wrong, gaps, answers, by_kind = 0, [], {1: [], 2: []}, first, {}
    began = time.monotonic()
    with Lab() as lab:
        desk, nodes = small_network(lab, [5, 20])
        calm = {}
        while hits < wanted and time.monotonic() - began < seconds_max:
            problem, moves, strikes = struck(desk, nodes, calm, answers, 1 + answers % 2)
            answers += 1
            # A node that held nothing when it was struck, or was struck after the answer, does not count.
            lost = {move["from"] for move in moves}
            hits += len(lost)
            gaps[len(strikes)] += [move["gap_s"] for move in moves if move["gap_s"] is not None]
            for kind in strikes if lost else []:
                by_kind[kind] = by_kind.get(kind, 0) + 1
            if problem:
                wrong.append(f"answer {answers - 1}, {', '.join(strikes)}: {problem}")
    print(f"{answers - first} answers, {hits} nodes lost at work: {by_kind}")
    for count, seconds in gaps.items():
        if seconds:
            middle, longest = statistics.median(seconds), max(seconds)
            print(f"{count} struck: from the loss noticed to the next token {middle:.2f} s in the middle, {longest:.2f} s at most")
    for line in wrong[:5]:
        print(f"  {line}")
    claim("losing real nodes changes no text", not wrong, f"{len(wrong)} of {answers - first} answers")
    claim("nodes were lost at work", hits >= wanted, f"{hits} of {wanted}")


def main():
    what = sys.argv[1] if len(sys.argv) > 1 else "short"
    missing = why_not()
    if missing:
        print(missing)
        return 1 if what == "--can-run" else 2
    if what == "--can-run":
        return 0
    if not HEPH.exists():
        print(f"there is no {HEPH}; build it with cargo build --release --workspace")
        return 2
    if what in ("straits", "all"):
        straits([0, 5, 20, 80, 150, 300], [1, 10, 100])
    if what in ("kills", "all"):
        kills(*[int(word) for word in (sys.argv[2:] + ["100"])[:1]], 1800, *map(int, sys.argv[3:4]))
    if what == "short":
        straits([0, 80], [10])
        kills(3, 70)
    if not PASSED + FAILED:
        print(__doc__)
        return 2
    print(f"{len(PASSED)} passed, {len(FAILED)} failed")
    return 1 if FAILED else 0


if __name__ == "__main__":
    sys.exit(main())
