#!/usr/bin/env python3
"""A way whose rate falls and rises in the middle of an answer: what a desk sends then, and how soon it knows.

    steps.py --can-run     says what is missing, and ends with 1 where something is
    steps.py long [RTT..]  every step between 100, 10 and 1 Mbit/s at each round trip (10, 40 and 150 ms); what came of it are
                           lines of benches/raw/network.jsonl
    steps.py               the short version, for ./check: about fifteen seconds

Two desks at once, each with a `heph node` behind a strait of its own that has the same rates at the same moments, and a model whose rows
are as long as those of a billion parameters. One is `heph run`: its packets are read with the keys that a test build writes, so it is
known in which format rows were asked for when. The other, `span follow`, decodes by the same library and tells with each token what it
takes the way to carry. Rows go both ways: the nodes may see activations alone, so the ends of the model stay at the desks.
"""

import contextlib
import json
import math
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import capture
import quic
from claims import claim, no_start, verdict
from conversations import orders
from netlab import PROFILE, ROOT, TARGET, Lab, why_not
from nodes import HEPH, PORT, PROMPTS, Desk, Node

sys.path.append(str(ROOT / "benches"))
import raw_lines  # noqa: E402

RAW = ROOT / "benches" / "raw" / "network.jsonl"
SPAN, WORLD = TARGET / "span", TARGET / "world"

# How soon a step has to be followed.
FOLLOWED_S = 1.0

# Megabits a second, one after another, and how long each holds.
SHORT, SHORT_S = [100, 10, 1, 100], 1.6
LONG, LONG_S = [100, 10, 1, 10, 100, 1, 100], 2.0
RTTS = [10, 40, 150]

# Nodes see no more of a text than rows.
ROWS_ALONE = ["--allow", "own=activations"]

# Positions that the model holds, less those of the question.
TOKENS_MAX = 900

# How long both desks may take to begin.
BEGIN_S = 30


def steps(rtt, rates, each_s):
    """Both desks over ways with these rates, each for so long. Returns what is known of each step."""
    with Lab() as lab, tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        model = folder / "wide.gguf"
        with model.open("wb") as out:
            subprocess.run([WORLD, "wide"], stdout=out, check=True)
        asks, follows = (Desk(lab.host(name)) for name in ("asks", "follows"))
        nodes = [met(lab, desk, model, rtt, rates[0]) for desk in (asks, follows)]
        asks.join(nodes[0])
        tokens = min(TOKENS_MAX, int(each_s * len(rates) / (rtt / 1e3 + 0.004)))
        ask = lambda mode: asks.ask(mode, PROMPTS[0], 7, tokens, 0, "--model", model, *ROWS_ALONE, timeout=300)
        here = ask("local")
        asks.more = {"SSLKEYLOGFILE": str(folder / "keys")}
        with capture.listening(asks, folder / "packets"), following(follows, nodes[1], model, folder / "believed"):
            answer = Answer(lambda: ask("layered"))
            begun(folder / "believed")
            told = []
            for rate in rates:
                for node in nodes:
                    node.way.rate(rate)
                told.append((time.time(), rate))
                time.sleep(each_s)
            told.append((time.time(), None))
            there = answer.told()
        lasted = answer.ended >= told[-1][0]
        believed = [json.loads(line) for line in (folder / "believed").read_text().splitlines() if line.endswith("}")]
        asked = read(folder)
    claim(f"{rtt} ms: rates change no text", there["text"] == here["text"], f"{there['answer_tokens']} tokens")
    claim(f"{rtt} ms: the answer is exact, and the rates change in the middle of it", there["receipt"]["exactness"] == "exact" and lasted)
    return [one(rtt, told[n : n + 3], asked, believed) for n in range(len(rates) - 1)]


def met(lab, desk, model, rtt, mbit):
    host = lab.host(f"node-{desk.host.name}")
    return Node(host, lab.strait(desk.host, host, rtt=rtt, mbit=mbit), models=[model])


@contextlib.contextmanager
def following(desk, node, model, path):
    """The desk that tells what it takes its way to carry goes on meanwhile."""
    with path.open("w") as out:
        command = [SPAN, "follow", model, desk.home, node.ticket, 1000]
        process = desk.host.start(command, env=desk.environment(), stdout=out)
        try:
            yield
        finally:
            process.kill()
            process.wait()


def begun(path):
    """Waits until the second desk tells of a token, and a little: the first one loads its model as long."""
    until = time.monotonic() + BEGIN_S
    while not path.stat().st_size:
        if time.monotonic() > until:
            raise RuntimeError("span follow did not begin")
        time.sleep(0.02)
    time.sleep(1)


class Answer(threading.Thread):
    """An answer that is waited for elsewhere."""

    def __init__(self, ask):
        super().__init__(daemon=True)
        self.ask, self.came, self.why = ask, None, None
        self.start()

    def run(self):
        try:
            self.came = self.ask()
        except (RuntimeError, TimeoutError, ValueError) as error:
            self.why = error
        self.ended = time.time()

    def told(self):
        self.join()
        if self.why:
            raise self.why
        return self.came


def read(folder):
    """What the desk asked its node for, as its packets say."""
    reader = quic.Reader(quic.secrets(folder / "keys"))
    for packet in capture.packets(folder / "packets"):
        if packet.protocol == 17 and not packet.loopback and PORT in (packet.source[1], packet.destination[1]):
            reader.datagram(packet.source, packet.destination, packet.body, packet.when)
    return orders(reader)


def one(rtt, told, asked, believed):
    """One step: (when, rate) before, at and after it."""
    (_, before), (at, rate), (end, _) = told
    those = [line for line in believed if at <= line["at"] < end]
    sent = [order for order in asked if at <= order.when < end]
    step = {"rtt_ms": rtt, "from_mbit": before, "to_mbit": rate}
    for way in ("up", "down"):
        near = [line["at"] - at for line in those if nearest(line[way]) == rate]
        late = [line[way] for line in those if line["at"] >= at + FOLLOWED_S]
        settled = bool(late) and nearest(statistics.median(late)) == rate
        step |= {f"{way}_s": near[0] if near and settled else None, f"{way}_mbit": statistics.median(late) / 125e3 if late else None}
    wide = [order.when - at for order in sent if {order.up, order.down} & {"f32"}]
    gaps = [b.when - a.when for a, b in zip(sent, sent[1:]) if a.when >= at + FOLLOWED_S and b.first == a.first + 1]
    step |= {"formats": sorted({f"{order.up} {order.down}" for order in sent}), "wide_s": max(wide, default=0.0)}
    return step | {"token_ms": statistics.median(gaps) * 1e3 if gaps else None}


def nearest(bytes_per_second):
    """That of the rates that so many bytes a second are nearest to, by how many times they are."""
    known = bytes_per_second and bytes_per_second > 0
    return min(SHORT, key=lambda mbit: abs(math.log(mbit * 125e3 / bytes_per_second))) if known else None


def claims(told):
    rtt = told[0]["rtt_ms"]
    for way in ("up", "down"):
        took = [step[f"{way}_s"] for step in told]
        late = [f"{step['from_mbit']} to {step['to_mbit']}" for step in told if step[f"{way}_s"] is None or step[f"{way}_s"] > FOLLOWED_S]
        known = [seconds for seconds in took if seconds is not None]
        detail = f"{statistics.median(known):.2f} s in the middle, {max(known):.2f} s at most, of {len(took)}" if known else "none was"
        claim(f"{rtt} ms: a step {way} is known within {FOLLOWED_S:g} s", not late, f"{detail}{'; late: ' if late else ''}{', '.join(late)}")
    wide = max(step["wide_s"] for step in told)
    formats = sorted({each for step in told for each in step["formats"]})
    claim(f"{rtt} ms: rows travel in what suits the new rate within {FOLLOWED_S:g} s", formats and wide <= FOLLOWED_S, ", ".join(formats))
    for step in told:
        took = ", ".join(f"{way} {step[f'{way}_s']:.2f} s" for way in ("up", "down") if step[f"{way}_s"] is not None)
        pace = f"{step['token_ms']:.0f} ms a token" if step["token_ms"] else "no token"
        print(f"  {step['from_mbit']} to {step['to_mbit']} Mbit/s: known {took}; then {pace}")


def main():
    what = sys.argv[1] if len(sys.argv) > 1 else "short"
    if (code := no_start(what, why_not() or quic.MISSING, HEPH)) is not None:
        return code
    if what == "short":
        claims(steps(40, SHORT, SHORT_S))
    if what == "long":
        for rtt in [int(word) for word in sys.argv[2:]] or RTTS:
            told = steps(rtt, LONG, LONG_S)
            claims(told)
            for step in told:
                raw_lines.keep(RAW, "steps", profile=PROFILE, **step)
    return verdict(__doc__)


if __name__ == "__main__":
    sys.exit(main())
