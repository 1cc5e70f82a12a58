"""Real `heph node` processes in the lab, and a desk that has met them."""

import json
import os
import pathlib
import random
import signal
import subprocess
import tempfile
import threading
import time

from netlab import TARGET

HEPH = pathlib.Path(os.environ.get("HEPH", TARGET / "heph"))
PORT, RELAY_PORT = 7842, 7843

# What a node is struck by: its process killed or stopped, its words lost on the way, its cable cut.
STRIKES = ["kill -9", "SIGSTOP", "half-open", "cut"]


class Machine:
    """A host with a folder of its own."""

    def __init__(self, host):
        self.host = host
        self.home = pathlib.Path(tempfile.mkdtemp(prefix=f"{host.space}-"))
        # Variables of every program on it.
        self.more = {}
        host.lab.folders.append(self.home)

    def environment(self, threads=1):
        kept = {name: os.environ[name] for name in ("PATH", "RUST_BACKTRACE") if name in os.environ}
        return kept | {"HEPH_HOME": str(self.home), "HEPH_KEYS": "file", "HEPH_THREADS": str(threads)} | self.more


class Node(Machine):
    """A `heph node`."""

    def __init__(self, host, way, models=("heph-story",), cpus=None, relay=None):
        super().__init__(host)
        self.way, self.models, self.cpus, self.relay = way, models, cpus, relay
        self.start()

    def start(self):
        """The process; its identity and its list of peers outlive it."""
        models = [word for model in self.models for word in ("--model", str(model))]
        command = [HEPH, "node", "--json", "--listen", f"{self.way.right}:{PORT}", "--name", self.host.name, *models]
        command += ["--relay", self.relay] if self.relay else []
        self.process = self.host.start(
            command,
            cpus=self.cpus,
            env=self.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.host.name} did not start")
        self.ticket = json.loads(line)["ticket"]

    def strike(self, how):
        if how == "kill -9":
            self.process.kill()
        elif how == "SIGSTOP":
            self.process.send_signal(signal.SIGSTOP)
        elif how == "half-open":
            self.way.cut("right")
        else:
            self.way.cut("both")

    def recover(self):
        """A fresh process on a whole way."""
        self.process.kill()
        self.process.wait()
        self.way.heal()
        self.start()


class Relay(Machine):
    """A `heph relay` that machines reach at this address."""

    def __init__(self, host, address):
        super().__init__(host)
        command = [HEPH, "relay", "--listen", f"0.0.0.0:{RELAY_PORT}", "--host", address]
        self.process = host.start(
            command, env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.address = self.process.stdout.readline().strip()
        if not self.address:
            raise RuntimeError(f"{host.name} did not start")


class Desk(Machine):
    """Where questions are asked."""

    def __init__(self, host, cpus=None):
        super().__init__(host)
        self.cpus = cpus

    def heph(self, *words, timeout=60):
        return self.both(*words, timeout=timeout)[0]

    def both(self, *words, timeout=60):
        """What the program says on standard output, and on standard error."""
        out = self.host.run([HEPH, *words], timeout=timeout, cpus=self.cpus, env=self.environment())
        if out.returncode:
            raise RuntimeError(f"heph {' '.join(map(str, words))} ended with {out.returncode}: {out.stderr.strip()}")
        return out.stdout, out.stderr

    def join(self, node):
        self.heph("join", node.ticket)

    def ask(self, mode, prompt, seed, tokens, temperature, *more, timeout=60):
        """The answer with its receipt, and the seconds that the program took."""
        began = time.monotonic()
        words = ["run", "--json", "--mode", mode, "--seed", seed, "--max-tokens", tokens, "--temperature", temperature]
        told = json.loads(self.heph(*words, *more, prompt, timeout=timeout))
        return told | {"seconds": time.monotonic() - began}


def small_network(lab, rtts, **shape):
    """A desk and a node behind each round trip, met."""
    desk = Desk(lab.host("desk"))
    nodes = []
    for number, rtt in enumerate(rtts):
        name = f"node-{'abcdefgh'[number]}"
        host = lab.host(name)
        way = lab.strait(desk.host, host, rtt=rtt, **shape)
        nodes.append(Node(host, way))
        desk.join(nodes[-1])
    return desk, nodes


PROMPTS = ["Tell me a story about a little fox.", "Why is the sky blue?", "Tell me about a girl and her boat."]


def struck(desk, nodes, calm, number, count):
    """One answer in whose middle `count` nodes are struck. Returns (same, moves, strikes, what went wrong)."""
    dice = random.Random(number)
    prompt, temperature = PROMPTS[number % 3], (0, 0.8)[number // 3 % 2]
    mode = ("layered", "remote", "layered")[number // 6 % 3]
    key = (prompt, temperature)
    if key not in calm:
        calm[key] = desk.ask("local", prompt, 7, 90, temperature)
    usual = calm.setdefault((mode, *key), None) or desk.ask(mode, prompt, 7, 90, temperature)
    calm[(mode, *key)] = usual
    chosen = dice.sample(nodes, count)
    strikes = [(node, dice.choice(STRIKES), usual["seconds"] * dice.uniform(0.3, 0.9)) for node in chosen]
    timers = [threading.Timer(after, node.strike, [how]) for node, how, after in strikes]
    for timer in timers:
        timer.start()
    try:
        told = desk.ask(mode, prompt, 7, 90, temperature)
        wrong = None if told["text"] == calm[key]["text"] else "another text"
        moves = told["receipt"]["moves"]
    except (RuntimeError, TimeoutError, ValueError) as error:
        # With every node gone before the plan was made, the mode that was asked for cannot be: that is said, and right.
        refused = count == len(nodes) and "no plan is possible" in str(error)
        wrong, moves = None if refused else str(error), []
    for timer in timers:
        timer.cancel()
        timer.join()
    for node in chosen:
        node.recover()
    return wrong, moves, [how for _, how, _ in strikes]

