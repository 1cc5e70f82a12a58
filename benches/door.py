#!/usr/bin/env python3
"""Measures the door (`heph serve`) and writes DOOR.md.

Each task starts a server of its own, asks it over loopback and ends it. Every raw line is kept in raw/door.jsonl; the
report is made from those lines and from nothing else. What the door itself takes is read from the CPU times of its own
threads, so a machine that others use too disturbs it little; for the other figures leave the machine alone.

    door.py prefix MODEL [--tokens 4096] [--vocabulary 20000] [--context 8192]
                                                first token after so many known tokens: from nothing, from memory, from disk
    door.py cost [--model MODEL]                what the door's threads take for a request and for a streamed token: of the bundled model,
                                                whose tokens are ready together, or of one so slow that each is written for itself
    door.py bare [--megabytes 668]              what a token of such a model costs a bare loop that is woken and writes (bare.rs)
    door.py streams [--count 256]               many streams at once: memory, and each text against the text alone
    door.py peer MODEL.gguf [--count 32]        tokens a second of many streams, in turn with llama.cpp's server
    door.py slow [--count 64] [--seconds 60]    readers of 1 KB a second: memory for each, in the program and in the system
    door.py soak [--requests 20000]             memory and open files over as many requests as a day of one each 4 s has: of all
                                                APIs, with readers that hang up, replies that are kept, and mistakes
    door.py report                              writes DOOR.md

Each ends with a line for each thing that was asked, `met` or `MISSED`, and with exit code 1 where one was missed.

Needs cargo build --release -p heph-cli, or HEPH=path. `peer` needs llama.cpp's server, built for this
CPU (`cmake -DGGML_NATIVE=ON`): LLAMA_SERVER=path.
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
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

import raw_lines

HERE = pathlib.Path(__file__).resolve().parent
HEPH = os.environ.get("HEPH", str(HERE.parent / "target" / "release" / "heph"))
LLAMA_SERVER = os.environ.get("LLAMA_SERVER", "llama-server")
RAW = pathlib.Path(os.environ.get("DOOR_RAW", HERE / "raw" / "door.jsonl"))

# What the project asked for.
PREFIX_GOAL = 12
REQUEST_US, TOKEN_US, THROUGHPUT, READER_KIB = 1000, 30, 1.3, 64

# Memory of a stream among many, keys and values of its answer included: room for a short answer, and what a reader may hold.
STREAM_KIB = 1024

# Growth over the second half of a soak that is the allocator's and no leak: one part in fifty of all.
GROWTH = 0.02

START_S, ANSWER_S = 120, 900

# How long an idle door is looked at.
IDLE_S = 5


keep = functools.partial(raw_lines.keep, RAW)


def verdict(*asked):
    """Says of each thing that was asked whether it was met: what, what was measured, what was asked, and whether that is so."""
    for what, measured, bound, met in asked:
        print(f"{'met' if met else 'MISSED':7} {what}: {measured}, asked {bound}")
    sys.exit(not all(met for *_, met in asked))


class Server:
    """A process that answers on loopback until it is left."""

    def __init__(self, command, path, environment=None, port=None):
        """Which port it took, it says itself, unless it was told one; what else it says is nobody's then."""
        told = subprocess.DEVNULL if port else subprocess.PIPE
        self.process = subprocess.Popen(command, env=environment, stdout=told, stderr=told if port else None, text=True)
        self.port = port
        for line in [] if port else self.process.stdout:
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
                # `llama-server` answers 503 while it loads.
                if time.monotonic() > until or self.process.poll() is not None:
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

    def count(self, name):
        """A count of `/metrics`."""
        return int(re.search(rf"^{name} (\d+)", self.get("/metrics"), re.M)[1])

    def thread_ns(self, name):
        """Processor time of all threads of this name."""
        total = 0
        for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir():
            if (task / "comm").read_text().strip() == name:
                total += int((task / "schedstat").read_text().split()[0])
        return total


def heph(home, *arguments):
    command = [HEPH, "serve", "--listen", "127.0.0.1:0", "--no-auth", "--rate", "off", *arguments]
    return Server(command, "/health", os.environ | {"HEPH_HOME": str(home)})


def llama_server(model, places, context, threads):
    """With as many places as there are streams."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return Server([LLAMA_SERVER, "--model", model, "--parallel", str(places), "--ctx-size", str(places * context), "--threads", str(threads),
                   "--port", str(port)], "/health", port=port)


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
    context = ["--context", str(arguments.context)] if arguments.context else []
    options = ["--model", arguments.model, *context, "--cache-ram", "4GB", "--cache-disk", "8GB"]
    times = {"cold": [], "memory": [], "disk": []}
    some = lambda seed, tokens: prompt(seed, tokens, arguments.vocabulary)
    ask = lambda server, kind, seed, end: times[kind].append(
        asyncio.run(first_token(server.port, some(seed, arguments.tokens) + some(end, 16))))
    try:
        with heph(home, *options) as server:
            for seed in range(arguments.rounds):
                ask(server, "cold", seed, 1000 + seed)
                ask(server, "memory", seed, 2000 + seed)
            blocks = arguments.rounds * (arguments.tokens // 64)
            until = time.monotonic() + START_S
            while time.monotonic() < until:
                if server.count("heph_cache_disk_written_total") >= blocks:
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
    sooner = {kind: middle["cold"] / middle[kind] for kind in ("memory", "disk")}
    verdict(*((f"first token of {arguments.tokens} known tokens, from {kind}", f"{times:.0f} times sooner", f"{PREFIX_GOAL} times",
               times >= PREFIX_GOAL) for kind, times in sooner.items()))


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
    requests, answered, most = arguments.requests, arguments.streams, arguments.most
    chosen = ["--model", arguments.model] if arguments.model else []
    with tempfile.TemporaryDirectory() as home, heph(home, *chosen) as server:
        def taken(count, most, idle=0):
            """Microseconds beyond those that an idle door takes in as many seconds, and tokens."""
            before, made, began = server.thread_ns("heph-door"), 0, time.monotonic()
            for number in range(count):
                made += asyncio.run(answers(server.port, [story(number, most, **ends)]))[0][1]
            took = (server.thread_ns("heph-door") - before) / 1000
            return took - idle * (time.monotonic() - began), made
        taken(max(1, requests // 6), 20)
        # It looks now and then whether somebody's leave was taken back, whatever is asked meanwhile.
        before = server.thread_ns("heph-door")
        time.sleep(IDLE_S)
        idle = (server.thread_ns("heph-door") - before) / 1000 / IDLE_S
        whole, _ = taken(requests, 1, idle)
        request, began = whole / requests, time.monotonic()
        streams, tokens = taken(answered, most, idle)
        rate = tokens / (time.monotonic() - began)
        token = (streams - answered * request) / tokens
        keep("cost", build=arguments.build, model=pathlib.Path(arguments.model or "heph-story").name, request_us=request,
             token_us=token, tokens=tokens, tokens_per_s=rate, idle_us_a_second=idle)
    verdict(("the door's own time for a request", f"{request:.0f} µs", f"{REQUEST_US} µs", request <= REQUEST_US),
            ("for a streamed token", f"{token:.1f} µs", f"{TOKEN_US} µs", token <= TOKEN_US))


def bare(arguments):
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/bare"
        subprocess.run(["rustc", "--edition", "2024", "-O", "-o", program, HERE / "bare.rs"], check=True)
        command = [program, str(arguments.tokens), str(arguments.megabytes)]
        taken = [int(subprocess.run(command, capture_output=True, check=True).stdout) / 1000 for _ in range(arguments.rounds)]
    keep("bare", megabytes=arguments.megabytes, tokens=arguments.tokens, token_us=taken)
    print(f"a bare loop takes {statistics.median(taken):.1f} µs for a token")


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
        more = (peak - before) / count / 1024
    verdict((f"texts of {count} streams at once that differ from those alone", wrong, 0, wrong == 0),
            ("memory that each of them adds at the peak", f"{more:.0f} KiB", f"{STREAM_KIB} KiB", more <= STREAM_KIB))


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
    ratio = statistics.median(ours) / statistics.median(theirs)
    verdict((f"tokens a second of {count} streams beside llama.cpp's", f"{ratio:.2f}", THROUGHPUT, ratio >= THROUGHPUT))


def system_bytes():
    """What the system holds for all connections of this machine."""
    return int(re.search(r"^TCP:.* mem (\d+)", pathlib.Path("/proc/net/sockstat").read_text(), re.M)[1]) * 4096


def slow(arguments):
    count = arguments.count
    body = lambda n: story(n, 900, logprobs=20, logit_bias={"0": -100, "1": -100, "2": -100})

    async def sip(port, number, until):
        async for _ in events(port, "/v1/completions", body(number), rate=1024):
            if time.monotonic() > until:
                return

    async def idle(port):
        doors = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
        await asyncio.sleep(1)
        return doors

    async def measured(server):
        # What is in the program besides the keys and values of the answers, which are the engine's. It is looked at while all
        # of them are held: what an allocator keeps of keys and values that were given up counts for nobody.
        program = lambda: server.rss() - server.count("heph_caches_bytes")
        doors = await idle(server.port)
        before, system = program(), system_bytes()
        for _, writer in doors:
            writer.close()
        until = time.monotonic() + arguments.seconds
        task = asyncio.ensure_future(asyncio.wait([asyncio.ensure_future(sip(server.port, n, until)) for n in range(count)]))
        await asyncio.sleep(arguments.seconds - 3)
        after, system_after = await asyncio.to_thread(program), system_bytes()
        await task
        return after - before, system_after - system
    with tempfile.TemporaryDirectory() as home, heph(home, "--parallel", str(arguments.parallel), "--cache-ram", "off") as server:
        # As many together as will be, so that what the batch keeps for its places is there before; short ones, of few keys and values.
        asyncio.run(answers(server.port, [body(n) | {"max_tokens": 16} for n in range(2 * arguments.parallel)]))
        program, system = asyncio.run(measured(server))
        each, system = program / count / 1024, system / count / 1024
        keep("slow", count=count, parallel=arguments.parallel, seconds=arguments.seconds, kib_each=each, system_kib_each=system)
    verdict(("memory for a reader of 1 KB a second, without keys and values", f"{each:.1f} KiB", f"{READER_KIB} KiB", each <= READER_KIB))


def errand(n):
    """Request number `n` of a day: its path, its body, whether it is a stream, and the status that it is to have."""
    turns = [{"role": "user", "content": f"Tell me a story about {n} dogs."}]
    most, kept = 3 + n % 6, {"heph": {"resume": True}}
    few = {"max_tokens": most, "temperature": 1, "seed": n}
    tool = lambda name, takes: {"jsonrpc": "2.0", "id": n, "method": "tools/call", "params": {"name": name, "arguments": takes}}
    options = {"options": {"num_predict": most, "seed": n}}
    kinds = [
        ("/v1/completions", {"prompt": f"Once there were {n} cats."} | few, 200),
        ("/v1/completions", {"prompt": f"Once there were {n} cats.", "stream": True} | few, 200),
        ("/v1/chat/completions", {"messages": turns, "logprobs": True, "top_logprobs": 3} | few, 200),
        ("/v1/chat/completions", {"messages": turns, "stream": True} | few | kept, 200),
        ("/v1/chat/completions", {"messages": turns, "response_format": {"type": "json_object"}} | few, 200),
        ("/v1/responses", {"input": turns[0]["content"], "max_output_tokens": most, "stream": n % 2 == 0}, 200),
        ("/v1/messages", {"messages": turns, "max_tokens": most, "stream": n % 2 == 0}, 200),
        ("/api/chat", {"messages": turns} | options, 200),
        ("/api/generate", {"prompt": turns[0]["content"]} | options, 200),
        ("/v1/embeddings", {"input": turns[0]["content"]}, 200),
        ("/api/embed", {"input": [turns[0]["content"], "another"]}, 200),
        ("/tokenize", {"content": turns[0]["content"]}, 200),
        ("/mcp", tool("ask", {"question": turns[0]["content"], "max_tokens": most}), 200),
        ("/mcp", tool("embed", {"texts": [turns[0]["content"]]}), 200),
        ("/mcp", {"jsonrpc": "2.0", "id": n, "method": "resources/list"}, 200),
        ("/v1/completions", {"prompt": "Once", "guided_regex": "[0-9]{4}"} | few | {"max_tokens": 20}, 200),
        ("/v1/completions", {"prompt": "Once", "best_of": 3} | few, 200),
        ("/v1/chat/completions", {"messages": turns, "temperature": -1}, 400),
        ("/v1/chat/completions", {"messages": turns, "model": "nobody"}, 404),
        # Somebody who does not wait for the end.
        ("/v1/completions", {"prompt": "Once", "max_tokens": 500, "stream": True, "seed": n}, None),
    ]
    return kinds[n % len(kinds)]


async def asked(port, n):
    path, body, expected = errand(n)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    payload = json.dumps(body).encode()
    writer.write(f"POST {path} HTTP/1.0\r\nhost: 127.0.0.1\r\ncontent-length: {len(payload)}\r\n\r\n".encode() + payload)
    try:
        if expected is None:
            await reader.read(300)
            return
        said = await asyncio.wait_for(reader.read(), ANSWER_S)
        if f" {expected} ".encode() not in said.split(b"\r\n")[0]:
            sys.exit(f"{path} {body}: {said[:300]}")
    finally:
        writer.close()


def soak(arguments):
    total, at_once = arguments.requests, 8
    with tempfile.TemporaryDirectory() as home, heph(home, "--cache-ram", "64MB", "--cache-disk", "64MB") as server:
        def some(first, count):
            async def together():
                for start in range(first, first + count, at_once):
                    await asyncio.gather(*(asked(server.port, n) for n in range(start, start + at_once)))
            asyncio.run(together())
        # Caches, pools and the allocator have what they will have.
        some(0, total // 4)
        marks = []
        for part in range(4):
            marks.append((server.rss(), server.files()))
            some(total // 4 + part * total // 4, total // 4)
        marks.append((server.rss(), server.files()))
        rss, files = [m[0] for m in marks], [m[1] for m in marks]
        keep("soak", requests=total + total // 4, rss=rss, files=files)
    growth = (rss[-1] - rss[len(rss) // 2]) / rss[len(rss) // 2]
    verdict(("memory that the second half adds", f"{growth:.1%}", f"{GROWTH:.0%}", growth <= GROWTH),
            ("open files that it adds", files[-1] - files[len(files) // 2], 0, files[-1] <= files[len(files) // 2]))


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
    for line in newest(of("cost"), "model"):
        of_what = f"{line['build']}, {line['model']}, {line['tokens_per_s']:.0f} tokens a second"
        out.append(f"| the door's own time for a request ({of_what}) | {line['request_us']:.0f} µs | {REQUEST_US} |")
        out.append(f"| and for a streamed token | {line['token_us']:.1f} µs | {TOKEN_US} |")
    for line in of("bare")[-1:]:
        out.append(f"| what a bare loop takes for a token beside {line['megabytes']} MB of weights (bare.rs) | "
                   f"{statistics.median(line['token_us']):.1f} µs | - |")
    for line in newest(of("streams"), "count"):
        out.append(f"| {line['count']} streams at once | {line['wrong']} differ from their texts alone; "
                   f"{line['before'] / 1e6:.0f} MB before, {line['peak'] / 1e6:.0f} MB at most | 0 |")
    for line in newest(of("peer"), "model"):
        ratio = statistics.median(line["heph"]) / statistics.median(line["peer"])
        out.append(f"| {line['count']} streams, {line['model']} | {statistics.median(line['heph']):.1f} tokens a second for "
                   f"llama.cpp's {statistics.median(line['peer']):.1f}: {ratio:.2f} | {THROUGHPUT} |")
    for line in of("slow")[-1:]:
        system = f"; {line['system_kib_each']:.1f} in the system, both ends" if "system_kib_each" in line else ""
        out.append(f"| memory for a reader of 1 KB a second, of {line['count']} | {line['kib_each']:.1f} KiB{system} | {READER_KIB} |")
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
        (prefix, {"model": str, "--rounds": 3, "--tokens": 4096, "--vocabulary": 20_000, "--context": 8192}), (cost, {"--build": "release", "--model": "", "--requests": 300, "--streams": 40, "--most": 400}), (bare, {"--megabytes": 668, "--tokens": 300, "--rounds": 3}), (streams, {"--count": 256}),
        (peer, {"model": str, "--count": 32, "--rounds": 3}), (slow, {"--count": 64, "--seconds": 60, "--parallel": 4}),
        (soak, {"--requests": 20_000}), (report, {}),
    ]:
        task = tasks.add_parser(run.__name__)
        task.set_defaults(run=run)
        for name, usual in options.items():
            given = {"default": usual, "type": type(usual)} if name.startswith("--") else {}
            task.add_argument(name, **given)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
