#!/usr/bin/env python3
"""Scripted conversations with planted canaries, and every packet of the machine that has them read and searched.

    leaks.py --can-run         says what is missing, and ends with 1 where something is
    leaks.py long [N [FIRST]]  N conversations from the FIRST on, 500 by default; all that is drawn follows from the number. What
                               became of them is a line of benches/raw/leaks.jsonl
    leaks.py sum               those lines together
    leaks.py                   the short version, for ./check: one of each kind

A desk in a network namespace knows two machines that may see its text, and a provider behind TLS. Private conversations hold a
canary, and are kept here by what their person said: a label or a folder that the policy denies, `--allow`,
`--mode local`, "privacy": "nothing"; some hold an address instead, and leave for a stranger's machine or the provider without it.
Open ones hold another and say nothing: they are to go elsewhere, and prove that the
search finds what leaves. Every packet of every interface of the desk's namespace is written down; what went over QUIC is read with the
keys that a test build writes (SSLKEYLOGFILE), what went over TLS with those of the provider. A canary is looked for in the
clear, as base64, hexadecimal digits, UTF-16, inside gzip and deflate, and as token ids.

What receipts say is held against what was read, byte for byte: of a machine, the bytes of the streams on which it was asked, less
the goodbye that is said behind the receipt; of a provider, the bodies of its requests; of a server of tools, what its program heard. The network log (`heph egress`) must
count what the capture counted.
"""

import base64
import contextlib
import datetime
import functools
import http.server
import ipaddress
import itertools
import json
import os
import pathlib
import random
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zlib

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
except ImportError:
    # `quic.MISSING` says so.
    pass

import capture
import quic
import tls
from claims import FAILED, claim, no_start, verdict
from conversations import SESSION, wire_frames
from netlab import ROOT, Lab, why_not
from nodes import HEPH, PORT, Desk, Node

sys.path.append(str(ROOT / "benches"))
import raw_lines  # noqa: E402

RAW = ROOT / "benches" / "raw" / "leaks.jsonl"
DOOR, PROVIDER = 18500, 9443
POLICY = """version = 1
preset = "redact-then-remote"

[[rule]]
name = "kept stays"
when = { labels = ["user:kept", "folder:kept"] }
then = "deny"
"""

# What ends an answer of the bundled model: one whose program is to be killed must not be over before.
ENDS = ["<|im_end|>", "<|endoftext|>"]
# A program is killed after so long, and has logged by then what passed before its last moments: it looks every quarter of a
# second whether a kilobyte is to be written. A machine with much else to do looks later.
KILLED_AFTER, LAST_MOMENTS, QUIET = 2.5, 0.75, 1024
# What keeps a question from both machines, of which one is the person's and one a stranger's.
NOBODY = ["--allow", "own=nothing", "--allow", "miner=nothing"]


class Canary:
    """A sentence that stands nowhere else. Those of one kind begin alike, so that one search finds them all."""

    BEGINS = {"private": "The secret of the old house is vuzokemigal", "open": "A queen once hid her golden spoon in rabitunodep"}

    def __init__(self, kind, number):
        self.dice = random.Random(number)
        tail = "".join(self.dice.choice("bcdfghjklmnprstvwz") + self.dice.choice("aeiou") for _ in range(5))
        self.text = f"{self.BEGINS[kind]}{tail}."

    def told(self):
        """The sentence among others."""
        return f"{self.dice.choice(BEFORE)} {self.text} {self.dice.choice(BEHIND)}"

    def mail(self):
        """A sentence with an address of somebody that begins as the sentence's last word does."""
        who = self.text.split()[-1].rstrip(".")
        return f"{self.dice.choice(BEFORE)} Please write to {who}@example.org about the keys. {self.dice.choice(BEHIND)}"

    def tokens(self):
        return self.dice.randint(4, 14)


BEFORE = ["Listen.", "I tell you something.", "It was a cold day by the river.", "Once there was a small grey cat.", "Remember this:"]
BEHIND = ["What comes next?", "Tell me more about that.", "Make a story of it.", "Why is it so?", "Go on."]


def forms(kind, ids):
    """name -> bytes: how the beginning of every canary of a kind might leave. `ids` are its tokens."""
    text = Canary.BEGINS[kind].split()[-1]
    word = text.encode()
    forms = {"plain": word, "hex": word.hex().encode(), "HEX": word.hex().upper().encode()}
    forms["UTF-16"] = text.encode("utf-16-le")
    for shift in range(3):
        # Whatever stands around it, these letters of base64 depend on the word alone.
        coded = base64.b64encode(bytes(shift) + word)
        forms[f"base64 +{shift}"] = coded[4 if shift else 0 :][: len(word) // 3 * 4 - 4].rstrip(b"=")
    for at, four in enumerate(fours(ids)):
        forms[f"ids +{at}"] = b"".join(leb128(token) for token in four)
        forms[f"ids of 32 bits +{at}"] = b"".join(token.to_bytes(4, "little") for token in four)
    return forms


def fours(ids):
    """Every four tokens that stand together: a prompt is sent in pieces, and what lies on a cut is not found whole."""
    return [ids[at : at + 4] for at in range(len(ids) - 3)]


def leb128(number):
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out + bytes([number]))


def unpacked(data):
    """What streams of gzip and deflate inside of `data` hold."""
    for magic, window in ((b"\x1f\x8b\x08", 31), (b"\x78\x9c", 15), (b"\x78\x01", 15), (b"\x78\xda", 15)):
        at = data.find(magic)
        while at >= 0:
            try:
                yield zlib.decompressobj(window).decompress(data[at : at + (1 << 16)], 1 << 20)
            except zlib.error:
                pass
            at = data.find(magic, at + 1)


class Seen:
    """What a capture holds."""

    def __init__(self, paths, keys, provider_keys):
        self.texts, self.up, self.others = {}, {}, set()
        self.quic = quic.Reader(quic.secrets(keys))
        # Requests to the provider, and what TLS put around them.
        self.asked, self.tls, tcp = [], [], {}
        for when, outgoing, loopback, protocol, source, destination, body, number in itertools.chain(
            *map(capture.packets, paths)
        ):
            if loopback:
                continue
            if protocol == 17 and PORT in (source[1], destination[1]):
                contents = self.quic.datagram(source, destination, body, when)
                for content in contents if outgoing else ():
                    self.texts.setdefault(("packets", destination), bytearray()).extend(content)
            if not outgoing:
                continue
            if protocol not in (6, 17):
                self.others.add(protocol)
                continue
            self.up[(protocol, destination)] = self.up.get((protocol, destination), 0) + len(body)
            self.texts.setdefault((protocol, destination), bytearray()).extend(body)
            if protocol == 6 and body:
                connections = tcp.setdefault((source, destination), [])
                # A port that is used again counts from elsewhere.
                if not connections or abs(number - connections[-1][0]) > 1 << 28:
                    connections.append((number, quic.Stream()))
                connections[-1][1].add(number - connections[-1][0], body, when)
        for connection in self.quic.connections:
            for (of_client, stream), said in connection.streams.items():
                if self.ours(connection, of_client):
                    self.texts[("stream", id(connection), stream)] = said.bytes()
        known = quic.secrets(provider_keys)
        for (source, destination), connections in tcp.items():
            for _, stream in connections:
                text, unread, records = tls.said(stream.bytes(), known)
                self.texts[("tls", source, destination, stream.began)] = text
                if destination[1] == PROVIDER:
                    self.asked += requests(stream, bytes(text), records)
                    self.tls.append((len(text), unread, len(records)))

    @staticmethod
    def ours(connection, of_client):
        """Whether this direction of a connection is the desk's: it has the first address of each strait."""
        return (connection.client if of_client else connection.server)[0].endswith(".1")

    def seats(self):
        """The streams on which machines were asked for a seat."""
        streams = (
            Seat(connection, connection.streams[(True, stream)], connection.streams.get((False, stream), quic.Stream()))
            for connection in self.quic.connections
            if connection.speaks(SESSION)
            for stream in sorted({stream for of_client, stream in connection.streams if of_client})
        )
        return [seat for seat in streams if OPEN_SEAT in (kind for _, kind, _ in seat.up)]

    def finds(self, forms):
        """Names of the forms that stand in what left."""
        found = set()
        for data in self.texts.values():
            data = bytes(data)
            found |= {name for name, form in forms.items() if form in data}
            for text in unpacked(data):
                found |= {f"{name}, packed" for name, form in forms.items() if form in text}
        return found

    def counts(self, form):
        return sum(form in data for data in self.texts.values())


# Kinds of frames of docs/wire.md: what may come behind the moment in which the receipt is written, of the desk and of a node.
BYE, OPEN_SEAT = 0x02, 0x10
BEHIND_UP, BEHIND_DOWN = {BYE, 0x03, 0x06, 0x13, 0x36}, {BYE, 0x04, 0x14, 0x2A, 0x37}


class Seat:
    """A stream on which a machine was asked. Answers of one conversation may share it, and a receipt tells what passed since the one
    before."""

    def __init__(self, connection, up, down):
        self.port, self.machine = connection.client[1], connection.server[0]
        self.up, self.down = timed(up), timed(down)
        # What receipts may have told of it so far, up and down.
        self.told = [{0}, {0}]

    def asked_in(self, begin, end):
        return any(begin <= when <= end and kind not in BEHIND_UP for when, kind, _ in self.up)

    def was_told(self):
        """Whether receipts have told of it."""
        return any(max(told) for told in self.told)

    def passed_by(self, end):
        """What the receipt that is written then may tell, up and down, and what may have been told by then."""
        now = [at_receipt(self.up, end, BEHIND_UP), at_receipt(self.down, end, BEHIND_DOWN)]
        more = [{b - a for b in after for a in before if b >= a} for before, after in zip(self.told, now)]
        self.told = now
        return more


def timed(stream):
    """(when, kind, bytes) of each frame."""
    told, at = [], 0
    for kind, _, length in wire_frames(stream.bytes()):
        told.append((stream.when(at), kind, length))
        at += length
    return told


def at_receipt(frames, end, behind):
    """Bytes of a conversation that a receipt may tell: all of it until then, or up to one of the last frames that may come behind it."""
    frames = [(kind, length) for when, kind, length in frames if when <= end]
    sums = {sum(length for _, length in frames)}
    while frames and frames[-1][0] in behind:
        frames.pop()
        sums.add(sum(length for _, length in frames))
    return sums


class Talk:
    """What became of one conversation: whether it went as it should, whether it went elsewhere, and what its receipts say."""

    def __init__(self, held, receipts=()):
        self.held, self.receipts = bool(held), [receipt for receipt in receipts if receipt]
        self.between, self.by_door, self.number, self.kind = None, False, None, None
        # Something left, and no receipt is written of such conversations.
        self.untold = False
        # Bytes that a program which was killed has logged as sent.
        self.logged = None

    def up(self):
        return sum(line["up"] for receipt in self.receipts for line in receipt["traffic"])


class Talks:
    """The desk, its machines, and what can be said there. Each kind returns a Talk."""

    def __init__(self, desk, nodes, folder):
        self.desk, self.nodes, self.folder = desk, nodes, folder
        self.environment = desk.environment() | {"SSL_CERT_FILE": str(folder / "cert.pem")}
        (desk.home / "policy.toml").write_text(POLICY)
        self.provider_address = nodes[0].way.right
        certificate(folder, self.provider_address)
        words = [sys.executable, __file__, "provider", self.provider_address, folder]
        self.outside = nodes[0].host.start(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.outside.stdout.readline()
        provider = ["--dialect", "openai", "--url", f"https://{self.provider_address}:{PROVIDER}/v1", "--model", "big"]
        self.heph("providers", "add", "outside", *provider, "--allow", "--region", "eu", "--retention", "nothing")
        words = {"command": sys.executable, "args": [__file__, "tools", str(folder / "told-tools")], "tools": {"echo": "allow"}}
        (desk.home / "mcp.json").touch(mode=0o600)
        (desk.home / "mcp.json").write_text(json.dumps({"mcpServers": {"far": words}}))
        self.door_errors = open(folder / "door-errors", "wb")
        self.door = desk.host.start(
            [HEPH, "serve", "--listen", f"127.0.0.1:{DOOR}"],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=self.door_errors,
            text=True,
        )
        self.token = ""
        while "#token=" not in self.token:
            self.token = self.door.stdout.readline()
            if not self.token:
                raise RuntimeError("heph serve did not start")
        self.token = self.token.split("#token=")[1].strip()
        self.door_ports = udp_ports(self.door.pid)

    def end(self):
        """Ends the door as a person does, once nothing is under way."""
        time.sleep(5)
        self.door_ports |= udp_ports(self.door.pid)
        self.door.send_signal(signal.SIGINT)
        self.door.wait(30)

    def run(self, *words, text=None, timeout=90):
        words = [HEPH, *words]
        options = {"input": text} if text is not None else {}
        command = ["ip", "netns", "exec", self.desk.host.space, *map(str, words)]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=timeout, **options)

    def heph(self, *words, **more):
        told = self.run(*words, **more)
        if told.returncode:
            raise RuntimeError(f"heph {' '.join(map(str, words))} ended with {told.returncode}: {told.stderr.strip()}")
        return told.stdout

    def ask_door(self, path="v1/chat/completions", **body):
        """What the door answers; `{"error": …}` where it refuses."""
        if body:
            body = {"model": "heph-story", "max_tokens": 8, "temperature": 0} | body
        order = json.dumps({"port": DOOR, "token": self.token, "path": path, "body": body})
        command = ["ip", "netns", "exec", self.desk.host.space, sys.executable, __file__, "post"]
        told = subprocess.run(command, input=order, capture_output=True, text=True, timeout=90)
        # A guard that has read what is old by now is followed by another one, with a socket of its own.
        if self.door.poll() is None:
            self.door_ports |= udp_ports(self.door.pid)
        return json.loads(told.stdout)

    def kept_by(self, canary):
        """How a person says at the command line that a text stays here."""
        return canary.dice.choice([NOBODY, ["--label", "kept"], ["--mode", "local"]])

    def kept_at_door(self, canary):
        """The same at the door."""
        return canary.dice.choice([{"privacy": "nothing"}, {"labels": ["kept"]}])

    # Private ones. Nothing of the canary may leave.

    def chat(self, canary):
        told = self.heph("chat", "--max-tokens", canary.tokens(), *self.kept_by(canary), text=f"{canary.told()}\n")
        return Talk(told.strip())

    def history(self, canary):
        """What was private in the first message is so in those that follow."""
        lines = [canary.told(), *canary.dice.sample(BEHIND, canary.dice.randint(1, 3))]
        told = self.heph("chat", "--max-tokens", 6, *self.kept_by(canary), text="\n".join(lines) + "\n")
        return Talk(told.strip())

    def retrieval(self, canary):
        return self.read_from(self.folder, canary, self.kept_by(canary))

    def folder_kept(self, canary):
        """Only where the document stands tells that it is private, in a folder of the one that is named."""
        papers = self.folder / f"papers-{canary.dice.randint(0, 10**9)}"
        (papers / "kept").mkdir(parents=True)
        return self.read_from(papers / "kept", canary, [], papers)

    def read_from(self, folder, canary, kept, named=None):
        path = folder / f"note-{canary.dice.randint(0, 10**9)}.txt"
        path.write_text(f"The house stands by the river. {canary.told()} Nobody lives there now.\n" * 3)
        told = self.heph("run", "--json", "--document", named or path, *kept, "--max-tokens", 8, "What is the secret?")
        # Where nobody was to be asked nothing was planned, and there is no receipt.
        receipt = json.loads(told).get("receipt")
        return Talk(not receipt or not receipt["traffic"], [receipt])

    def local(self, canary):
        told = json.loads(self.heph("run", "--json", "--mode", "local", "--max-tokens", canary.tokens(), canary.told()))
        return Talk(told["text"].strip() and not told.get("receipt"))

    def cache(self, canary):
        """Asked twice, the second time the beginning of the prompt is known."""
        wish = {"messages": [{"role": "user", "content": canary.told()}], "heph": self.kept_at_door(canary)}
        first, again = self.ask_door(**wish), self.ask_door(**wish)
        return self.at_door(first["choices"][0]["message"] == again["choices"][0]["message"], first, again)

    def tools(self, canary):
        call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
        messages = [
            {"role": "user", "content": canary.dice.choice(BEFORE)},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": canary.told()},
        ]
        told = self.ask_door(messages=messages, heph=self.kept_at_door(canary))
        return self.at_door("choices" in told, told)

    def derived(self, canary):
        """An answer to a private question is private, also where another conversation shows it and says nothing."""
        first = self.ask_door(
            messages=[{"role": "user", "content": canary.told()}], max_tokens=40, heph={"labels": ["kept"]}
        )
        answer = first["choices"][0]["message"]["content"]
        time.sleep(0.3)
        quoted = [{"role": "user", "content": f"{answer}\n{canary.dice.choice(BEHIND)}"}]
        told = self.ask_door(model="outside/big", messages=quoted)
        long = any(len(line.strip()) >= 24 for line in answer.splitlines())
        # A short answer may be said by everybody, and leaves.
        return self.at_door("error" in told or not long, first, told)

    def at_door(self, held, *told):
        talk = Talk(held, [receipt_in(one) for one in told])
        talk.by_door = True
        return talk

    def kept(self, canary, mode):
        """A mode for many machines is refused where they may see nothing, or carried out here alone."""
        kept = canary.dice.choice([NOBODY, ["--label", "kept"]])
        told = self.run("run", "--json", "--mode", mode, *kept, "--max-tokens", 8, canary.told())
        if told.returncode:
            return Talk(not told.stdout.strip())
        receipt = json.loads(told.stdout)["receipt"]
        return Talk(sum(line["up"] for line in receipt["traffic"]) == 0, [receipt])

    def speculative(self, canary):
        return self.kept(canary, "speculative")

    def layered(self, canary):
        return self.kept(canary, "layered")

    def remote(self, canary):
        return self.kept(canary, "remote")

    def provider(self, canary):
        wish = {"messages": [{"role": "user", "content": canary.told()}], "heph": self.kept_at_door(canary)}
        return Talk("error" in self.ask_door(model="outside/big", **wish))

    def tool_server(self, canary):
        """A server of tools is told nothing of it."""
        told = self.with_tools(canary, self.kept_at_door(canary))
        return Talk("error" in told)

    def with_tools(self, canary, more):
        wish = {"messages": [{"role": "user", "content": canary.told()}], "max_tokens": 60, "tool_choice": "required"}
        return self.ask_door(**wish, heph={"mcp": ["far"]} | more)

    # What is private because of what stands in it: it leaves with something else in its place.

    def strangers(self, canary, *words, text=None):
        """Only the second machine is asked, which is a stranger's."""
        return self.heph(*words, "--mode", "remote", "--allow", "own=nothing", "--max-tokens", canary.tokens(), text=text)

    def redacted_run(self, canary):
        receipt = json.loads(self.strangers(canary, "run", "--json", canary.mail()))["receipt"]
        return Talk(replaced(receipt), [receipt])

    def redacted_chat(self, canary):
        """Words about nobody, then what must be replaced, then a question about it."""
        lines = ["Tell me a story.", canary.mail(), canary.dice.choice(BEHIND)]
        told = self.strangers(canary, "chat", text="\n".join([*lines, "/stats", ""]))
        talk = Talk(self.nodes[1].host.name in told)
        talk.untold = True
        return talk

    def redacted_read(self, canary):
        path = self.folder / f"letter-{canary.dice.randint(0, 10**9)}.txt"
        path.write_text(f"The house stands by the river. {canary.mail()}\n" * 12)
        told = json.loads(self.strangers(canary, "read", "--json", "--document", path, "Whose house is it?"))
        lines = [line for line in told["readers"] if line["up"]]
        return Talk(lines, [{"traffic": lines}])

    def redacted_provider(self, canary):
        told = self.ask_door(model="outside/big", messages=[{"role": "user", "content": canary.mail()}])
        return self.at_door("choices" in told and replaced(receipt_in(told)), told)

    def crash(self, canary):
        """Killed in mid-answer: what it leaves behind tells nobody."""
        process = self.long_answer(*self.kept_by(canary), canary.told())
        process.stdout.read(1)
        how = canary.dice.choice([signal.SIGABRT, signal.SIGKILL, signal.SIGSEGV])
        process.send_signal(how)
        if how == signal.SIGSEGV:
            # The first is taken for a fault that comes again where it is none of the stack's, and this one comes once.
            time.sleep(0.02)
            process.send_signal(how)
        return Talk(process.wait(30) != 0)

    def long_answer(self, *words):
        """A program that answers as long as it may."""
        read = lambda end: self.heph("tokenize", "--model", "heph-story", "--add-special", 0, "--parse-special", 1, text=end)
        never = [word for end in ENDS for token in read(end).split() for word in ("--logit-bias", f"{token}=-100")]
        command = ["ip", "netns", "exec", self.desk.host.space, HEPH, "run", "--max-tokens", "800", *never, *words]
        command = list(map(str, command))
        return subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def open_crash(self, canary):
        """Killed while another machine computes with it: what left until then stands in the log."""
        before, began = sum(log(self).values()), time.time()
        process = self.long_answer("--mode", "layered", canary.told())
        time.sleep(max(0, began + KILLED_AFTER - time.time()))
        process.kill()
        talk = Talk(process.wait(30) != 0)
        talk.untold, talk.logged = True, sum(log(self).values()) - before
        return talk

    def failover(self, canary):
        """An open answer loses its machine while a private one runs here."""
        receipt = self.folder / f"receipt-{canary.dice.randint(0, 10**9)}"
        command = ["run", "--mode", "remote", "--max-tokens", "60", "--receipt", receipt, "Tell me a story about a fox."]
        command = ["ip", "netns", "exec", self.desk.host.space, *map(str, [HEPH, *command])]
        other = subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        other.stdout.read(1)
        self.nodes[0].strike("kill -9")
        private = self.chat(canary)
        other.communicate(timeout=60)
        self.nodes[0].recover()
        return Talk(private.held and other.returncode == 0, [signed(receipt)])

    def telemetry(self, canary):
        """What the door tells of itself holds no word, and nothing reports it."""
        self.ask_door(messages=[{"role": "user", "content": canary.told()}], heph=self.kept_at_door(canary))
        told = self.ask_door(path="metrics")
        self.heph("doctor", "--quick")
        return Talk(told and Canary.BEGINS["private"].split()[-1] not in json.dumps(told))

    def update(self, canary):
        """Commands that ask nobody: nothing looks for a newer version."""
        self.heph("--version")
        self.heph("models", "list")
        return Talk(self.heph("tokenize", "--model", "heph-story", text=canary.told()).strip())

    # Open ones: nobody said anything, so they may go elsewhere, and do.

    def open_remote(self, canary):
        return self.went("remote", canary)

    def open_layered(self, canary):
        return self.went("layered", canary)

    def open_speculative(self, canary):
        return self.went("layered-speculative", canary)

    def went(self, mode, canary, *more):
        told = json.loads(self.heph("run", "--json", "--mode", mode, *more, "--max-tokens", canary.tokens(), canary.told()))
        return Talk(True, [told["receipt"]])

    def open_retrieval(self, canary):
        path = self.folder / f"open-{canary.dice.randint(0, 10**9)}.txt"
        path.write_text(f"The castle stands on a hill. {canary.told()} Many people live there.\n" * 3)
        return self.went("remote", canary, "--document", path)

    def open_door(self, canary):
        wish = {"heph": {"mode": "remote"}, "max_tokens": canary.tokens()}
        told = self.ask_door(messages=[{"role": "user", "content": canary.told()}], **wish)
        return self.at_door("choices" in told, told)

    def open_history(self, canary):
        """The answer goes back with the next question."""
        messages = [{"role": "user", "content": canary.told()}]
        first = self.ask_door(messages=messages, heph={"mode": "remote"})
        messages += [first["choices"][0]["message"], {"role": "user", "content": canary.dice.choice(BEHIND)}]
        again = self.ask_door(messages=messages, heph={"mode": "remote"})
        return self.at_door("choices" in again, first, again)

    def open_tools(self, canary):
        """What the receipt says of the server of tools is what its program heard."""
        heard = lambda: (self.folder / "told-tools").read_text().splitlines() if (self.folder / "told-tools").exists() else []
        before = len(heard())
        told = self.with_tools(canary, {})
        calls = [int(line.split()[0]) for line in heard()[before:]]
        lines = (receipt_in(told) or {}).get("tools", [])
        named = [(line["server"], line["calls"], line["up"]) for line in lines]
        # What the model would tell it may look like somebody's address: then the policy keeps it.
        wanted = [("far", len(calls), sum(calls))] if calls else []
        return self.at_door(named == wanted and told["heph"]["tools"]["made"], told)

    def open_provider(self, canary):
        told = self.ask_door(model="outside/big", messages=[{"role": "user", "content": canary.told()}])
        return self.at_door("choices" in told, told)

    def open_retry(self, canary):
        """The provider is too busy the first time: the question leaves twice, and the receipt says so."""
        told = self.ask_door(model="outside/big", messages=[{"role": "user", "content": f"{canary.told()} {BUSY}"}])
        return self.at_door("choices" in told and receipt_in(told)["provider"]["tries"] == 2, told)


PRIVATE = [
    "chat", "history", "retrieval", "folder_kept", "local", "cache", "tools", "derived", "speculative", "layered", "remote",
    "provider", "redacted_run", "redacted_chat", "redacted_read", "redacted_provider", "crash", "failover", "telemetry", "update", "tool_server",
]  # fmt: skip
OPEN = [
    "open_remote", "open_layered", "open_speculative", "open_retrieval", "open_door", "open_history", "open_provider", "open_retry",
]  # fmt: skip
# Kinds in which a program is killed, each with a capture of its own: what it did last it could not log.
KILLED = ["crash", "open_crash"]
# Kinds whose canary leaves as text or tokens. Of layered and speculative ones rows leave, or guesses.
SHOWN = [kind for kind in OPEN if kind not in ("open_layered", "open_speculative")]
# Answers that take tools are made here, so nothing of them has to go elsewhere.
KINDS = PRIVATE + OPEN + KILLED[1:] + ["open_tools"]
# The provider is busy the first time that it hears a question with this word.
BUSY = "Twice."


def replaced(receipt):
    """Whether something of the request left, and nothing of it without something replaced."""
    return receipt["left"] and all(line["replaced"] > 0 for line in receipt["left"])


def receipt_in(told):
    """The receipt of an answer of the door."""
    about = told.get("heph") or {}
    return about if "traffic" in about else about.get("receipt")


def signed(path):
    """What a signed receipt says, as far as it is compared here."""
    body = json.loads(path.read_text().splitlines()[1])
    line = lambda of: {"node": body["nodes"][of["node"]], "up": of["up"], "down": of["down"]}
    return {"traffic": [line(of) for of in body["bytes"]]}


def udp_ports(process):
    """Ports of the sockets of UDP that a process and its guards have."""
    links = []
    for one in [process, *guards(process)]:
        # What is closed meanwhile is no socket that it asks through, and a guard that ended has none.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for path in pathlib.Path(f"/proc/{one}/fd").iterdir():
                with contextlib.suppress(FileNotFoundError):
                    links.append(os.readlink(path))
    own = {link[8:-1] for link in links if link.startswith("socket:[")}
    lines = [line.split() for name in ("udp", "udp6") for line in open(f"/proc/{process}/net/{name}").readlines()[1:]]
    return {int(words[1].rsplit(":", 1)[1], 16) for words in lines if words[9] in own}


def guards(process):
    """Processes that a process began to own its sockets."""
    found = []
    for path in pathlib.Path(f"/proc/{process}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += (path / "children").read_text().split()
    return [one for one in found if b"egress-guard" in command_of(one)]


def command_of(process):
    """The words that a process was begun with."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return pathlib.Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    return []


def token_ids(talks, texts):
    """The tokens of each text."""
    told = talks.heph("tokenize", "--model", "heph-story", "--add-special", 0, text="\0".join(texts))
    return [[int(word) for word in line.split()] for line in told.splitlines()]


def beginning(talks, kind):
    """Tokens that every canary of a kind begins with, but for the first three and the last two, which may depend on what is around."""
    several = token_ids(talks, [Canary(kind, number).text for number in range(9)])
    alike = zip(*several)
    common = [tokens[0] for tokens in itertools.takewhile(lambda tokens: len(set(tokens)) == 1, alike)]
    return common[3:-2]


def converse(numbers):
    """Has the conversations, holds what became of them against what was captured, and tells it in numbers."""
    kinds = KINDS
    kind = lambda number: kinds[number % len(kinds)]
    with Lab() as lab, tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        desk = Desk(lab.host("desk"))
        desk.more = {"SSLKEYLOGFILE": str(folder / "keys")}
        told = Told()
        began = time.monotonic()
        with capture.listening(desk, folder / "packets"):
            talks = Talks(desk, met(lab, desk, [5, 20]), folder)
            talks.heph("peers", "role", talks.nodes[1].host.name, "miner")
            for number in numbers:
                if kind(number) not in KILLED:
                    told.have(talks, kind(number), number)
            # What is under way at the door ends, and a door that ends has logged everything.
            talks.end()
            logged = log(talks)
        with capture.listening(desk, folder / "crashes"):
            for number in numbers:
                if kind(number) in KILLED:
                    told.have(talks, kind(number), number)
        print(f"{len(numbers)} conversations in {time.monotonic() - began:.0f} s")
        seconds = time.monotonic() - began
        told.claim()
        figures = compare(Seen([folder / "packets"], folder / "none", folder / "none"), logged)
        seen = Seen([folder / "packets", folder / "crashes"], folder / "keys", folder / "provider-keys")
        figures |= killed(told, folder / "crashes") | read(seen) | search(talks, told.canaries, seen) | useful(told) | receipts(talks, told, seen)
        left_behind(desk, folder)
        return {"conversations": len(numbers), "first": numbers[0], "seconds": round(seconds)} | figures | {"failed": FAILED}


def met(lab, desk, rtts):
    """A node behind each round trip, all of them met."""
    nodes = []
    for number, rtt in enumerate(rtts):
        host = lab.host(f"node-{'abcdefgh'[number]}")
        nodes.append(Node(host, lab.strait(desk.host, host, rtt=rtt)))
        desk.join(nodes[-1])
    return nodes


class Told:
    """What was said, and what became of it."""

    def __init__(self):
        self.canaries, self.talks, self.wrong = {}, {}, []

    def have(self, talks, kind, number):
        canary, began = Canary("private" if kind in PRIVATE else "open", number), time.time()
        self.canaries.setdefault(kind, []).append(canary)
        try:
            talk = getattr(talks, kind)(canary)
        except (RuntimeError, subprocess.TimeoutExpired, KeyError, ValueError, OSError) as error:
            self.wrong.append(f"{kind} {number}: {type(error).__name__} {error}")
            talk = Talk(False)
        talk.between, talk.number, talk.kind = (began, time.time()), number, kind
        self.talks.setdefault(kind, []).append(talk)

    def claim(self):
        for kind, talks in self.talks.items():
            held = [talk.held for talk in talks]
            claim(f"{kind}: goes as it should", all(held), f"{sum(held)} of {len(held)}")
        for line in self.wrong[:5]:
            print(f"  {line}")


def read(seen):
    """Nearly every packet that left was opened, and every stream."""
    reader = seen.quic
    read, unread = sum(reader.read.values()), sum(reader.unread.values())
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(reader.unread.items())) or "none"
    claim("what went over QUIC was read", read and unread <= read / 100, f"{read} packets; not read: {kinds}")
    unread = sum(unread for _, unread, _ in seen.tls)
    claim("what went over TLS was read", not unread, f"{sum(text for text, _, _ in seen.tls)} bytes, {unread} not")
    return {"packets_read": read, "packets_unread": sum(reader.unread.values())}


def search(talks, canaries, seen):
    """No private canary stands in what left; the open ones do."""
    places = {key[1] for key in seen.texts if key[0] in (6, 17)}
    known = {(node.way.right, PORT) for node in talks.nodes} | {(talks.provider_address, PROVIDER)}
    strangers = {address for address in places if address not in known}
    claim("packets go to whom the person named, and to nobody else", places and not strangers, sorted(strangers)[:4])
    claim("nothing but UDP and TCP leaves", not seen.others - {1, 58}, seen.others)
    searched = sum(len(canaries.get(kind, [])) for kind in PRIVATE)
    found = seen.finds(forms("private", beginning(talks, "private")))
    left = len(found)
    claim("no private canary left", searched and not found, f"{searched} searched; {sorted(found) or 'none found'}")
    wide = [canary for kind in SHOWN for canary in canaries.get(kind, [])]
    tokens = token_ids(talks, [canary.text for canary in wide])
    # The last tokens of each differ from those of all others.
    ids = lambda ids: any(seen.counts(b"".join(map(leb128, four))) for four in fours(ids[-8:-1]))
    found = sum(ids(known) or seen.counts(canary.text.encode()) > 0 for known, canary in zip(tokens, wide))
    claim("the search finds each open canary that left", wide and found == len(wide), f"{found} of {len(wide)}")
    return {"private": searched, "private_out": left, "shown": len(wide), "shown_found": found}


def useful(told):
    """Conversations of which nobody said that they are private still go elsewhere."""
    talks = [talk for kind in OPEN for talk in told.talks.get(kind, [])]
    stayed = [f"{talk.kind} {talk.number}" for talk in talks if not talk.up()]
    went = len(talks) - len(stayed)
    claim("what nobody called private goes elsewhere", talks and went >= 0.95 * len(talks), f"{went} of {len(talks)} {stayed[:5]}")
    return {"open": len(talks), "open_elsewhere": went}


def receipts(talks, told, seen):
    """Bytes of each receipt are those that were read."""
    addresses = {node.host.name: node.way.right for node in talks.nodes}
    every = sorted((talk for of_kind in told.talks.values() for talk in of_kind), key=lambda talk: talk.between)
    lines = [line for talk in every for receipt in talk.receipts for line in receipt["traffic"]]
    names = {line["node"]: line["name"] for line in lines if "name" in line}
    exact, wrong, seats, off = 0, [], seen.seats(), 0
    for talk in (talk for talk in every if not talk.untold):
        machines, outside = {}, [0, 0]
        for line in (line for receipt in talk.receipts for line in receipt["traffic"]):
            name = line.get("name") or names.get(line["node"])
            bytes_of = outside if name == "outside" else machines.setdefault(addresses.get(name, name), [0, 0])
            bytes_of[0], bytes_of[1] = bytes_of[0] + line["up"], bytes_of[1] + line["down"]
        asked = [body for when, _, body in seen.asked if talk.between[0] <= when <= talk.between[1]]
        asked = sum(asked) if talk.by_door else 0
        # Talks without a receipt, as those of `heph chat`, are private here: nothing goes anywhere.
        captured, own = {}, [seat for seat in seats if (seat.port in talks.door_ports) == talk.by_door]
        asked_in = [seat for seat in own if seat.asked_in(*talk.between)]
        # What came behind the receipt of the answer before, or left since, as a goodbye where this one moved, is told by this one's.
        before = {seat.machine: seat for seat in own if seat.was_told() and seat not in asked_in and seat.machine in machines}
        for seat in asked_in + list(before.values()):
            captured.setdefault(seat.machine, []).append(seat.passed_by(talk.between[1]))
        captured = {machine: [sums(up for up, _ in told), sums(down for _, down in told)] for machine, told in captured.items()}
        both = lambda one: zip(machines.get(one, [0, 0]), captured.get(one, [{0}, {0}]))
        pairs = [pair for one in machines.keys() | captured.keys() for pair in both(one)] + [(outside[0], {asked})]
        # Bytes that a receipt tells too many or too few of one machine in one direction.
        apart = max(min(abs(said - there) for there in left) for said, left in pairs)
        off = max(off, apart)
        exact += not apart and (asked > 0 or any(up for up, _ in machines.values()))
        if apart:
            wrong.append(f"{talk.kind} {talk.number}, by {apart}: said {machines} {outside[0]}, left {captured} {asked}")
    claim("each receipt tells the bytes that left", not wrong and exact, f"{exact} with bytes, {len(wrong)} others")
    for line in wrong[:5]:
        print(f"  {line}")
    heads = [head for _, head, _ in seen.asked]
    told, records = sum(text for text, _, _ in seen.tls), sum(records for _, _, records in seen.tls)
    print(f"  {len(heads)} requests to the provider: heads of {min(heads, default=0)} to {max(heads, default=0)} bytes come on top, and")
    print(f"  {tls.AROUND} bytes of TLS a record: {told} bytes in {records} records")
    return {"receipts_exact": exact, "receipts_off": len(wrong), "bytes_off_max": off}


def sums(choices):
    """Every sum of one number of each set."""
    return functools.reduce(lambda all, one: {a + b for a in all for b in one}, choices, {0})


def requests(stream, text, records):
    """(when, bytes of the head, bytes of the body) of each request on a connection."""
    told, at, begins = [], 0, list(itertools.accumulate((length for _, length in records), initial=0))
    for head, body in tls.bodies(text):
        # The record that the request begins in.
        record = next(number for number, begin in enumerate(begins[1:]) if begin > at)
        told.append((stream.when(records[record][0]), len(head), len(body)))
        at += len(head) + len(body)
    return told


def log(talks):
    """up by destination, as the network log has it."""
    told = json.loads(talks.heph("egress", "--json"))
    sums = {}
    for way in told["ways"]:
        if way["counted"] == "on-the-wire" and way["leaves"]:
            sums[way["to"]] = sums.get(way["to"], 0) + way["up"]
    return sums


def compare(seen, logged):
    """The log and the capture counted the same: a packet may pass between the last look and the end."""
    up = {address: count for (_, address), count in seen.up.items() if address[1] in (PORT, PROVIDER)}
    for (host, port), captured in sorted(up.items()):
        print(f"  {host}:{port}: {captured} bytes captured, {logged.get(f'{host}:{port}', 0)} in the log")
    print(f"  {logged.get('several', 0)} bytes of greetings and goodbyes in the log")
    captured, counted = sum(up.values()), sum(logged.values())
    claim("the network log counts what the capture counted", abs(captured - counted) <= 1500, f"{captured} and {counted}")
    return {"captured_bytes": captured, "logged_bytes": counted}


def killed(told, path):
    """A program that was killed has logged what left, but for its last moments; what the system refused to send counts as sent there."""
    left = [(packet.when, len(packet.body)) for packet in capture.packets(path) if packet.outgoing and not packet.loopback and packet.protocol == 17]
    unlogged, wrong = [], []
    for talk in told.talks.get("open_crash", []):
        sent = lambda until: sum(length for when, length in left if talk.between[0] <= when <= until)
        most = sent(talk.between[1])
        unlogged.append(most - (talk.logged or 0))
        known = talk.logged is not None and sent(talk.between[0] + KILLED_AFTER - LAST_MOMENTS) - QUIET <= talk.logged
        if not known or not most or talk.logged > most * 1.02 + QUIET:
            wrong.append(f"{talk.number}: {talk.logged} logged of {most}")
    claim("who is killed has logged all but the last moments", unlogged and not wrong, f"at most {max(unlogged, default=0)} bytes not; {wrong[:3]}")
    return {"killed": len(unlogged), "killed_unlogged_bytes_max": max(unlogged, default=0)}


def left_behind(desk, folder):
    """What programs wrote below HEPH's folder, and what the door said to its terminal, holds no canary; chats that a person keeps
    are aside."""
    word, found = Canary.BEGINS["private"].split()[-1].encode(), []
    for path in [*desk.home.rglob("*"), folder / "door-errors", folder / "told-tools"]:
        if path.is_file() and path.name not in ("history", "chats.sqlite", "chats.sqlite-wal"):
            found += [path.name] if word in path.read_bytes() else []
    claim("no file below HEPH's folder holds one, no message of the door and no tool", not found, sorted(set(found))[:4])


def together():
    """The kept lines as one: sums, but for what is a greatest; a line of conversations that were had again takes the older one's place."""
    newest = {}
    for line in map(json.loads, RAW.read_text().splitlines()):
        newest |= {number: line for number in range(line["first"], line["first"] + line["conversations"])}
    lines = list({id(line): line for line in newest.values()}.values())
    counted = [name for name, value in lines[0].items() if isinstance(value, int) and name != "first"]
    told = {name: sum(line[name] for line in lines) for name in counted}
    told |= {name: max(line[name] for line in lines) for name in ("bytes_off_max", "killed_unlogged_bytes_max")} | {"lines": len(lines), "numbers": len(newest)}
    print(json.dumps(told | {"failed": [claim for line in lines for claim in line["failed"]]}, indent=2))


def post():
    """One request to the door, from inside of the desk's namespace."""
    order = json.load(sys.stdin)
    request = urllib.request.Request(
        f"http://127.0.0.1:{order['port']}/{order['path']}",
        data=json.dumps(order["body"]).encode() if order["body"] else None,
        headers={"content-type": "application/json", "authorization": f"Bearer {order['token']}"},
    )
    try:
        told = urllib.request.urlopen(request, timeout=80).read().decode()
        print(told if told.startswith("{") else json.dumps({"text": told}))
    except urllib.error.HTTPError as error:
        print(json.dumps({"error": error.code, "told": error.read().decode(errors="replace")}))


def certificate(folder, address):
    """A certificate of its own for the provider, which the desk is told to trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "provider")])
    now, day = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
    made = made.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), False)
    made = made.sign(key, hashes.SHA256())
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / "cert.pem").write_bytes(made.public_bytes(pem))
    (folder / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))


def tools(path):
    """A server of tools that writes down how many bytes it was told in each call, and what."""
    for line in sys.stdin:
        asked = json.loads(line)
        if "id" not in asked:
            continue
        tool = {"name": "echo", "description": "Echoes", "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}}}
        begun = {"capabilities": {"tools": {}}, "serverInfo": {"name": "far", "version": "1"}}
        if asked["method"] == "tools/call":
            with open(path, "a") as out:
                # As it came: from the beginning of what is told to its end.
                begin = line.index('"params":') + len('"params":')
                _, end = json.JSONDecoder().raw_decode(line, begin)
                print(len(line[begin:end].encode()), line[begin:end], file=out)
        answers = {
            "initialize": begun | {"protocolVersion": asked.get("params", {}).get("protocolVersion", "")},
            "tools/list": {"tools": [tool]},
            "tools/call": {"content": [{"type": "text", "text": "The tool was here."}]},
        }
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": answers.get(asked["method"], {})}), flush=True)


def provide(address, folder):
    """A provider behind TLS 1.3 that answers every question alike, and writes its keys down."""
    busy = set()

    class Answers(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            asked = self.rfile.read(int(self.headers["content-length"]))
            if BUSY.encode() in asked and asked not in busy:
                busy.add(asked)
                return self.say(503, "application/json", b"{}", [("retry-after-ms", "50")])
            words = [{"choices": [{"index": 0, "delta": {"content": word}}]} for word in ("Once ", "upon a ", "time.")]
            words += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}]
            words += [{"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3}}]
            told = "".join(f"data: {json.dumps(word)}\n\n" for word in words) + "data: [DONE]\n\n"
            self.say(200, "text/event-stream", told.encode())

        def say(self, status, kind, told, more=()):
            self.send_response(status)
            for name, value in [("content-type", kind), ("content-length", str(len(told))), *more]:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(told)

        def log_message(self, *_):
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    context.keylog_filename = str(folder / "provider-keys")
    server = http.server.ThreadingHTTPServer((address, PROVIDER), Answers)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    print("ready", flush=True)
    server.serve_forever()


def main():
    what = sys.argv[1] if len(sys.argv) > 1 else "short"
    if what == "post":
        return post()
    if what == "sum":
        return together()
    if what == "tools":
        return tools(sys.argv[2])
    if what == "provider":
        return provide(sys.argv[2], pathlib.Path(sys.argv[3]))
    if (code := no_start(what, why_not() or quic.MISSING, HEPH)) is not None:
        return code
    if what == "long":
        count, first = (int(word) for word in (sys.argv[2:] + ["500", "0"][len(sys.argv) - 2 :])[:2])
        if count < len(KINDS):
            print(f"fewer than {len(KINDS)} conversations are not one of each kind, and prove nothing")
            return 2
        raw_lines.keep(RAW, "leaks", **converse(range(first, first + count)))
    elif what == "short":
        converse(range(len(KINDS)))
    return verdict(__doc__)


if __name__ == "__main__":
    sys.exit(main())
