#!/usr/bin/env python3
"""The network lab: real `heph node` processes in namespaces of their own, with real distance between them.

    run.py --can-run      says what is missing, and ends with 1 where something is
    run.py kills [N] [FIRST]   strikes real nodes in mid-answer, N times and 100 by default, and compares the texts;
                          FIRST is the number of the first answer, from which everything drawn follows
    run.py dead [N]       strikes both nodes of N answers (20 by default) at one moment: how much later they end
    run.py relayed        asks a machine that no direct way leads to, by the relay that it waits at
    run.py straits        holds the distances themselves: round trips, rates, loss and cuts, measured by UDP
    run.py all            everything at full length
    run.py                the short version, for ./check: at most two minutes
"""

import statistics
import subprocess
import sys
import threading
import time

from claims import claim, no_start, verdict
from netlab import ROOT, Lab, ip, why_not
from nodes import HEPH, PROMPTS, Desk, Node, Relay, small_network, struck

PROBE = ROOT / "tests" / "lab" / "probe.py"

# How much later an answer ends that lost both of its nodes: a silent connection is given up after 2.4 s, another is tried beside
# it, and a machine that does much else takes as long again.
DEAD_SECONDS_MAX = 5


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
            # None is sooner, and one meets no other work.
            soonest = min(float(word) for word in told if word != "lost")
            claim(f"a round trip of {rtt} ms", rtt <= soonest < rtt * 1.02 + 2, f"{soonest:.2f} ms")
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


def dead(wanted, seconds_max):
    """Both nodes of an answer are struck at one moment, until so many answers lost one: the next that is asked is dead, too."""
    late, wrong, answers = [], [], 0
    began = time.monotonic()
    with Lab() as lab:
        desk, nodes = small_network(lab, [5, 20])
        ask = lambda mode: desk.ask(mode, PROMPTS[0], 7, 90, 0)
        calm, usual = ask("local"), ask("layered")
        while len(late) < wanted and time.monotonic() - began < seconds_max:
            how, share = ("kill -9", "SIGSTOP")[answers % 2], (0.6, 0.4, 0.5, 0.7)[answers // 2 % 4]
            answers += 1
            timers = [threading.Timer(usual["seconds"] * share, node.strike, [how]) for node in nodes]
            for timer in timers:
                timer.start()
            try:
                told = ask("layered")
                wrong += [answers] if told["text"] != calm["text"] else []
                if told["receipt"]["moves"]:
                    late.append(told["seconds"] - usual["seconds"])
                else:
                    # Nobody was struck in time: it is as long as an answer takes now.
                    usual = told
            except RuntimeError as error:
                # Both gone before the plan was made: that is said, and right.
                wrong += [] if "no plan is possible" in str(error) else [answers]
            for timer in timers:
                timer.join()
            for node in nodes:
                node.recover()
    detail = f"{statistics.median(late):.2f} s in the middle, {max(late):.2f} s at most, of {len(late)}" if late else "nobody was lost"
    claim("losing both nodes changes no text", not wrong, f"{len(wrong)} of {answers} answers")
    claim("both nodes were lost at work", len(late) >= wanted, f"{len(late)} of {wanted}")
    claim(f"two dead hosts make it {DEAD_SECONDS_MAX} s later at most", bool(late) and max(late) <= DEAD_SECONDS_MAX, detail)


NO_RELAYS = """version = 1
preset = "own-devices"

[[rule]]
name = "no relays"
when = { to = ["relay"] }
then = "deny"
"""


def relayed():
    """A desk that reaches its node by a relay alone: as a person does who is not at home."""
    with Lab() as lab:
        near, middle, far = lab.host("near"), lab.host("middle"), lab.host("far")
        left, right = lab.strait(near, middle, rtt=10), lab.strait(middle, far, rtt=10)
        # One address for both sides, which each reaches by its own strait and no further.
        meeting = "10.99.0.1"
        ip("-n", middle.space, "addr", "add", meeting, "dev", "lo")
        for host, own, other in ((near, left.left, left.right), (far, right.right, right.left)):
            ip("-n", host.space, "route", "add", meeting, "via", other, "src", own)
        relay = Relay(middle, meeting)
        node, desk = Node(far, right, relay=relay.address), Desk(near)
        desk.join(node)
        here = desk.ask("local", PROMPTS[0], 7, 90, 0.8)
        for mode in ("remote", "layered"):
            told = desk.ask(mode, PROMPTS[0], 7, 90, 0.8)
            places = {place["name"] for place in told["receipt"]["places"]}
            claim(f"{mode} over a relay says the same", told["text"] == here["text"] and far.name in places, str(places))
        peers = desk.heph("peers")
        claim("the list of machines says by which way", "through a relay" in peers, peers)
        # The policy keeps the relay from learning who speaks to whom.
        policy = desk.home / "policy.toml"
        policy.write_text(NO_RELAYS)
        try:
            refused = desk.ask("remote", PROMPTS[0], 7, 20, 0)["text"]
        except RuntimeError as error:
            refused = str(error)
        claim("a rule against relays is kept, and named", "no relays" in refused, refused)
        policy.unlink()
        # A relay that dies in the middle of an answer.
        usual = desk.ask("layered", PROMPTS[0], 7, 200, 0.8)
        timer = threading.Timer(0.7 * usual["seconds"], relay.process.kill)
        timer.start()
        told = desk.ask("layered", PROMPTS[0], 7, 200, 0.8)
        timer.join()
        moves = told["receipt"]["moves"]
        claim("a relay that dies changes no text", moves and told["text"] == usual["text"], str(moves))


def main():
    what = sys.argv[1] if len(sys.argv) > 1 else "short"
    if (code := no_start(what, why_not(), HEPH)) is not None:
        return code
    if what in ("straits", "all"):
        straits([0, 5, 20, 80, 150, 300], [1, 10, 100])
    if what in ("kills", "all"):
        kills(*[int(word) for word in (sys.argv[2:] + ["100"])[:1]], 1800, *map(int, sys.argv[3:4]))
    if what in ("dead", "all"):
        dead(int((sys.argv[2:] + ["20"])[0]), 1800)
    if what in ("relayed", "all", "short"):
        relayed()
    if what == "short":
        straits([0, 80], [10])
        kills(3, 70)
        dead(2, 60)
    return verdict(__doc__)


if __name__ == "__main__":
    sys.exit(main())
