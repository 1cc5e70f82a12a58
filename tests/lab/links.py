#!/usr/bin/env python3
"""Peers over real distance: who is there, relays, silence, the local network.

    links.py --can-run     says what is missing, and ends with 1 where something is
    links.py               the short version, for ./check: about a minute
    links.py deaths        40 killed processes, and how long the others took to notice
    links.py alarms [MIN]  nobody dies for so long (30 minutes) at 300 ms and 1 % loss
    links.py relay [S]     a relay's rate over so long (300 seconds), the direct way closed
    links.py all           everything at full length

The machines are processes of `cargo build --profile tests -p heph-net --example meet`, each in a network namespace.
"""

import json
import math
import os
import random
import subprocess
import sys
import tempfile
import threading
import time

from claims import claim, no_start, verdict
from netlab import TARGET, Lab, ip, why_not

MEET = TARGET / "examples" / "meet"


class Machine:
    """A `meet` process; what it tells is kept in `told`."""

    def __init__(self, host, *words):
        command = [MEET, *words]
        self.process = host.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.told = []
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.process.stdout:
            self.told.append(json.loads(line))

    def when(self, *keys, since=0.0, patience=30.0, **values):
        """The first line, told after `since` seconds of 1970, that has the keys and values."""
        until = time.time() + patience
        while True:
            for line in list(self.told):
                fits = all(key in line for key in keys) and all(line.get(k) == v for k, v in values.items())
                if fits and line["at"] >= since * 1e3:
                    return line
            if time.time() > until:
                return None
            if self.process.poll() is not None and not self.process.stdout:
                return None
            time.sleep(0.01)

    def kill(self):
        """Kills it, and says when. `ip netns exec` has become the program, so nothing stands between."""
        at = time.time()
        self.process.kill()
        self.process.wait()
        return at


def identity(home):
    told = subprocess.run([MEET, "id", home], capture_output=True, text=True, check=True)
    return json.loads(told.stdout)["node"]


class Gathering:
    """Machines that know of each other, `place(from, to)` saying where."""

    def __init__(self, hosts, folder, bind, place):
        self.hosts, self.bind, self.place = hosts, bind, place
        self.homes = [os.path.join(folder, str(n)) for n in range(len(hosts))]
        self.nodes = [identity(home) for home in self.homes]
        self.machines = [self.start(n) for n in range(len(hosts))]

    def start(self, n):
        others = [o for o in range(len(self.hosts)) if o != n]
        known = [f"{self.nodes[o]}={self.place(n, o)}" for o in others]
        return Machine(self.hosts[n], "gather", self.homes[n], self.bind(n), *known)

    def complete(self, since=0.0, patience=40.0):
        """Whether everybody sees everybody."""
        pairs = [(m, node) for n, m in enumerate(self.machines) for o, node in enumerate(self.nodes) if o != n]
        return all(m.when(node=node, **{"is": "Here"}, since=since, patience=patience) for m, node in pairs)


def deaths(count, machines):
    """Kills one after another, and counts how long each of the others took to take it for gone."""
    took, blamed = [], 0
    with Lab() as lab, tempfile.TemporaryDirectory() as folder:
        host = lab.host("all")
        socket = lambda n: f"127.0.0.1:{7700 + n}"
        gathering = Gathering([host] * machines, folder, socket, lambda _, o: socket(o))
        claim(f"{machines} processes find each other", gathering.complete())
        for _ in range(count):
            victim = random.randrange(machines)
            time.sleep(random.random() * 0.5)
            at = gathering.machines[victim].kill()
            others = [m for n, m in enumerate(gathering.machines) if n != victim]
            for other in others:
                told = other.when(node=gathering.nodes[victim], **{"is": "Away"}, since=at, patience=12)
                took.append(told["at"] / 1e3 - at if told else math.inf)
            gathering.machines[victim] = gathering.start(victim)
            back = time.time()
            for other in others:
                if not other.when(node=gathering.nodes[victim], **{"is": "Here"}, since=at, patience=12):
                    claim("a process that comes back is seen", False, f"after {time.time() - back:.1f} s")
            everybody = range(machines)
            alive = [gathering.nodes[n] for n in everybody if n != victim]
            blamed += sum(line.get("is") == "Away" and line["at"] >= at * 1e3 and line["node"] in alive for m in others for line in m.told)
    took.sort()
    p99 = took[min(len(took) - 1, math.ceil(len(took) * 0.99) - 1)]
    seen = f"median {took[len(took) // 2]:.2f} s, p99 {p99:.2f} s, longest {took[-1]:.2f} s, of {len(took)}"
    claim(f"{count} killed processes are noticed within 3 s at p99", p99 <= 3.0, seen)
    claim("nobody else was taken for dead", blamed == 0, f"{blamed} times")


def alarms(minutes, rtt=300, loss=0.01):
    """Three machines in a triangle; nobody dies."""
    with Lab() as lab, tempfile.TemporaryDirectory() as folder:
        hosts = [lab.host(name) for name in "abc"]
        ways = {(a, b): lab.strait(hosts[a], hosts[b], rtt=rtt, loss=loss) for a, b in [(0, 1), (1, 2), (0, 2)]}

        def place(n, o):
            way = ways[min(n, o), max(n, o)]
            return f"{way.left if o < n else way.right}:7700"

        gathering = Gathering(hosts, folder, lambda _: "0.0.0.0:7700", place)
        claim(f"three machines find each other at {rtt} ms and {loss:.0%} loss", gathering.complete())
        began = time.time()
        time.sleep(minutes * 60)
        since = [line for m in gathering.machines for line in m.told if line["at"] >= began * 1e3]
        count = lambda word: sum(line.get("is") == word for line in since)
        told = f"{count('Suspect')} suspicions, all refuted" if not count("Away") else f"{count('Away')} false alarms"
        claim(f"nobody living is taken for dead in {minutes:g} minutes", count("Away") == 0, told)
        alive = all(m.process.poll() is None for m in gathering.machines)
        claim("all three still run", alive)


def relayed(seconds, share=0.95):
    """Two machines that only reach the relay between them. `share` of its first rate is what it keeps: less over a few
    seconds on a machine that has other things to do."""
    with Lab() as lab, tempfile.TemporaryDirectory() as folder:
        home = lambda name: os.path.join(folder, name)
        near, middle, far = lab.host("near"), lab.host("middle"), lab.host("far")
        left, right = lab.strait(near, middle, rtt=10), lab.strait(middle, far, rtt=10)
        # One address for both sides, which each reaches by its own strait and no further.
        meeting = "10.99.0.1"
        ip("-n", middle.space, "addr", "add", meeting, "dev", "lo")
        for host, way in ((near, left.left), (far, right.right)):
            ip("-n", host.space, "route", "add", meeting, "via", left.right if host is near else right.left, "src", way)
        relay = Machine(middle, "relay", home("relay"), "0.0.0.0:7843", meeting)
        address = relay.when("relay")["relay"]
        waiting = Machine(far, "wait", home("far"), f"{right.right}:7700", address)
        node = waiting.when("waiting")["waiting"]
        calling = Machine(near, "call", home("near"), f"{left.left}:7700", address, node, "-", str(seconds))
        connected = calling.when("connected_s", patience=15)
        claim("machines that only reach a relay are joined by it", bool(connected), json.dumps(connected))
        calling.process.wait(timeout=seconds + 30)
        time.sleep(0.2)
        rates = [line["bytes"] / line["s"] / 1e6 for line in calling.told if "bytes" in line]
        relayed = all("Relayed" in line["way"] for line in calling.told if "way" in line)
        claim("the way is the relay's to the end", relayed and len(rates) >= seconds * 0.9, f"{len(rates)} s")
        # The first second opens the window.
        part = max(1, min(60, (len(rates) - 1) // 3))
        first, last = sum(rates[1 : 1 + part]) / part, sum(rates[-part:]) / part
        detail = f"{first:.1f} MB/s in the first {part} s, {last:.1f} in the last"
        claim(f"it keeps {share:.0%} of its first rate or more", last >= share * first, detail)


def silence():
    """A way that is cut, and one that never was."""
    with Lab() as lab, tempfile.TemporaryDirectory() as folder:
        home = lambda name: os.path.join(folder, name)
        near, far = lab.host("near"), lab.host("far")
        way = lab.strait(near, far, rtt=20, mbit=50)
        waiting = Machine(far, "wait", home("far"), f"{way.right}:7700", "-")
        node = waiting.when("waiting")["waiting"]
        calling = Machine(near, "call", home("near"), f"{way.left}:7700", "-", node, f"{way.right}:7700", "60")
        claim("a direct way is found", bool(calling.when("bytes", way="Some(Direct)")))
        way.cut("both")
        cut = time.time()
        ended = calling.when("ended", patience=20)
        took = ended["at"] / 1e3 - cut if ended else math.inf
        said = ended["ended"] if ended else "nothing"
        # Eight seconds of silence, and up to two until the first sign of life that is not answered.
        claim("a silent peer is cut off within 10.5 s, and not at the first hiccup", 6 <= took <= 10.5 and "fell silent" in said, f"{took:.2f} s: {said}")
        calling = Machine(near, "call", home("near"), f"{way.left}:7701", "-", node, f"{way.right}:7700", "1")
        refused = calling.when("refused", patience=20)
        plain = refused and "did not answer within 10 s" in refused["refused"]
        claim("a black hole is given up within 10 s", bool(plain) and refused["after_s"] <= 10.2, json.dumps(refused))


def lan():
    """Two machines on one wire that know nothing of each other."""
    with Lab() as lab, tempfile.TemporaryDirectory() as folder:
        hosts = [lab.host(name) for name in "ab"]
        names = [f"hv{os.getpid() % 100000}{end}" for end in "ab"]
        ip("link", "add", names[0], "type", "veth", "peer", "name", names[1])
        looking = []
        for n, (host, name) in enumerate(zip(hosts, names)):
            ip("link", "set", name, "netns", host.space)
            ip("-n", host.space, "addr", "add", f"10.88.0.{n + 1}/24", "dev", name)
            ip("-n", host.space, "link", "set", name, "up")
            ip("-n", host.space, "route", "add", "default", "dev", name)
        for n, host in enumerate(hosts):
            looking.append(Machine(host, "look", os.path.join(folder, str(n)), "0.0.0.0:7700", "25"))
        nodes = [machine.when("looking")["looking"] for machine in looking]
        for n, machine in enumerate(looking):
            seen = machine.when(seen=nodes[1 - n], patience=20)
            claim(f"machine {n} sees the other on the wire", bool(seen), json.dumps(seen))
        reached = [machine.when(reached=True, patience=15) for machine in looking]
        claim("one reaches the other by its id alone", any(reached))


def main():
    what = sys.argv[1] if len(sys.argv) > 1 else "short"
    if (code := no_start(what, why_not(), MEET)) is not None:
        return code
    number = lambda usual: float(sys.argv[2]) if len(sys.argv) > 2 else usual
    if what == "short":
        lan(), silence(), relayed(8, 0.25), deaths(2, 3), alarms(0.2)
    elif what == "all":
        lan(), silence(), relayed(300), deaths(40, 5), alarms(30)
    elif what == "deaths":
        deaths(int(number(40)), 5)
    elif what == "alarms":
        alarms(number(30))
    elif what == "relay":
        relayed(int(number(300)))
    return verdict(__doc__)


if __name__ == "__main__":
    sys.exit(main())
