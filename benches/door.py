#!/usr/bin/env python3
"""Measures the door (`heph serve`) and writes DOOR.md.

Each task starts a server of its own, asks it over loopback and ends it. Every raw line is kept in raw/door.jsonl; the
report is made from those lines and from nothing else. What the door itself takes is read from the CPU times of its own
threads, so a machine that others use too disturbs it little; for the other figures leave the machine alone.

    door.py prefix MODEL.gguf [--tokens 4096]   first token after so many known tokens: from nothing, from memory, from disk
    door.py cost                                what the door's threads take for a request and for a streamed token
    door.py streams [--count 256]               many streams at once: memory, and each text against the text alone
    door.py peer MODEL.gguf [--count 32]        tokens a second of many streams, in turn with llama.cpp's server
    door.py slow [--count 64] [--seconds 60]    readers of 1 KB a second: memory for each
    door.py soak [--requests 20000]             memory and open files over as many requests as a day of one each 4 s has
    door.py report                              writes DOOR.md

Needs cargo build --release -p heph-cli, or HEPH=path. `peer` needs a Python with the package xllamacpp, which holds
llama.cpp's server: PEER_PYTHON=path.
"""
import argparse
import asyncio
import functools
import json
import os
import pathlib
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

import raw_lines

HERE = pathlib.Path(__file__).resolve().parent
HEPH = os.environ.get("HEPH", str(HERE.parent / "target" / "release" / "heph"))
PEER_PYTHON = os.environ.get("PEER_PYTHON", sys.executable)
RAW = pathlib.Path(os.environ.get("DOOR_RAW", HERE / "raw" / "door.jsonl"))

# What the project asked for.
PREFIX_GOAL = 12
REQUEST_US, TOKEN_US, THROUGHPUT, READER_KIB = 1000, 30, 1.3, 64

START_S, ANSWER_S = 120, 900


keep = functools.partial(raw_lines.keep, RAW)


class Server:
    """A process that answers on loopback until it is left."""

    def __init__(self, command, path, environment=None):
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        self.port = None
        for line in self.process.stdout:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
                break
        if self.port is None:
            sys.exit("the server ended before it answered")
        until = time.monotonic() + START_S
        while True:
            try:
                self.get(path)
                return
            except OSError:
                if time.monotonic() > until:
                    sys.exit("the server does not answer")
                time.sleep(0.05)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(30)

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            return answer.read().decode()

    def status(self, name):
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"^{name}:\s+(\d+)", text, re.M)[1])

    def rss(self):
        """Bytes of memory in use."""
        return self.status("VmRSS") * 1024

    def files(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def thread_ns(self, name):
        """Processor time of all threads of this name."""
        total = 0
        for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir():
            if (task / "comm").read_text().strip() == name:
                total += int((task / "schedstat").read_text().split()[0])
        return total


def heph(home, *arguments):
    command = [HEPH, "serve", "--listen", "127.0.0.1:0", "--no-auth", *arguments]
    return Server(command, "/health", os.environ | {"HEPH_HOME": str(home)})


# llama.cpp's server inside a Python process, with as many places as there are streams.
PEER = """
import sys, time, xllamacpp as x
p = x.CommonParams()
p.model.path, p.n_parallel, p.n_ctx = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = int(sys.argv[4])
p.port = 0
s = x.Server(p)
print(s.listening_address, flush=True)
time.sleep(1e6)
"""


def llama_server(model, places, context, threads):
    arguments = [model, str(places), str(places * context), str(threads)]
    return Server([PEER_PYTHON, "-c", PEER, *arguments], "/health")


async def events(port, path, body, rate=None):
    """The data of a stream's events, each with the time it came. With `rate`, bytes a second that are read at most."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 12 if rate else 1 << 16)
    payload = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(payload)}\r\n"
    writer.write(f"{head}connection: close\r\n\r\n".encode() + payload)
    try:
        answer = (await reader.readuntil(b"\r\n\r\n")).decode()
        if " 200 " not in answer.split("\r\n")[0]:
            sys.exit(f"refused: {answer} {(await reader.read()).decode()}")
        rest = b""
        while size := int(await reader.readline() or b"0", 16):
            while size:
                piece = await reader.read(min(size, rate or 1 << 16))
                if not piece:
                    return
                size -= len(piece)
                rest += piece
                if rate:
                    await asyncio.sleep(len(piece) / rate)
            await reader.readline()
            *lines, rest = rest.split(b"\n")
            for line in lines:
                if line.startswith(b"data: {"):
                    yield time.monotonic(), json.loads(line[6:])
    finally:
        writer.close()


def prompt(seed, tokens, vocabulary=20_000):
    drawn = random.Random(seed)
    return [drawn.randrange(1000, vocabulary) for _ in range(tokens)]


def completion(tokens, most, **more):
    return {"prompt": tokens, "max_tokens": most, "temperature": 0, "stream": True} | more


async def first_token(port, tokens):
    began = time.monotonic()
    usage = {"stream_options": {"include_usage": True}}
    first, cached = None, 0
    async for when, data in events(port, "/v1/completions", completion(tokens, 1, **usage)):
        first = first or when - began
        details = (data.get("usage") or {}).get("prompt_tokens_details") or {}
        cached = max(cached, details.get("cached_tokens", 0))
    return first, cached


def prefix(arguments):
    home = tempfile.mkdtemp(prefix="heph-door-")
    options = ["--model", arguments.model, "--context", "8192", "--cache-ram", "4GB", "--cache-disk", "8GB"]
    times = {"cold": [], "memory": [], "disk": []}
    ask = lambda server, kind, seed, end: times[kind].append(
        asyncio.run(first_token(server.port, prompt(seed, arguments.tokens) + prompt(end, 16))))
    try:
        with heph(home, *options) as server:
            for seed in range(arguments.rounds):
                ask(server, "cold", seed, 1000 + seed)
                ask(server, "memory", seed, 2000 + seed)
            blocks = arguments.rounds * (arguments.tokens // 64)
            until = time.monotonic() + START_S
            while time.monotonic() < until:
                written = int(re.search(r"^heph_cache_disk_written_total (\d+)", server.get("/metrics"), re.M)[1])
                if written >= blocks:
                    break
                time.sleep(0.2)
        with heph(home, *options) as server:
            time.sleep(1)
            for seed in range(arguments.rounds):
                ask(server, "disk", seed, 3000 + seed)
    finally:
        shutil.rmtree(home)
    middle = {kind: statistics.median(t for t, _ in list) for kind, list in times.items()}
    keep("prefix", model=pathlib.Path(arguments.model).name, tokens=arguments.tokens, rounds=arguments.rounds,
         cold_s=middle["cold"], memory_s=middle["memory"], disk_s=middle["disk"],
         cached=[min(c for _, c in times[kind]) for kind in ("memory", "disk")])


async def answers(port, bodies, path="/v1/completions"):
    """The texts, and how many tokens each has by the server's own count."""
    async def one(body):
        text, tokens = "", 0
        async for _, data in events(port, path, body | {"stream_options": {"include_usage": True}}):
            text += "".join(choice.get("text") or "" for choice in data.get("choices", []))
            tokens = (data.get("usage") or {}).get("completion_tokens", tokens)
        return text, tokens
    return await asyncio.gather(*(one(body) for body in bodies))


# What a question to the bundled model looks like; nothing ends its answer but the number of tokens.
def story(number, most, **more):
    names = ["a dog", "a cat", "a bird", "a fish", "a bear", "a frog", "a girl", "a king"]
    text = f"Once upon a time there was {names[number % 8]} with {number // 8 + 1} hats."
    return {"prompt": text, "max_tokens": most, "temperature": 1, "seed": number, "stream": True} | more


def cost(arguments):
    ends = {"logit_bias": {"0": -100, "1": -100, "2": -100}}
    with tempfile.TemporaryDirectory() as home, heph(home) as server:
        def taken(count, most):
            before, made = server.thread_ns("heph-door"), 0
            for number in range(count):
                made += asyncio.run(answers(server.port, [story(number, most, **ends)]))[0][1]
            return (server.thread_ns("heph-door") - before) / 1000, made
        taken(50, 20)
        requests, _ = taken(300, 1)
        request = requests / 300
        streams, tokens = taken(40, 400)
        keep("cost", request_us=request, token_us=(streams - 40 * request) / tokens, tokens=tokens)


def streams(arguments):
    count, most = arguments.count, 100
    with tempfile.TemporaryDirectory() as home, heph(home) as server:
        alone = [asyncio.run(answers(server.port, [story(n, most)]))[0][0] for n in range(32)]
        before, began = server.rss(), time.monotonic()
        said = asyncio.run(answers(server.port, [story(n % 32, most) for n in range(count)]))
        took = time.monotonic() - began
        wrong = sum(text != alone[n % 32] for n, (text, _) in enumerate(said))
        peak = server.status("VmHWM") * 1024
        keep("streams", count=count, wrong=wrong, before=before, peak=peak, seconds=took,
             tokens_per_s=sum(tokens for _, tokens in said) / took)
        if wrong:
            sys.exit(f"{wrong} texts differ from those alone")


def peer(arguments):
    count, most, length = arguments.count, 64, 64
    threads = os.cpu_count()
    # Nothing ends an answer early; each program has its own word for it.
    bodies = [completion(prompt(n, length), most, ignore_eos=True, logit_bias={"2": -100}) for n in range(count)]

    def rate(server):
        asyncio.run(answers(server.port, bodies[:2]))
        began = time.monotonic()
        said = asyncio.run(answers(server.port, bodies))
        return sum(tokens for _, tokens in said) / (time.monotonic() - began)
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as home:
        for _ in range(arguments.rounds):
            with heph(home, "--model", arguments.model, "--parallel", str(count), "--threads", str(threads),
                      "--context", "512") as server:
                ours.append(rate(server))
            with llama_server(arguments.model, count, 512, threads) as server:
                theirs.append(rate(server))
    keep("peer", model=pathlib.Path(arguments.model).name, count=count, threads=threads,
         heph=ours, peer=theirs)


def slow(arguments):
    count = arguments.count
    body = lambda n: story(n, 300, logprobs=5, logit_bias={"0": -100, "1": -100, "2": -100})

    async def sip(port, number, until):
        async for _ in events(port, "/v1/completions", body(number), rate=1024):
            if time.monotonic() > until:
                return

    async def all_sip(port):
        until = time.monotonic() + arguments.seconds
        await asyncio.gather(*(sip(port, n, until) for n in range(count)))

    async def watched(server):
        task, peak = asyncio.ensure_future(all_sip(server.port)), 0
        while not task.done():
            peak = max(peak, server.rss())
            await asyncio.sleep(0.5)
        await task
        return peak
    with tempfile.TemporaryDirectory() as home, heph(home, "--parallel", str(count), "--cache-ram", "off") as server:
        # As many quick readers first: their caches are the engine's memory, not the door's.
        asyncio.run(answers(server.port, [body(n) for n in range(count)]))
        before = server.status("VmHWM") * 1024
        peak = asyncio.run(watched(server))
        keep("slow", count=count, seconds=arguments.seconds, kib_each=max(0, peak - before) / count / 1024)


def soak(arguments):
    total, at_once = arguments.requests, 8
    with tempfile.TemporaryDirectory() as home, heph(home, "--cache-ram", "64MB", "--cache-disk", "64MB") as server:
        def some(first, count):
            for start in range(first, first + count, at_once):
                bodies = [story(n * 7919 % 100_003, 4 + n % 13) for n in range(start, start + at_once)]
                asyncio.run(answers(server.port, bodies))
        # Caches, pools and the allocator have what they will have.
        some(0, total // 4)
        marks = []
        for part in range(4):
            marks.append((server.rss(), server.files()))
            some(total // 4 + part * total // 4, total // 4)
        marks.append((server.rss(), server.files()))
        keep("soak", requests=total + total // 4, rss=[m[0] for m in marks], files=[m[1] for m in marks])


def report(_):
    lines = [json.loads(line) for line in RAW.read_text().splitlines()] if RAW.exists() else []
    of = lambda kind: [line for line in lines if line["kind"] == kind]
    out = ["# The door, measured", "", "Made by `benches/door.py report` from `raw/door.jsonl`; the newest line of each kind and model.", ""]
    out += ["| what | measured | asked |", "|---|---|---|"]
    for line in newest(of("prefix"), "model"):
        for kind in ("memory", "disk"):
            ratio = line["cold_s"] / line[f"{kind}_s"]
            out.append(f"| first token after {line['tokens']} known tokens, {line['model']}, from {kind} | "
                       f"{line[f'{kind}_s'] * 1000:.0f} ms for {line['cold_s']:.2f} s, {ratio:.0f} times sooner | {PREFIX_GOAL} |")
    for line in of("cost")[-1:]:
        out.append(f"| the door's own time for a request | {line['request_us']:.0f} µs | {REQUEST_US} |")
        out.append(f"| and for a streamed token | {line['token_us']:.1f} µs | {TOKEN_US} |")
    for line in newest(of("streams"), "count"):
        out.append(f"| {line['count']} streams at once | {line['wrong']} differ from their texts alone; "
                   f"{line['before'] / 1e6:.0f} MB before, {line['peak'] / 1e6:.0f} MB at most | 0 |")
    for line in newest(of("peer"), "model"):
        ratio = statistics.median(line["heph"]) / statistics.median(line["peer"])
        out.append(f"| {line['count']} streams, {line['model']} | {statistics.median(line['heph']):.1f} tokens a second for "
                   f"llama.cpp's {statistics.median(line['peer']):.1f}: {ratio:.2f} | {THROUGHPUT} |")
    for line in of("slow")[-1:]:
        out.append(f"| memory for a reader of 1 KB a second, of {line['count']} | {line['kib_each']:.1f} KiB | {READER_KIB} |")
    for line in of("soak")[-1:]:
        rss = ", ".join(f"{value / 1e6:.1f}" for value in line["rss"])
        out.append(f"| {line['requests']} requests | {rss} MB and {line['files']} open files, quarter by quarter | no growth |")
    machines = sorted({line["cpu"] for line in lines})
    out += ["", "Processors: " + "; ".join(machines) + ".", ""]
    (HERE / "DOOR.md").write_text("\n".join(out))


def newest(lines, key):
    return {line[key]: line for line in lines}.values()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = parser.add_subparsers(required=True)
    for run, options in [
        (prefix, {"model": str, "--rounds": 3, "--tokens": 4096}), (cost, {}), (streams, {"--count": 256}),
        (peer, {"model": str, "--count": 32, "--rounds": 3}), (slow, {"--count": 64, "--seconds": 60}),
        (soak, {"--requests": 20_000}), (report, {}),
    ]:
        task = tasks.add_parser(run.__name__)
        task.set_defaults(run=run)
        for name, usual in options.items():
            given = {"default": usual, "type": int} if name.startswith("--") else {}
            task.add_argument(name, **given)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
