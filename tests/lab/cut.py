#!/usr/bin/env python3
"""The switch that cuts everything off, held against every packet that leaves.

    cut.py --can-run     says what is missing, and ends with 1 where something is
    cut.py               at most a minute, for ./check

A desk in a network namespace answers with two machines that it has met. While an answer comes from one of them its door is told
to cut everything off. From then on the namespace is listened to while the door is asked for what would leave: answers elsewhere, who
is there, a download, a meeting. Not one packet of a program may leave; answers of this machine go on; and when the cut ends,
everything is as before.
"""

import contextlib
import http.client
import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

import capture
from claims import claim, no_start, verdict
from netlab import Lab, why_not
from nodes import HEPH, small_network

DOOR = 18600

# How long a goodbye may take, and how long is listened.
GOODBYE_S, SILENT_S = 2, 8

# What the kernel of a namespace says by itself, beside all programs: that nobody listens any more (ICMP), its neighbours (ICMP
# for IPv6), and membership of groups.
OF_THE_KERNEL = {1, 2, 58}



class Door:
    """A `heph serve` of the desk, asked from within its namespace."""

    def __init__(self, desk):
        self.desk = desk
        command = [HEPH, "serve", "--listen", f"127.0.0.1:{DOOR}"]
        self.process = desk.host.start(
            command, env=desk.environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        line = ""
        while "#token=" not in line:
            line = self.process.stdout.readline()
            if not line:
                raise RuntimeError("heph serve did not start")
        self.token = line.split("#token=")[1].strip()

    def ask(self, method, path, body=None, timeout=90):
        """(status, answer as JSON or text)."""
        order = json.dumps({"method": method, "path": path, "body": body, "token": self.token, "timeout": timeout})
        command = ["ip", "netns", "exec", self.desk.host.space, sys.executable, __file__, "call"]
        told = subprocess.run(command, input=order, capture_output=True, text=True, timeout=timeout + 10)
        if told.returncode:
            raise RuntimeError(told.stderr.strip())
        status, text = told.stdout.split("\n", 1)
        with contextlib.suppress(ValueError):
            text = json.loads(text)
        return int(status), text

    def chat(self, mode, tokens=12):
        body = {"messages": [{"role": "user", "content": "Tell me a story about a little fox."}], "temperature": 0}
        return self.ask("POST", "/v1/chat/completions", body | {"max_tokens": tokens, "heph": {"mode": mode}})

    def cut(self, yes):
        return self.ask("PUT", "/heph/v1/policy", {"cut": yes})

    def end(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)


def call():
    """One request, as it stands on standard input; run within the namespace."""
    order = json.load(sys.stdin)
    line = http.client.HTTPConnection("127.0.0.1", DOOR, timeout=order["timeout"])
    body = None if order["body"] is None else json.dumps(order["body"])
    headers = {"authorization": f"Bearer {order['token']}", "content-type": "application/json"}
    line.request(order["method"], order["path"], body, headers)
    answer = line.getresponse()
    print(answer.status)
    print(answer.read().decode())
    return 0


def left(desk, folder, name, meanwhile):
    """Packets of programs that left the desk while `meanwhile` was done, and those of its kernel."""
    path = folder / name
    with capture.listening(desk, path):
        meanwhile()
        time.sleep(0.5)
    out = [packet for packet in capture.packets(path) if packet.outgoing and not packet.loopback]
    of_kernel = [packet for packet in out if packet.protocol in OF_THE_KERNEL]
    return [packet for packet in out if packet.protocol not in OF_THE_KERNEL], of_kernel


def refusals(door):
    """What would leave, and what is said to it: name -> (status, whether the answer names the cut)."""
    asked = {
        "an answer elsewhere": lambda: door.chat("remote"),
        "an answer in layers": lambda: door.chat("layered"),
        "who is there": lambda: door.ask("GET", "/heph/v1/nodes"),
        "an invitation": lambda: door.ask("POST", "/heph/v1/machines/invite"),
        "a meeting": lambda: door.ask("POST", "/heph/v1/machines/join", {"ticket": "heph-none"}),
        "a look at a hub": lambda: door.ask("POST", "/heph/v1/models/look", {"repository": "a/b"}),
        "a download": lambda: door.ask("POST", "/heph/v1/models/pull", {"repository": "a/b"}),
    }
    said = {}
    for name, ask in asked.items():
        status, text = ask()
        said[name] = (status, "cut off" in json.dumps(text))
    return said


def cut_off():
    with Lab() as lab, tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        desk, _ = small_network(lab, [2, 30])
        door = Door(desk)
        status, told = door.chat("remote")
        claim("an answer comes from elsewhere", status == 200 and told["heph"]["receipt"]["mode"] == "remote", status)
        out, _ = left(desk, folder, "before", lambda: door.chat("remote"))
        claim("the ear hears what leaves", len(out) > 5, f"{len(out)} packets")

        # In the middle of an answer of the farther machine.
        under_way = threading.Thread(target=lambda: door.chat("layered", 200), daemon=True)
        under_way.start()
        time.sleep(0.5)
        status, stands = door.cut(True)
        claim("everything is cut off", status == 200 and stands["cut"] is True, stands)
        time.sleep(GOODBYE_S)
        said, answers = {}, []

        def meanwhile():
            began = time.monotonic()
            said.update(refusals(door))
            answers.append(door.chat("auto"))
            answers.append(door.chat("local"))
            time.sleep(max(0, SILENT_S - (time.monotonic() - began)))

        out, kernel = left(desk, folder, "cut", meanwhile)
        claim("no packet of a program leaves", not out, f"{len(out)} left, {len(kernel)} of the kernel; {sorted({packet.destination for packet in out})}")
        refused = {name: told for name, told in said.items() if told[0] < 400}
        claim("what would leave is refused", not refused, said)
        held = [status == 200 and told["heph"]["receipt"]["traffic"] == [] for status, told in answers]
        claim("answers of this machine go on", all(held), [status for status, _ in answers])
        under_way.join(60)
        claim("the answer under way has ended", not under_way.is_alive())

        status, stands = door.cut(False)
        claim("the cut ends", status == 200 and stands["cut"] is False)
        status, told = door.chat("remote")
        again = status == 200 and told["heph"]["receipt"]["mode"] == "remote"
        claim("and everything is as before", again, status if again else told)
        door.end()


def main():
    what = sys.argv[1] if len(sys.argv) > 1 else "short"
    if what == "call":
        return call()
    if (code := no_start(what, why_not(), HEPH)) is not None:
        return code
    cut_off()
    return verdict(__doc__)


if __name__ == "__main__":
    sys.exit(main())
