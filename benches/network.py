#!/usr/bin/env python3
"""Measures HEPH over networks with real distance and writes NETWORK.md.

Two hosts of one core each (network namespaces pinned by taskset), a strait with a real round trip between them. Every
raw line is kept in raw/network.jsonl; the report is made from those lines and from nothing else.

    network.py split MODEL.gguf    decoding, prefill, serial prefill, prefill where packets are lost, and bytes of a model over two hosts
    network.py rpc MODEL.gguf      decoding and prefill of the same split by HEPH and by llama.cpp's RPC, in turns
    network.py modes               the bundled pair by every mode of heph run, at several round trips
    network.py guesses             the bundled pair, the target over there: step by step, streamed, and guessed for from here
    network.py direct MODEL.gguf   decoding over two far hosts: rows through the desk, and from host to host
    network.py asked MODEL.gguf    the first token of a prompt asked through the door of `heph serve`: here alone, and as it is planned
    network.py overhead            what the runtime adds to a token and stage, without distance
    network.py expected MODEL      what heph plan says that an answer takes, and what it takes, by every mode
    network.py report              writes NETWORK.md; `tests/lab/steps.py long` adds what becomes of ways whose rate changes

Leave the machine alone meanwhile. Needs root, Linux, and cargo build --release --workspace.
"""
import functools
import hashlib
import json
import os
import pathlib
import random
import re
import select
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests" / "lab"))
os.environ.setdefault("HEPH_PROFILE", "release")
from netlab import TARGET, Lab, why_not  # noqa: E402
from nodes import HEPH, Desk, Node  # noqa: E402

import raw_lines

RAW = HERE / "raw" / "network.jsonl"
SPAN = TARGET / "span"

# Milliseconds there and back.
DECODE_RTTS = [0, 10, 50, 100]

# Of a core, by all else that runs: more, and times are not counted.
OTHERS_MAX = 0.1

# Tokens of a prompt that travel together; the planner chooses among these and longer ones.
PIECES = [16, 32, 64, 128]

# Shares of packets that are lost.
LOSSES = [0, 0.0005, 0.01]

MODE_RTTS = [0, 50, 100, 150, 300]
GUESS_RTTS = [0, 20, 150, 300]

# llama.cpp with its RPC backend: built on first use from the source of peers/ (`cargo fetch` brings it).
PEERS = HERE / "peers"
RPC = PEERS / "target" / "rpc" / "rpc-peer"


keep = functools.partial(raw_lines.keep, RAW, profile=os.environ["HEPH_PROFILE"])


class Others:
    """How much of a core everybody else took meanwhile: a measurement beside other work measures that, too."""

    def __init__(self, *own):
        self.own = own

    def __enter__(self):
        self.began = self.now()
        return self

    def __exit__(self, *_):
        self.took = [after - before for before, after in zip(self.began, self.now())]

    def now(self):
        """Seconds of the clock, of all processors at work, and of the own processes."""
        user, nice, system, idle, wait, *interrupts = map(int, open("/proc/stat").readline().split()[1:9])
        ended = os.times()
        ticks = 0
        for pid in self.own:
            ticks += sum(map(int, pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))
        each = os.sysconf("SC_CLK_TCK")
        busy = (user + nice + system + sum(interrupts)) / each
        return ended.elapsed, busy, ticks / each + ended.children_user + ended.children_system

    def share(self):
        clock, busy, own = self.took
        return round(max(0.0, busy - own) / clock, 3)


class Span:
    """Both ends of `span` in a lab, for as many measurements as one load allows."""

    def __init__(self, lab, model, lends="serve"):
        self.lab, self.model = lab, model
        self.desk, self.node = Desk(lab.host("desk")), Desk(lab.host("node"))
        self.way = lab.strait(self.desk.host, self.node.host)
        self.served = self.node.host.start(
            [SPAN, lends, model, self.node.home, f"{self.way.right}:7842"],
            cpus="1", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ.copy())
        self.ticket = self.served.stdout.readline().strip()
        if not self.ticket:
            raise RuntimeError("span serve did not start")

    def measure(self, rtt, *jobs, timeout=280, socket="measure", **shape):
        self.way.shape(rtt=rtt, **shape)
        home = self.desk.home / f"rtt-{rtt}"
        with Others(self.served.pid, self.way.process.pid) as others:
            out = self.desk.host.run([SPAN, socket, self.model, home, self.ticket, *jobs], cpus="0", timeout=timeout)
        if out.returncode:
            raise RuntimeError(out.stderr)
        return [json.loads(line) | {"others": others.share()} for line in out.stdout.splitlines()]


def ticketed(model, rtt, *jobs, **shape):
    """A ticket works once, so each measurement has a lab of its own."""
    with Lab() as lab:
        return Span(lab, model).measure(rtt, *jobs, **shape)


def split(model, parts):
    name = pathlib.Path(model).stem
    if "decode" in parts:
        for rtt in DECODE_RTTS:
            for line in ticketed(model, rtt, "decode:32"):
                spanned("split", model=name, rtt_ms=rtt, **line)
    if "prefill" in parts:
        for rtt in (0, 100):
            # Every length in turn, so that a slower minute meets all.
            for _ in range(2):
                # Each length over a connection of its own, which is new to it.
                for piece in PIECES:
                    for line in ticketed(model, rtt, f"prefill:512:{piece}"):
                        spanned("split", model=name, rtt_ms=rtt, **line)
    if "serial" in parts:
        for line in ticketed(model, 80, "serial:2048:64"):
            spanned("split", model=name, rtt_ms=80, **line)
    if "losses" in parts:
        # In turns, and several prompts over a connection, whose window remembers.
        for _ in range(2):
            for loss in LOSSES:
                for line in ticketed(model, 100, *["prefill:512:32"] * 3, loss=loss):
                    spanned("lossy", model=name, rtt_ms=100, loss=loss, **line)
    if "bytes" in parts:
        for line in ticketed(model, 0, "bytes:16"):
            spanned("split", model=name, rtt_ms=0, **line)


def build_rpc():
    if RPC.exists():
        return
    told = json.loads(subprocess.check_output(["cargo", "metadata", "--format-version", "1"], cwd=PEERS))
    crate = next(package for package in told["packages"] if package["name"] == "llama-cpp-sys-2")
    source = pathlib.Path(crate["manifest_path"]).parent / "llama.cpp"
    subprocess.run(["cmake", "-S", PEERS / "rpc", "-B", RPC.parent, f"-DLLAMA_CPP={source}"], check=True)
    subprocess.run(["cmake", "--build", RPC.parent, "-j", str(os.cpu_count())], check=True)


def rpc(model, rtts):
    """Both programs in turns, and each alone on one host. llama.cpp repacks its weights or not: both are taken."""
    build_rpc()
    for rtt in rtts:
        for line in ticketed(model, rtt, "decode:32", "prefill:512:16"):
            spanned("split", model=pathlib.Path(model).stem, rtt_ms=rtt, **line)
        with Lab() as lab:
            desk, node = lab.host("desk"), lab.host("node")
            way = lab.strait(desk, node, rtt=rtt)
            at = f"{way.right}:50052"
            served = node.start([RPC, "serve", at], cpus="1", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            if not select.select([served.stdout], [], [], 10)[0]:
                raise RuntimeError("rpc-peer serve did not start")
            for where in ("-", at):
                for repack in "01":
                    with Others(served.pid, way.process.pid) as others:
                        out = desk.run([RPC, "measure", model, where, "512", "32", repack], cpus="0", timeout=280)
                    if out.returncode:
                        raise RuntimeError(out.stderr)
                    spanned("rpc", model=pathlib.Path(model).stem, rtt_ms=rtt, job=["two", "one"][where == "-"],
                         others=others.share(), **json.loads(out.stdout))


DIRECT_RTTS = [10, 50, 100]


def direct(model, rtts):
    """A desk without layers and two hosts, each as far from the other two as they are from it."""
    for rtt in rtts:
        with Lab() as lab:
            desk, nodes = Desk(lab.host("desk")), [Desk(lab.host(name)) for name in ("first", "second")]
            for left, right in [(desk, nodes[0]), (desk, nodes[1]), (nodes[0], nodes[1])]:
                lab.strait(left.host, right.host, rtt=rtt)
            tickets, own = [], [strait.process.pid for strait in lab.straits]
            for cpu, node in enumerate(nodes):
                served = node.host.start([SPAN, "serve", model, node.home, "0.0.0.0:7842"], cpus=str(cpu),
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ.copy())
                tickets.append(served.stdout.readline().strip())
                own.append(served.pid)
            if not all(tickets):
                raise RuntimeError("span serve did not start")
            with Others(*own) as others:
                out = desk.host.run([SPAN, "measure", model, desk.home, ",".join(tickets), "direct:32"], timeout=280)
            if out.returncode:
                raise RuntimeError(out.stderr)
            for line in map(json.loads, out.stdout.splitlines()):
                spanned("direct", model=pathlib.Path(model).stem, rtt_ms=rtt, others=others.share(), **line)


def direct_report():
    those = lines("direct")
    if not those:
        return []
    out = [f"## From host to host: {those[0]['model']}", "",
           "Half of the layers at each of two hosts, none at the desk, all three equally far from each other; rows as f32, greedy.",
           "Through the desk a token takes two round trips and the compute, direct one and a half.", "",
           "| round trip | through the desk | direct | gain | ways of a token, direct |", "|---|---|---|---|---|"]
    for rtt in sorted({line["rtt_ms"] for line in those}):
        own = [line for line in those if line["rtt_ms"] == rtt]
        through, straight = (middle([line["tokens"] / line[key] for line in own]) for key in ("through_s", "direct_s"))
        gain = middle([line["through_s"] / line["direct_s"] for line in own])
        saved = middle([(line["through_s"] - line["direct_s"]) / line["tokens"] for line in own])
        out.append(f"| {rtt} ms | {through:.1f} tok/s | {straight:.1f} tok/s | {gain:.2f} | {4 - saved / (rtt / 2e3):.2f} |")
    return out + [""]


def overhead(name="overhead", socket="measure", lends="serve"):
    """The way itself is pinged by a plain program on the same two cores, before and after. A guard that owns the socket has the core of whoever it is
    for."""
    with Lab() as lab:
        span = Span(lab, "draft", lends)
        echo = span.node.host.start([SPAN, "echo", f"{span.way.right}:7900"], cpus="1", stdout=subprocess.PIPE, text=True)
        echo.stdout.readline()

        def way():
            out = span.desk.host.run([SPAN, "ping", f"{span.way.right}:7900", "400", "600"], cpus="0")
            return json.loads(out.stdout)["middle_us"]

        before = way()
        told = span.measure(0, *["overhead:400"] * 3, socket=socket)
        link = (before + way()) / 2
        for line in told:
            spanned(name, rtt_ms=0, link_us=link, **line)


def guesses(rtts):
    for rtt in rtts:
        for line in ticketed("story", rtt, "guess:40"):
            spanned("guesses", rtt_ms=rtt, **line)


# Answers of a few hundredths of a second: single ones are too short to be timed. A plain split pays the way for each token.
MODE_ROUNDS, LAYERED_ROUNDS, MODE_TOKENS = 5, 2, 160

MODES = ["local", "remote", "layered", "speculative", "layered-speculative", "auto"]


def modes(rtts):
    """The program itself: planner, drafting and all. Its receipt tells the pace."""
    prompt = "Tell me a story about a little fox."
    for rtt in rtts:
        with Lab() as lab:
            desk = Desk(lab.host("desk"), cpus="0")
            host = lab.host("node")
            way = lab.strait(desk.host, host, rtt=rtt)
            node = Node(host, way, cpus="1")
            desk.join(node)
            turns = [mode for turn in range(MODE_ROUNDS) for mode in MODES if mode != "layered" or turn < LAYERED_ROUNDS]
            for mode in turns:
                told = desk.ask(mode, prompt, 7, MODE_TOKENS, 0.8, timeout=120)
                receipt = told.get("receipt") or {}
                guesses = receipt.get("guesses") or {}
                traffic = receipt.get("traffic", [])
                # From the question to the last token: what is streamed comes in heaps, of which the first token is only one.
                whole = sum(count / pace for count, pace in [(told["prompt_tokens"], told["prefill_tok_s"]),
                                                             (told["answer_tokens"] - 1, told["decode_tok_s"])] if pace)
                keep("modes", program=program(), rtt_ms=rtt, mode=mode, took=receipt.get("mode", mode), tok_s=told["decode_tok_s"], whole_s=whole,
                     tokens=told["answer_tokens"], guesses=guesses, text=told["text"],
                     expected=receipt.get("expected_tokens_per_s"),
                     up=sum(line["up"] for line in traffic), down=sum(line["down"] for line in traffic))


def steps_report():
    if not lines("steps"):
        return []
    profile = ", ".join(sorted({line["profile"] for line in lines("steps")}))
    out = ["## A rate that changes in the middle of an answer", "",
           f"`tests/lab/steps.py long`, programs of the profile `{profile}`, beside other work on the same two cores: rows of 2048 numbers there and back for each token, exact. How long until the",
           "desk takes the way to carry what is nearest the new rate, of 100, 10 and 1 Mbit/s, and what it takes it to carry after a second;",
           "asked: within a second. Rows travel as `packed` from the first on, which is best up to some hundred Mbit/s; no text changed.", "",
           "| round trip | step | known up after | known down after | up, a second later | down | a token then |",
           "|---|---|---|---|---|---|---|"]
    seconds = lambda value: "not" if value != value else f"{value:.2f} s"  # noqa: E731
    for rtt, before, to in sorted({(line["rtt_ms"], line["from_mbit"], line["to_mbit"]) for line in lines("steps")}):
        those = lines("steps", rtt_ms=rtt, from_mbit=before, to_mbit=to)
        of = lambda name: middle([line[name] for line in those])  # noqa: E731
        out.append(f"| {rtt} ms | {before} to {to} Mbit/s | {seconds(of('up_s'))} | {seconds(of('down_s'))} | {of('up_mbit'):.1f} Mbit/s | "
                   f"{of('down_mbit'):.1f} Mbit/s | {of('token_ms'):.0f} ms |".replace("nan ms", "none ended"))
    worst = max((line[f"{way}_s"] for line in lines("steps") for way in ("up", "down") if line[f"{way}_s"] is not None), default=float("nan"))
    return out + ["", f"The slowest of {2 * len(lines('steps'))} directions and steps was known after {worst:.2f} s.", ""]


# Milliseconds there and back and Mbit/s each way; of a model that is slow, fewer tokens and rounds.
EXPECTED_RTTS, EXPECTED_RATES = [0, 20, 80, 150], [10, 100]
EXPECTED_TOKENS, EXPECTED_ROUNDS = {"heph-story": 64}, {"heph-story": 3}
EXPECTED_MODES = [*MODES[:-1], "preprocess", "auto"]

# A desk with the best instructions there are, and one that has none of them: a slow machine with the same bits.
DESKS = ["best", "scalar"]

# As many lines as the story's context of 1,024 tokens cannot hold.
LOG = [f"On day {day} the ship {ship} came from {port} with {what}, and went again when the wind had turned.\n"
       for day, (ship, port, what) in enumerate(
           [(ship, port, what) for ship in ("Heron", "Gull", "Otter", "Swan", "Tern") for port in ("north", "south", "west")
            for what in ("salt", "wool", "apples", "a bell for the school")], 1)]
STORY = "Tell me a story about a little fox."
ABOUT = "Which ship brought a bell for the school from the west?"


def expected(model, rtts, rates, desks):
    """Plans, answers as planned, and keeps both. Every mode in turn, so that a slower minute meets all."""
    for rtt, rate, isa in [(rtt, rate, isa) for rtt in rtts for rate in rates for isa in desks]:
        with Lab() as lab:
            desk = Desk(lab.host("desk"), cpus="0")
            host = lab.host("node")
            way = lab.strait(desk.host, host, rtt=rtt, mbit=rate)
            node = Node(host, way, models=[model], cpus="1")
            desk.join(node)
            (desk.home / "log.txt").write_text("".join(LOG))
            asked = ["--model", model, *([] if isa == "best" else ["--isa", isa])]
            # What machines learn of themselves and of the way is learned once, and kept.
            desk.heph("plan", "--json", *asked, STORY, timeout=120)
            rounds = EXPECTED_ROUNDS.get(model, 2)
            # A long prompt takes a slow model so long that once is enough.
            turns = [mode for turn in range(rounds) for mode in EXPECTED_MODES if mode != "preprocess" or turn == 0 or rounds > 2]
            for mode in turns:
                expected_once(desk, host, way, asked, mode, model=pathlib.Path(model).stem, rtt_ms=rtt, mbit=rate, isa=isa)


def expected_once(desk, host, way, asked, mode, **case):
    tokens = EXPECTED_TOKENS.get(case["model"], 40)
    asked = [*asked, "--mode", mode, "--max-tokens", tokens]
    # A model without a template for conversations goes on with a text as it is.
    raw = [] if case["model"] == "heph-story" else ["--raw"]
    answer = ["run", *raw, "--json", "--receipt", desk.home / "receipt.json", "--seed", 7, "--temperature", 0.8]
    held = subprocess.run(["ip", "netns", "pids", host.space], capture_output=True, text=True).stdout.split()
    with Others(way.process.pid, *held) as others:
        if mode == "preprocess":
            # A plan knows no documents: what was planned is told beside the answer.
            told, words = desk.both(*answer, "--explain", "--document", desk.home / "log.txt", *asked, ABOUT)
            receipt = json.loads(told)["receipt"]
            plan = told_in_words(words, receipt, tokens)
        else:
            plan = json.loads(desk.heph("plan", "--json", *asked, STORY, timeout=120))["plan"]
            layers = [[*stage["layers"], stage["place"]] for stage in plan["stages"]]
            draft = (plan["draft"] or {}).get("length")
            plan = {"mode": plan["mode"], "layers": layers, "draft": draft} | told_in_numbers(plan["expected"])
            told, _ = desk.both(*answer, *asked, STORY)
    told = json.loads(told)
    receipt = told["receipt"]
    after = (told["answer_tokens"] - 1) / told["decode_tok_s"] if told["answer_tokens"] > 1 else 0.0
    traffic = receipt["traffic"]
    keep("expected", **case, mode=mode, program=program(), plan=plan, took=receipt["mode"], moves=len(receipt["moves"]), load_s=told["load_s"],
         tokens=told["answer_tokens"], guesses=receipt["guesses"], others=others.share(), measured={
             "first_s": receipt["first_token_s"], "token_s": after / max(1, told["answer_tokens"] - 1), "total_s": receipt["first_token_s"] + after,
             "up": sum(line["up"] for line in traffic), "down": sum(line["down"] for line in traffic)})


ASKED_RTTS = [0, 100]
# Requests of each kind; the first of each is not counted.
ASKED_ROUNDS = 7
DOOR = 18600

# Run in the desk's namespace: a request a line, and what became of it. A token of a stream is there when its line is.
KNOCK = """
import http.client, json, sys, time
door = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=120)
for line in sys.stdin:
    path, body = json.loads(line)
    began = time.monotonic()
    headers = {"authorization": "Bearer " + sys.argv[2], "content-type": "application/json"}
    door.request("POST", path, json.dumps(body), headers)
    answer = door.getresponse()
    text = answer.readline()
    first = time.monotonic() - began
    text += answer.read()
    print(json.dumps([answer.status, first, text.decode()]), flush=True)
"""


def asked(model, rtts):
    """Prompts that nobody has seen before, here alone and as they are planned, in turns, with all that belongs to it: the door, its guards, opening a session."""
    for rtt in rtts:
        with Lab() as lab:
            desk, host = Desk(lab.host("desk"), cpus="0"), lab.host("node")
            way = lab.strait(desk.host, host, rtt=rtt)
            desk.join(Node(host, way, models=[model], cpus="1"))
            serve = desk.host.start([HEPH, "serve", "--model", model, "--listen", f"127.0.0.1:{DOOR}"], cpus="0", env=desk.environment(),
                                    stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            told = next((line for line in serve.stdout if "#token=" in line), None)
            if not told:
                raise RuntimeError("heph serve did not start")
            client = desk.host.start([sys.executable, "-c", KNOCK, str(DOOR), told.split("#token=")[1].strip()], cpus="0",
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

            def ask(path, body):
                client.stdin.write(json.dumps([path, body]) + "\n")
                client.stdin.flush()
                status, first, text = json.loads(client.stdout.readline())
                if status != 200:
                    raise RuntimeError(text)
                return first, text

            draw = random.Random(rtt)
            # Nine tokens each, to the words of a model's shape that knows none.
            words = lambda: " ".join("".join(draw.choices("abcdefghij", k=6)) for _ in range(57))  # noqa: E731
            for turn in range(ASKED_ROUNDS):
                _, plan = ask("/heph/v1/plan", {"prompt": words(), "max_tokens": 1})
                plan = json.loads(plan)
                layers = [[stage["layers"]["start"], stage["layers"]["end"], "desk" if stage["here"] else "peer"] for stage in plan["stages"]]
                spaces = [desk.host.space, host.space]
                own = [pid for space in spaces for pid in subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True).stdout.split()]
                for mode in ("local", "auto"):
                    with Others(way.process.pid, *own) as others:
                        first, _ = ask("/v1/completions", {"prompt": words(), "max_tokens": 1, "temperature": 0, "stream": True, "heph": {"mode": mode}})
                    if turn:
                        keep("asked", model=pathlib.Path(model).stem, rtt_ms=rtt, mode=mode, program=program(), tokens=plan["prompt_tokens"], first_s=first,
                             layers=layers, expected_s=plan["first_token_s"], others=others.share())


def told_in_numbers(expected):
    seconds = lambda name: expected[name]["secs"] + expected[name]["nanos"] / 1e9  # noqa: E731
    return {"first_s": seconds("first_token"), "token_s": seconds("per_token"), "total_s": seconds("total"),
            "up": expected["bytes_up"], "down": expected["bytes_down"]}


def told_in_words(text, receipt, tokens):
    size = r"([0-9.]+) ([kMG]?)B"
    up, down = re.search(rf"network +{size} up, {size} down", text).group(1, 2), re.search(rf"up, {size} down", text).group(1, 2)
    up, down = (float(number) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[unit] for number, unit in (up, down))
    first, each = receipt["expected_first_token_s"], 1 / receipt["expected_tokens_per_s"]
    return {"mode": "preprocess", "first_s": first, "token_s": each, "total_s": first + (tokens - 1) * each, "up": up, "down": down}


def spanned(kind, **numbers):
    """Keeps a line of what `span` measured, or of what is compared with it."""
    keep(kind, program=program(SPAN), **numbers)


@functools.cache
def program(path=HEPH):
    """Lines of different programs are not compared."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:8]


def lines(kind, of=None, **like):
    """Those of the last day, processor, profile and program with which the like of them was measured alone. Or those of one day, processor, profile
    and program, as `made` tells them."""
    if not RAW.exists():
        return []
    every = [json.loads(line) for line in RAW.read_text().splitlines()]
    # Bytes are no times, and a guard's process is counted among the others.
    every = [line for line in every if line.get("others", 0) <= OTHERS_MAX or line.get("job") == "bytes" or line["kind"] in ("guarded", "both")]
    those = [line for line in every if line["kind"] == kind and all(line.get(k) == v for k, v in like.items())]
    if of:
        return [line for line in those if made(line) == of]
    last = {alike(line): made(line) for line in sorted(those, key=lambda line: line["at"])}
    return [line for line in those if made(line) == last[alike(line)]]


def made(line):
    # What plans expect is told of several programs beside each other.
    return line["at"][:10], line["cpu"], line.get("profile"), line.get("program") if line["kind"] != "expected" else None


def alike(line):
    return tuple(line.get(name) for name in ("kind", "model", "job", "rtt_ms", "mbit", "isa", "mode", "piece"))


def middle(values):
    """The median of those that there are."""
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else float("nan")


def report():
    out = ["# Over networks", "", "Written by `benches/network.py report` from `raw/network.jsonl`; every figure is a median of the lines of its",
           f"kind there, of the last day and program, without those beside which something else took more than {OTHERS_MAX} of a core. Two hosts are two",
           "network namespaces of one core each on one machine, with the round trip of a strait between them (`docs/world.md`).", ""]
    measured = lines("split") + lines("modes") + lines("guesses") + lines("overhead") + lines("direct") + lines("expected") + lines("asked")
    if measured:
        out += [f"Processors: {', '.join(sorted({line['cpu'] for line in measured}))}. Last line: {max(line['at'] for line in measured)}.", ""]
    out += split_report() + asked_report() + direct_report() + overhead_report() + guesses_report() + modes_report() + steps_report() + expected_report()
    (HERE / "NETWORK.md").write_text("\n".join(out).rstrip() + "\n")
    print(HERE / "NETWORK.md")


def split_report():
    decode = lines("split", job="decode")
    if not decode:
        return []
    out = [f"## A model over two hosts: {decode[0]['model']}", "",
           "Half of the layers on each, rows as f32 without loss, greedy. The bound is one round trip and the compute of both stages a",
           "token. That is told twice: as one host computes without a pause, and as a stage computes that sleeps between two tokens,",
           "by what the desk's own half took in these very answers and in one process.", "",
           "| round trip | one host | two hosts | of the bound | a half that slept takes | of the bound with that |",
           "|---|---|---|---|---|---|"]
    for rtt in DECODE_RTTS:
        those = [line for line in lines("split", job="decode", rtt_ms=rtt) if "half_s" in line]
        if not those:
            continue
        one = middle([line["tokens"] / line["one_s"] for line in those])
        two = middle([line["tokens"] / line["two_s"] for line in those])
        slower = middle([line["half_s"] / line["half_alone_s"] for line in those if "half_s" in line])
        of_bound = lambda times: middle([(line["tokens"] * rtt / 1e3 + line["one_s"] * times(line)) / line["two_s"]  # noqa: E731
                                         for line in those if "half_s" in line])
        once, slept = of_bound(lambda _: 1), of_bound(lambda line: line["half_s"] / line["half_alone_s"])
        out.append(f"| {rtt} ms | {one:.1f} tok/s | {two:.1f} tok/s | {once:.3f} | {slower:.2f} times as long | {slept:.3f} |")
    out.append("")
    out += rpc_report(decode[0]["model"])
    out += prefill_report()
    for line in lines("split", job="serial")[-1:]:
        out += [f"A prompt of {line['tokens']} tokens at {line['rtt_ms']} ms: {line['serial_s']:.1f} s when each piece waits for the last, "
                f"{line['pipelined_s']:.1f} s pipelined, {line['serial_s'] / line['pipelined_s']:.2f} times faster.", ""]
    lossy = lines("lossy")
    if lossy:
        out += ["A prompt of 512 tokens at 100 ms where packets are lost, in pieces of 32, several over one connection.",
                "Seconds: the middle, and the longest.", "", "| lost | two halves | two halves again | around |", "|---|---|---|---|"]
        for loss in LOSSES:
            those = [line for line in lossy if line["loss"] == loss]
            told = lambda key: f"{middle([line[key] for line in those]):.2f} s, {max(line[key] for line in those):.2f} s"  # noqa: E731
            if those:
                out.append(f"| {100 * loss:g} % | {told('first_s')} | {told('two_s')} | {told('around_s')} |")
        out.append("")
    for line in lines("split", job="bytes")[-1:]:
        width = line["width"]
        out += [f"A token's row across a boundary as bf16: {line['up']:.0f} bytes to the node, {line['down']:.0f} back; "
                f"the promise is 2 × {width:.0f} + 64 = {2 * width + 64:.0f}.", ""]
    return out


def rpc_report(model):
    """Of llama.cpp's two ways to hold its weights the better one counts, for each figure by itself."""
    those = lines("rpc", model=model)
    if not those:
        return []
    out = ["llama.cpp's own split over its RPC backend, the same file and hosts, in turns with HEPH; with weights repacked or not, whichever",
           "is faster. Its bound is the same: one round trip and the compute of one host.", "",
           "| round trip | decode, one host | two hosts | of the bound | HEPH's two / its two | prefill 512, one host | two hosts | gain | HEPH's two / its two |",
           "|---|---|---|---|---|---|---|---|---|"]
    for rtt in sorted({line["rtt_ms"] for line in those}):
        def best(job, time):
            own = [line for line in those if (line["rtt_ms"], line["job"]) == (rtt, job)]
            return min(middle([line[time] / line[count] for line in own if line["repack"] == repack])
                       for repack in {line["repack"] for line in own})
        count = "tokens"
        one, two = best("one", "decode_s"), best("two", "decode_s")
        count = "prompt"
        prompt_one, prompt_two = best("one", "prefill_s"), best("two", "prefill_s")
        split = functools.partial(lines, "split", of=next(made(line) for line in those if line["rtt_ms"] == rtt), model=model, rtt_ms=rtt)
        heph = middle([line["two_s"] / line["tokens"] for line in split(job="decode")])
        heph_prompt = middle([line["two_s"] / 512 for line in split(job="prefill", piece=PIECES[0])])
        out.append(f"| {rtt} ms | {1 / one:.1f} tok/s | {1 / two:.1f} tok/s | {(rtt / 1e3 + one) / two:.3f} | {two / heph:.2f} | "
                   f"{1 / prompt_one:.0f} tok/s | {1 / prompt_two:.0f} tok/s | {prompt_one / prompt_two:.2f} | {prompt_two / heph_prompt:.2f} |")
    return out + [""]


def prefill_report():
    """Two equal stages take half of one host's time, one more piece, and the way there and back."""
    last = [line for line in lines("split", job="prefill", piece=PIECES[-1]) if "around_first_s" in line]
    if not last:
        return []
    # Lengths are compared: all of them are of one program.
    prefill = [line for line in lines("split", job="prefill", of=made(last[-1])) if "around_first_s" in line]
    pieces = sorted({line["piece"] for line in prefill})
    out = ["A prompt of 512 tokens, in pieces that travel together. Both hosts are cores of one machine and slow each other: *beside* is a",
           "host with all of the model while the other one does the like, which is what one of two machines of their own would do alone. The",
           "bound of two equal stages is half of that, one more piece to fill the line, and the way there and back. The gains are over the",
           "best length of one host. Over a *new* connection the first rows wait for it to find out what the way carries; desks keep theirs.",
           "*Around*: half of the work at the other host, between the first and the last layers of this one, some less before it than behind, as plans lay them out. The last two columns",
           "are gains over one host with pieces of the same length, line by line: of halves, and around.", "",
           "| round trip | tokens together | one host | beside | two halves | of the bound | gain over one | gain over beside | bound of that | gain over beside, new | around | gain over one | gain over beside | gain over beside, new | halves over the same | around over the same |",
           "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"]
    for rtt in sorted({line["rtt_ms"] for line in prefill if line["piece"] == pieces[-1]}):
        of = lambda piece, key: middle([line[key] for line in prefill if (line["rtt_ms"], line["piece"]) == (rtt, piece)])  # noqa: E731
        one, beside = (min(of(piece, key) for piece in pieces) for key in ("one_s", "beside_s"))
        for piece in pieces:
            bound, two, around = of(piece, "beside_s") * (1 + piece / 512) / 2 + rtt / 1e3, of(piece, "two_s"), of(piece, "around_s")
            speeds = [f"{512 / of(piece, key):.0f} tok/s" for key in ("one_s", "beside_s", "two_s")]
            same = [middle([line["one_s"] / line[key] for line in prefill if (line["rtt_ms"], line["piece"]) == (rtt, piece)]) for key in ("two_s", "around_s")]
            out.append(f"| {rtt} ms | {piece:.0f} | " + " | ".join(speeds) + f" | {bound / two:.3f} | {one / two:.2f} | {beside / two:.2f} | "
                       f"{beside / bound:.2f} | {beside / of(piece, 'first_s'):.2f} | {512 / around:.0f} tok/s | {one / around:.2f} | {beside / around:.2f} | {beside / of(piece, 'around_first_s'):.2f} | {same[0]:.2f} | {same[1]:.2f} |")
    each = {piece: middle([line["one_s"] for line in prefill if line["piece"] == piece]) for piece in pieces}
    least, most = pieces[0], pieces[-1]
    again = (each[least] - each[most]) / (512 / least - 512 / most)
    if again < 1e-3:
        return out + ["", "A piece costs a host less than a millisecond beside its tokens here: shorter pieces fill the line sooner and lose nothing.", ""]
    return out + ["", f"Each piece costs a host {again * 1e3:.0f} ms beside its tokens, since the weights are read and unpacked once more: shorter pieces fill the",
                  "line sooner and lose that again.", ""]


def asked_report():
    those = lines("asked")
    if not those:
        return []
    out = [f"## A long prompt through the door: {those[0]['model']}", "",
           "The first token of a prompt that nobody has seen before, asked of `heph serve` over HTTP: of this host alone, and as it is planned, in turns.",
           "All of it counts: the door, guards of connections, opening a session at the other host, the way. Stages: layers here, *there*.", "",
           "| round trip | tokens | here alone | as planned | gain | the plan said | stages |", "|---|---|---|---|---|---|---|"]
    for rtt in sorted({line["rtt_ms"] for line in those}):
        of = {mode: [line for line in those if (line["rtt_ms"], line["mode"]) == (rtt, mode)] for mode in ("local", "auto")}
        alone, planned = (middle([line["first_s"] for line in of[mode]]) for mode in ("local", "auto"))
        layouts = [" ".join(f"*{end - start}*" if place == "peer" else f"{end - start}" for start, end, place in line["layers"]) for line in of["auto"]]
        said = middle([line["expected_s"] for line in of["auto"]])
        out.append(f"| {rtt} ms | {middle([line['tokens'] for line in those]):.0f} | {alone:.2f} s | {planned:.2f} s | {alone / planned:.2f} | {said:.2f} s | {', '.join(sorted(set(layouts)))} |")
    return out + [""]


def overhead_report():
    those = [line for line in lines("overhead") if "link_us" in line]
    if not those:
        return []
    # Lines of before profiles were kept tell none.
    of = f", profile {those[-1]['profile']}" if those[-1].get("profile") else ""
    each, link = (middle([line[key] for line in those]) for key in ("each_us", "link_us"))
    bare = middle([line["bare_us"] for line in those if "bare_us" in line])
    library = [] if bare != bare else [
        f"Of these, {bare - link:.0f} µs are the library's: a stream of its own with the token's bytes there and back, where nobody computes and no",
        "other thread is woken."]
    guarded = []
    for kind, whose in (("guarded", "With the desk's socket in a guard's process"), ("both", "With both ends' sockets in guards' processes, as the program has them,")):
        those = [line for line in lines(kind) if "link_us" in line]
        guarded += [] if not those else [f"{whose} it is {middle([line['each_us'] - line['link_us'] for line in those]):.0f} µs beyond the way."]
    return ["## What the runtime adds", "",
            f"The same two stages with one at the other host, without distance, less both in one process (the model of the draft{of}):",
            f"{each:.0f} µs a token. The way itself takes {link:.0f} µs there and back: a datagram between two plain programs on the same two",
            f"cores, over the same strait. The runtime adds {each - link:.0f} µs for the token's stage: rows packed, encrypted, acknowledged, and",
            "handed from thread to thread at both ends.", *library, *guarded, ""]


def guesses_report():
    if not lines("guesses"):
        return []
    out = ["## Guessed here, confirmed there", "",
           "The bundled target runs on the other host alone, T = 0.8, 40 tokens, three seeds. Step by step, each token crosses twice;",
           "streamed, the host goes on by itself, and the way is paid once; guessed for, the small model here drafts, ids alone cross,",
           "and one pass there confirms many. Bytes of guessing are of the whole answer, its prompt and opening included.", "",
           "| round trip | step by step | guessed for | gain | streamed | passes a token | right of judged | up a drafted token | down a round |",
           "|---|---|---|---|---|---|---|---|---|"]
    for rtt in sorted({line["rtt_ms"] for line in lines("guesses")}):
        those = lines("guesses", rtt_ms=rtt)
        of = lambda name: middle([line[name] for line in those])  # noqa: E731
        gain = middle([line["guess_tok_s"] / line["steps_tok_s"] for line in those])
        right = sum(line["right"] for line in those) / max(1, sum(line["judged"] for line in those))
        out.append(f"| {rtt} ms | {of('steps_tok_s'):.1f} tok/s | {of('guess_tok_s'):.1f} tok/s | {gain:.2f} | {of('stream_tok_s'):.0f} tok/s | "
                   f"{of('pieces_per_token'):.2f} | {right:.2f} | {of('up_per_drafted'):.1f} B | {of('down_per_round'):.1f} B |")
    return out + ["", "A node that goes on by itself is not slowed by the way, and this target takes well under a millisecond a token: no guess",
                  "that crosses the way can be as fast there, and none is made. Guesses pay where every token would cross, and where",
                  "the target is slower than the way.", ""]


def modes_report():
    those = [line for line in lines("modes") if line["tokens"] == MODE_TOKENS]
    if not those:
        return []
    out = ["## The bundled pair by mode", "",
           f"`heph run` with the pair, T = 0.8, {MODE_TOKENS} tokens, tokens a second from the question to the last token; guesses: right of judged, and looks of",
           "the large model a token. A remote answer is streamed by the node, so it pays the way once; the pair is so small that the",
           "desk alone is fast. Asked: layered with guesses 2.2 times layered at 50 and 100 ms, and guesses never below 0.98 of the",
           "better of local and remote.", "",
           "| round trip | " + " | ".join(MODES) + " | layered with guesses / layered | guesses / best of local, remote | one text |",
           "|---" * (len(MODES) + 4) + "|"]
    for rtt in sorted({line["rtt_ms"] for line in those}):
        cells, pace = [], {}
        for mode in MODES:
            own = [line for line in those if line["rtt_ms"] == rtt and line["mode"] == mode]
            pace[mode] = middle([line["tokens"] / line["whole_s"] for line in own])
            cell = f"{pace[mode]:.1f}"
            judged = sum(line["guesses"].get("judged", 0) for line in own)
            if judged:
                pieces = sum(line["guesses"]["pieces"] for line in own)
                cell += f" ({sum(line['guesses']['right'] for line in own) / judged:.2f}; {pieces / sum(line['tokens'] for line in own):.2f})"
            cells.append(cell)
        texts = {line["text"] for line in those if line["rtt_ms"] == rtt}
        cells.append(f"{pace['layered-speculative'] / pace['layered']:.2f}")
        cells.append(f"{pace['speculative'] / max(pace['local'], pace['remote']):.2f}")
        out.append(f"| {rtt} ms | " + " | ".join(cells) + f" | {'yes' if len(texts) == 1 else 'no'} |")
    return out + [""]


# A choice that costs no more than a twentieth is as good as another.
WORSE_MAX = 0.05


def expected_report():
    those = lines("expected")
    if not those:
        return []
    programs = list(dict.fromkeys(line["program"] for line in sorted(those, key=lambda line: line["at"])))
    out = ["## What a plan says and what an answer takes", "",
           "`heph plan --json`, and right behind it `heph run` of the same question with the same mode, with a real `heph node`, every program new",
           "to its model. Measured over expected, medians of the answers of one way: to the first token, for each token after it, in all, and",
           "bytes as receipts count them; 1.00 is what was said. The way was probed before, as it is for everybody. Bytes below 100 are none.",
           f"A program is named by the beginning of its hash; the last is {programs[-1]}, the one before {', '.join(programs[:-1]) or 'was not measured'}.", ""]
    cases = {}
    for line in those:
        cases.setdefault((line["model"], line["isa"], line["rtt_ms"], line["mbit"]), {}).setdefault(line["program"], {}).setdefault(line["mode"], []).append(line)
    for model in dict.fromkeys(case[0] for case in cases):
        out += [f"### {model}, program {programs[-1]}", "",
                "| desk | round trip | Mbit/s | mode | first token | a token | in all | up | down | seconds expected | measured |", "|---" * 11 + "|"]
        for case in sorted(case for case in cases if case[0] == model):
            for mode, own in cases[case].get(programs[-1], {}).items():
                ratios = [ratio(own, name) for name in ("first_s", "token_s", "total_s", "up", "down")]
                said, took = (middle([line[of]["total_s"] for line in own]) for of in ("plan", "measured"))
                out.append(f"| {case[1]} | {case[2]} ms | {case[3]} | {mode} | " + " | ".join(ratios) + f" | {said:.3f} | {took:.3f} |")
        out.append("")
    out += ["### What is chosen", "",
            f"Cases in which the mode that `auto` chose took more than {WORSE_MAX:.0%} longer than another that gives the same text, by medians of the turns:", "",
            "| program | model | desk | round trip | Mbit/s | chosen | seconds | fastest | seconds |", "|---" * 9 + "|"]
    counted = {}
    for case in sorted(cases):
        for name in programs:
            modes = cases[case].get(name, {})
            if "auto" not in modes:
                continue
            counted[name] = counted.get(name, 0) + 1
            took = {mode: middle([line["measured"]["total_s"] for line in own]) for mode, own in modes.items() if mode != "preprocess"}
            fastest = min((mode for mode in took if mode != "auto"), key=took.get)
            chosen = modes["auto"][-1]["plan"]["mode"]
            if chosen != fastest and took["auto"] > (1 + WORSE_MAX) * took[fastest]:
                out.append(f"| {name} | {case[0]} | {case[1]} | {case[2]} ms | {case[3]} | {chosen} | {took['auto']:.3f} | {fastest} | {took[fastest]:.3f} |")
    return out + ["", "Cases measured: " + ", ".join(f"{count} of {name}" for name, count in counted.items()) + ".", ""]


def ratio(own, name):
    """Measured over expected, where there was something."""
    pairs = [(line["measured"][name], line["plan"][name]) for line in own]
    least = 100 if name in ("up", "down") else 1e-9
    pairs = [took / said for took, said in pairs if said >= least]
    return f"{middle(pairs):.2f}" if pairs else "-"


def main():
    what = sys.argv[1] if len(sys.argv) > 1 else ""
    if what != "report" and why_not():
        sys.exit(why_not())
    RAW.parent.mkdir(exist_ok=True)
    if what == "split" and len(sys.argv) > 2:
        split(sys.argv[2], sys.argv[3:] or ["decode", "prefill", "serial", "losses", "bytes"])
    elif what == "direct" and len(sys.argv) > 2:
        direct(sys.argv[2], [int(word) for word in sys.argv[3:]] or DIRECT_RTTS)
    elif what == "rpc" and len(sys.argv) > 2:
        rpc(sys.argv[2], [int(word) for word in sys.argv[3:]] or DECODE_RTTS)
    elif what == "modes":
        modes([int(word) for word in sys.argv[2:]] or MODE_RTTS)
    elif what == "guesses":
        guesses([int(word) for word in sys.argv[2:]] or GUESS_RTTS)
    elif what == "expected" and len(sys.argv) > 2:
        numbers = [[int(word) for word in words.split(",")] for words in sys.argv[3:5]]
        expected(sys.argv[2], *[*numbers, EXPECTED_RTTS, EXPECTED_RATES][:1], *[*numbers[1:], EXPECTED_RATES][:1], sys.argv[5:] or DESKS)
    elif what == "asked" and len(sys.argv) > 2:
        asked(sys.argv[2], [int(word) for word in sys.argv[3:]] or ASKED_RTTS)
    elif what == "overhead":
        overhead()
        overhead("guarded", "guarded")
        overhead("both", "guarded", "lend")
    elif what == "report":
        report()
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
