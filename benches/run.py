#!/usr/bin/env python3
"""Measures HEPH against llama.cpp on this machine and writes RESULTS.md.

Both programs run one after the other, again and again (HEPH, peer, HEPH, peer, ...), each time as a fresh
process, with the machine's memory bandwidth measured beside them. Every raw line is kept in raw/; the tables are
made from those lines and from nothing else.

    run.py shapes                                        writes the models (7 GB) into the work folder
    run.py tune   [--models A,B] [--threads 2,1]         finds llama.cpp's best set-up for each job
    run.py pairs  [--models A,B] [--threads 2,1] [--jobs prefill,decode,deep] [--pairs 5]
    run.py report                                        writes RESULTS.md

Leave the machine alone meanwhile, or the cores that this is bound to (taskset). Needs: a Rust toolchain, cmake, a C++
compiler, libclang, python3 with numpy.
Environment: HEPH (default target/release/heph), PEER (default: builds peers/), BENCH_WORK (models; default
peers/work), COMMIT (where there is no repository: of which HEPH was built), AT_ONCE (how many of these run beside each
other, each bound to cores of its own), OTHER_PEER (optional: a further program that takes peer-bench's options, reported
beside).
"""
import argparse
import datetime
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
RAW = os.path.join(HERE, "raw")
WORK = os.environ.get("BENCH_WORK", os.path.join(HERE, "peers", "work"))
HEPH = os.environ.get("HEPH", os.path.join(ROOT, "target", "release", "heph"))
PEER = os.environ.get("PEER", os.path.join(HERE, "peers", "target", "release", "peer-bench"))
OTHER = os.environ.get("OTHER_PEER")

MODELS = ["tinyllama-1.1b.Q4_K_M", "tinyllama-1.1b.Q8_0", "llama-3.2-1b.Q4_K_M", "llama-3.2-1b.Q8_0",
          "mistral-7b.Q4_K_M"]

# What each job asks of both programs. A job measures one thing, so that each peer set-up can be best at its own.
JOBS = {
    "prefill": dict(prompt=512, gen=0, depth=0, repetitions=1),
    "decode": dict(prompt=0, gen=32, depth=0, repetitions=3),
    "deep": dict(prompt=0, gen=16, depth=2048, repetitions=3),
    "verify": dict(prompt=0, gen=4, depth=128, repetitions=5, verify="1,2,4,8,16"),
}

# A model of 7 B is not tuned on its own (an hour): its set-ups are those of the small model with its formats.
TUNED_AS = {"mistral-7b.Q4_K_M": "tinyllama-1.1b.Q4_K_M"}

# llama.cpp's choices: weights repacked for this CPU or not, attention fused or not.
SETUPS = [dict(repack=r, flash=f) for r in (1, 0) for f in (1, 0)]

# What the project asked for: the figure, the job, and the least ratio (peer = 1) by weight format.
GOALS = {
    "prefill": {"Q4_K_M": 2.5, "Q8_0": 3.5},
    "decode": {"Q4_K_M": 1.1, "Q8_0": 1.1},
    "deep": {"Q4_K_M": 1.6, "Q8_0": 1.6},
}
SHARE_OF_BANDWIDTH = 0.85
VERIFY_COST = {4: 1.3, 8: 1.8, 16: 3.0}
MEMORY, FIRST_TOKEN = 1.05, 1.2

# A run counts only if other programs used less than this share of one core meanwhile.
DISTURBED = 0.12


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["shapes", "tune", "pairs", "report"])
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--threads", default="2,1")
    parser.add_argument("--jobs", default=",".join(JOBS))
    parser.add_argument("--pairs", type=int, default=5)
    arguments = parser.parse_args()
    os.makedirs(RAW, exist_ok=True)
    if arguments.task == "report":
        return report()
    if arguments.task == "shapes":
        return shapes(arguments.models.split(","))
    build_peer()
    for model in arguments.models.split(","):
        for threads in map(int, arguments.threads.split(",")):
            for job in arguments.jobs.split(","):
                if arguments.task == "tune":
                    tune(model, threads, job)
                else:
                    pairs(model, threads, job, arguments.pairs)


def shapes(models):
    """Writes each model that is not there yet."""
    os.makedirs(WORK, exist_ok=True)
    for model in models:
        shape, form = model.rsplit(".", 1)
        if not os.path.exists(path_of(model)):
            subprocess.run([sys.executable, os.path.join(HERE, "peers", "make_shapes.py"), shape, form,
                            path_of(model)], check=True)


def build_peer():
    if "PEER" not in os.environ:
        subprocess.run(["cargo", "build", "--release"], cwd=os.path.join(HERE, "peers"), check=True)


def tune(model, threads, job):
    """Runs each set-up of the peer that was not yet run once, and notes the figure of the job."""
    tried = [t["setup"] for t in setups_tried(model, threads, job)]
    for setup in [s for s in SETUPS if s not in tried]:
        line = measure(PEER + " bench", model, threads, JOBS[job], setup)
        record("setups.jsonl", dict(model=model, threads=threads, job=job, setup=setup, peer=line))


def pairs(model, threads, job, count):
    """Takes pairs until `count` were undisturbed; gives up after twice as many."""
    undisturbed = 0
    for _ in range(2 * count):
        undisturbed += pair(model, threads, job)
        if undisturbed == count:
            break


def pair(model, threads, job):
    """Whether nothing disturbed it. HEPH, then the peer in its best set-up, then the machine itself."""
    setup = best_setup(model, threads, job)
    raw = dict(model=model, threads=threads, job=job, setup=setup, bytes=os.path.getsize(path_of(model)),
               commit=commit(), heph=measure(HEPH + " bench --json", model, threads, JOBS[job], {}),
               peer=measure(PEER + " bench", model, threads, JOBS[job], setup))
    if OTHER:
        raw["other"] = measure(OTHER, model, threads, JOBS[job], {})
    raw["bandwidth"] = run(shlex.split(PEER) + ["bandwidth", "--threads", str(threads)])
    record("pairs.jsonl", raw)
    return not disturbed(raw)


def disturbed(raw):
    return any(raw[who]["others_cpu"] > DISTURBED for who in ("heph", "peer"))


def best_setup(model, threads, job):
    """The set-up with the best figure of this job; tries what was not tried yet."""
    model = TUNED_AS.get(model, model)
    tune(model, threads, job)
    return max(setups_tried(model, threads, job), key=lambda t: figure(job, t["peer"]))["setup"]


def setups_tried(model, threads, job):
    """The undisturbed trials of this job on this machine."""
    key = (machine(), model, threads, job)
    return [t for t in lines("setups.jsonl") if (t["machine"], t["model"], t["threads"], t["job"]) == key
            and t["peer"]["others_cpu"] <= DISTURBED]


def figure(job, line):
    """The one number of a job in a program's line, larger is better."""
    if job == "prefill":
        return statistics.median(line["prefill_tok_s"])
    if job == "verify":
        return 1 / statistics.median(line["verify_s"]["8"])
    return statistics.median(line["decode_tok_s"])


def measure(program, model, threads, job, setup):
    read(path_of(model))
    options = {"model": path_of(model), "threads": threads, **job, **setup}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return run(shlex.split(program) + words)


def read(path):
    """Brings a file into the page cache, where loading is timed from."""
    with open(path, "rb", buffering=0) as file:
        buffer = bytearray(16 << 20)
        while file.readinto(buffer):
            pass


def run(command):
    """The JSON line of a program, and how much of a core all other programs used meanwhile, on the cores that this one
    is bound to."""
    start, all_before, own_before = time.monotonic(), busy_seconds(), own_seconds()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-800:]}")
    others = (busy_seconds() - all_before) - (own_seconds() - own_before)
    line = json.loads(done.stdout.strip().splitlines()[-1])
    return {**line, "others_cpu": round(max(0.0, others / (time.monotonic() - start)), 3)}


def busy_seconds():
    """Processor seconds that all programs have used of the cores that this one may use."""
    mine = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    cores = [line.split() for line in open("/proc/stat") if line.split(maxsplit=1)[0] in mine]
    busy = 0
    for _, *words in cores:
        ticks = list(map(int, words[:8]))
        idle_and_waiting = ticks[3] + ticks[4]
        busy += sum(ticks) - idle_and_waiting
    return busy / os.sysconf("SC_CLK_TCK")


def own_seconds():
    """Processor seconds of the programs started here, and of this one."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF)]
    return sum(u.ru_utime + u.ru_stime for u in usages)


def path_of(model):
    return os.path.join(WORK, model + ".gguf")


def record(name, raw):
    at = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    about = {"at": at, "machine": machine(), "at_once": int(os.environ.get("AT_ONCE", 1))}
    with open(os.path.join(RAW, name), "a") as file:
        file.write(json.dumps({**about, **raw}) + "\n")
    print(raw["model"], raw["threads"], raw["job"], flush=True)


def lines(name):
    path = os.path.join(RAW, name)
    return [json.loads(line) for line in open(path)] if os.path.exists(path) else []


def commit():
    asked = ["git", "-C", ROOT, "rev-parse", "--short", "HEAD"]
    return os.environ.get("COMMIT") or subprocess.run(asked, capture_output=True, text=True).stdout.strip()


def machine():
    """What the machine is, without saying whose."""
    facts = dict(l.split(":", 1) for l in open("/proc/cpuinfo") if ":" in l)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    known = ["avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8"]
    flags = [flag for flag in known if flag in facts.get("flags", "").split()]
    memory = next(int(l.split()[1]) for l in open("/proc/meminfo") if l.startswith("MemTotal"))
    family, model = facts.get("cpu family", "?"), facts.get("model", "?")
    return (f"{facts.get('model name', '?')} (family {family}, model {model}), {os.cpu_count()} cores seen, "
            f"{round(memory / 2**20)} GiB, {' '.join(flags)}")


def report():
    every = lines("pairs.jsonl")
    quiet = [p for p in every if not disturbed(p)]
    if not quiet:
        sys.exit("nothing was measured undisturbed yet: run.py pairs")
    latest = newest(quiet)
    machines = sorted({p["machine"] for p in latest}, reverse=True,
                      key=lambda m: max(p["at"] for p in latest if p["machine"] == m))
    text = [HEAD.format(disturbed=DISTURBED)]
    for name in machines:
        text += on_machine(name, [p for p in latest if p["machine"] == name])
    with open(os.path.join(HERE, "RESULTS.md"), "w") as file:
        file.write("\n".join(text) + "\n")


def on_machine(name, pairs):
    text = ["", f"# {name}", "", MEASURED.format(
        first=min(p["at"] for p in pairs)[:16], last=max(p["at"] for p in pairs)[:16],
        commits=", ".join(sorted({p["commit"] for p in pairs})))]
    at_once = max(p.get("at_once", 1) for p in pairs)
    if at_once > 1:
        text[-1] += " " + AT_ONCE.format(count=at_once)
    for job, title, unit in [("prefill", "Prefill of 512 tokens", "tok/s"),
                             ("decode", "Decode from an empty cache", "tok/s"),
                             ("deep", "Decode after 2,048 tokens", "tok/s")]:
        text += speed_table(pairs, job, title, unit)
    return text + verify_table(pairs) + cost_table(pairs) + bandwidth_table(pairs)


HEAD = """# HEPH beside llama.cpp

Written by `benches/run.py report` from the raw lines in `benches/raw/`; no figure is typed by hand.
llama.cpp runs through the crate llama-cpp-sys-2 0.1.161, built for the CPU, for each job in the best of its set-ups
(weights repacked or not, attention fused or not). HEPH has one mode: exact, every thread count and instruction set gives the same bits.

Models have the shapes of real ones and random weights. Both programs take turns, each measurement in a fresh
process; pairs during which other programs used more than {disturbed:.0%} of a core are kept in `raw/` but left out
here. *Ratio* is HEPH over llama.cpp, the median over the pairs; *worst* is the worst single pair.
A row stands here only if it was measured, and *pairs* says how often; fewer than five is a first look."""

MEASURED = "Measured {first} to {last} UTC, HEPH at {commits}."

AT_ONCE = """Up to {count} jobs ran beside each other, each with two cores of its own or one: what they share is memory, and the
clock of the processor."""


def newest(pairs):
    """The pairs of the last commit measured for each (machine, model, threads, job)."""
    key = lambda p: (p["machine"], p["model"], p["threads"], p["job"])
    last = {key(p): p["commit"] for p in pairs}
    return [p for p in pairs if p["commit"] == last[key(p)]]


def cases(pairs, job):
    keys = sorted({(p["model"], p["threads"]) for p in pairs if p["job"] == job},
                  key=lambda k: (-k[1], MODELS.index(k[0]) if k[0] in MODELS else 99))
    for model, threads in keys:
        yield model, threads, [p for p in pairs if (p["model"], p["threads"], p["job"]) == (model, threads, job)]


def speed_table(pairs, job, title, unit):
    found = list(cases(pairs, job))
    if not found:
        return []
    share = job in ("decode", "deep")
    other = any("other" in p for p in pairs)
    head = ["model", "threads", "pairs", f"HEPH {unit}", f"llama.cpp {unit}"] + (["ik_llama.cpp"] if other else [])
    head += ["ratio", "worst", "asked"] + (["of bandwidth", "llama.cpp of bandwidth", "ratio at all of it"] if share else [])
    out = ["", f"## {title}", "", row(head), row(["---"] * len(head))]
    for model, threads, group in found:
        ours, theirs = ([figure(job, p[who]) for p in group] for who in ("heph", "peer"))
        ratios = [a / b for a, b in zip(ours, theirs)]
        asked = GOALS[job][model.rsplit(".", 1)[1]]
        cells = [model, threads, len(group), f"{median(ours):.1f}", f"{median(theirs):.1f}"]
        if other:
            forks = [figure(job, p["other"]) for p in group if "other" in p]
            cells.append(f"{median(forks):.1f}" if forks else "")
        cells += [f"{median(ratios):.2f}", f"{min(ratios):.2f}", f"≥ {asked} {mark(median(ratios) >= asked)}"]
        if share:
            used = [[f * read_per_token(p) / bandwidth(p) for f, p in zip(rates, group)] for rates in (ours, theirs)]
            met = " " + mark(median(used[0]) >= SHARE_OF_BANDWIDTH) if job == "decode" else ""
            cells += [f"{median(used[0]):.0%}{met}", f"{median(used[1]):.0%}", f"{1 / median(used[1]):.2f}"]
        out.append(row(cells))
    return out


def verify_table(pairs):
    found = list(cases(pairs, "verify"))
    if not found:
        return []
    head = ["model", "threads", "pairs"] + [f"{who} {k}" for k in (2, 4, 8, 16) for who in ("HEPH", "llama.cpp")]
    out = ["", "## One pass of k tokens, as a multiple of a pass of one (after 128 tokens)", "",
           "Asked of HEPH: " + ", ".join(f"k = {k} at most {c}" for k, c in VERIFY_COST.items()) + ".", "",
           row(head), row(["---"] * len(head))]
    for model, threads, group in found:
        cells = [model, threads, len(group)]
        for k in (2, 4, 8, 16):
            for who in ("heph", "peer"):
                cost = median([step(p[who], k) / step(p[who], 1) for p in group])
                note = " " + mark(cost <= VERIFY_COST[k]) if who == "heph" and k in VERIFY_COST else ""
                cells.append(f"{cost:.2f}{note}")
        out.append(row(cells))
    return out


def step(line, k):
    return statistics.median(line["verify_s"][str(k)])


def cost_table(pairs):
    """Memory and start, from the decode runs: there the peer holds what it decodes fastest with."""
    found = [(m, t, g) for m, t, g in cases(pairs, "decode")]
    if not found:
        return []
    head = ["model", "threads", "HEPH peak MiB", "llama.cpp peak MiB", "ratio", "asked", "HEPH first token s",
            "llama.cpp first token s", "ratio", "asked"]
    out = ["", "## Memory and start", "", "Peak resident memory of the decode run, and seconds to load (file in "
           "the page cache) and decode one token.", "", row(head), row(["---"] * len(head))]
    for model, threads, group in found:
        memory = [median([p[who]["peak_rss_bytes"] for p in group]) / 2**20 for who in ("heph", "peer")]
        start = [median([first_token(p[who]) for p in group]) for who in ("heph", "peer")]
        out.append(row([model, threads, f"{memory[0]:.0f}", f"{memory[1]:.0f}", f"{memory[0] / memory[1]:.2f}",
                        f"≤ {MEMORY} {mark(memory[0] <= MEMORY * memory[1])}", f"{start[0]:.2f}",
                        f"{start[1]:.2f}", f"{start[0] / start[1]:.2f}",
                        f"≤ {FIRST_TOKEN} {mark(start[0] <= FIRST_TOKEN * start[1])}"]))
    return out


def first_token(line):
    """Seconds to open, load and run one token; of older lines, what loading and a later token took."""
    return line.get("first_token_s") or line["load_s"] + 1 / figure("decode", line)


def bandwidth_table(pairs):
    out = ["", "## Memory reads measured beside them", "", row(["threads", "probes", "median GB/s", "least", "most"]),
           row(["---"] * 5)]
    for threads in sorted({p["threads"] for p in pairs}, reverse=True):
        rates = [bandwidth(p) / 1e9 for p in pairs if p["threads"] == threads]
        out.append(row([threads, len(rates), f"{median(rates):.1f}", f"{min(rates):.1f}", f"{max(rates):.1f}"]))
    return out


def bandwidth(p):
    return statistics.median(p["bandwidth"]["bytes_per_s"])


def read_per_token(p):
    """Bytes that one token needs: the file without an embedding matrix that is only looked up, and keys and values in half floats."""
    shape, form = p["model"].rsplit(".", 1)
    unread = {"tinyllama-1.1b": 32000 * 2048, "mistral-7b": 32000 * 4096}.get(shape, 0)
    layers, width = {"tinyllama-1.1b": (22, 256), "llama-3.2-1b": (16, 512), "mistral-7b": (32, 1024)}[shape]
    cache = JOBS[p["job"]]["depth"] * layers * 2 * width * 2
    return p["bytes"] - unread * {"Q4_K_M": 144 / 256, "Q8_0": 34 / 32}[form] + cache


def median(values):
    return statistics.median(values)


def mark(reached):
    return "✓" if reached else "✗"


def row(cells):
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    main()
