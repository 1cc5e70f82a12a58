"""Machines on one machine: network namespaces, and straits that put real distance between them.

Each host is a network namespace with nothing but its loopback and the ends of its straits. A strait is the program
`strait` of heph-world: two TUN interfaces and the delay, rate, jitter and loss between them. Nothing can leave: no
namespace has a way to the outside. Everything is taken down at the end, whatever the end was, and what a killed run
left is taken down by the next.

Needs root, ip and /dev/net/tun.
"""

import atexit
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# Benches measure what is shipped, tests what the check built.
PROFILE = os.environ.get("HEPH_PROFILE", "tests")
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / PROFILE
PREFIX = "hephlab"


def why_not():
    """What is missing to build a lab here; nothing where nothing is."""
    if sys.platform != "linux":
        return "network namespaces need Linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not shutil.which("ip"):
        return "the program ip is not installed"
    if not os.path.exists("/dev/net/tun"):
        return "there is no /dev/net/tun"
    tried = subprocess.run(["ip", "netns", "add", f"{PREFIX}-{os.getpid()}-try"], capture_output=True, text=True)
    if tried.returncode:
        return f"no network namespace can be made: {tried.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", f"{PREFIX}-{os.getpid()}-try"], check=True)
    return None


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Lab:
    """Hosts and straits, taken down at the end of the `with`."""

    def __init__(self):
        self.hosts, self.straits, self.processes, self.folders = {}, [], [], []
        self.down = False

    def __enter__(self):
        sweep()
        atexit.register(self.close)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, _: sys.exit(128 + number))
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.down:
            return
        self.down = True
        for process in self.processes:
            if process.poll() is None:
                # A stopped process does not die of anything else.
                process.kill()
                process.wait()
        for strait in self.straits:
            strait.close()
        for host in self.hosts.values():
            subprocess.run(["ip", "netns", "del", host.space], capture_output=True)
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)

    def host(self, name):
        """A new machine without any way out."""
        self.hosts[name] = Host(self, name)
        return self.hosts[name]

    def strait(self, left, right, **shape):
        """A way between two hosts: `rtt` and `jitter` in milliseconds, `mbit`, `loss` as a share."""
        strait = Strait(len(self.straits), left, right)
        self.straits.append(strait)
        strait.shape(**shape)
        return strait


class Host:
    def __init__(self, lab, name):
        self.lab, self.name = lab, name
        self.space = f"{PREFIX}-{os.getpid()}-{name}"
        ip("netns", "add", self.space)
        ip("-n", self.space, "link", "set", "lo", "up")

    def start(self, command, cpus=None, **options):
        """A process on this machine; `cpus` as taskset takes them."""
        pin = ["taskset", "-c", cpus] if cpus else []
        command = ["ip", "netns", "exec", self.space, *pin, *map(str, command)]
        process = subprocess.Popen(command, **options)
        self.lab.processes.append(process)
        return process

    def run(self, command, timeout=60, cpus=None, **options):
        """A process on this machine, waited for."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
        process = self.start(command, cpus=cpus, **options)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise TimeoutError(f"{command} took longer than {timeout} s\n{out}\n{err}") from None
        return subprocess.CompletedProcess(command, process.returncode, out, err)


class Strait:
    """One way, addresses 10.77.N.1 at the left and 10.77.N.2 at the right."""

    def __init__(self, number, left, right):
        self.left, self.right = f"10.77.{number}.1", f"10.77.{number}.2"
        names = [f"hl{os.getpid() % 100000}-{number}{end}" for end in "lr"]
        self.process = subprocess.Popen(
            [TARGET / "strait", *names], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        if not self.process.stdout.readline():
            raise RuntimeError(f"strait did not start; build it with cargo build --profile {PROFILE} -p heph-world")
        for name, host, own, other in zip(names, (left, right), (self.left, self.right), (self.right, self.left)):
            ip("link", "set", name, "netns", host.space)
            ip("-n", host.space, "addr", "add", own, "peer", other, "dev", name)
            ip("-n", host.space, "link", "set", name, "up")

    def say(self, line):
        self.process.stdin.write(line + "\n")
        answer = json.loads(self.process.stdout.readline())
        if "error" in answer:
            raise ValueError(f"strait: {line}: {answer['error']}")
        return answer

    def shape(self, rtt=0, jitter=0, mbit=0, loss=0):
        self.say(f"delay {rtt / 2}")
        self.say(f"jitter {jitter}")
        self.say(f"mbit {mbit}")
        return self.say(f"loss {loss}")

    def rate(self, mbit):
        """Another rate, from the next packet on."""
        return self.say(f"mbit {mbit}")

    def cut(self, side):
        return self.say(f"cut {side}")

    def heal(self):
        return self.say("heal")

    def bytes(self):
        """Bytes with their IP headers: from the left, from the right."""
        told = self.say("stats")
        return told["from_left"]["bytes"], told["from_right"]["bytes"]

    def close(self):
        try:
            self.process.stdin.write("quit\n")
            self.process.wait(timeout=2)
        except (OSError, ValueError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()


def sweep():
    """Takes down what runs that were killed have left."""
    told = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True)
    for line in told.stdout.splitlines():
        name = line.split()[0] if line.split() else ""
        parts = name.split("-")
        if parts[0] == PREFIX and len(parts) > 2 and parts[1].isdigit() and not os.path.exists(f"/proc/{parts[1]}"):
            held = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
            for pid in held.stdout.split():
                os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.05)
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
