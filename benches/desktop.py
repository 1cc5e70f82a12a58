#!/usr/bin/env python3
"""Measures the window (`heph-desktop`) and writes DESKTOP.md.

Each start has a home folder, a screen and a bus of its own; WebKit's driver opens the window and reads the page's own clock.
A start is timed from the birth of the window's process to the first frame of the real page (first contentful paint), whose handlers are
there before it is drawn. Every raw line is kept in raw/desktop.jsonl; the report is made from those lines and from nothing else.

    desktop.py start [--count 10] [--warm]   starts with nothing in the page cache (as root; not with --warm, since it slows whoever else is
                                      there), warm ones, those of a folder that a window was open in before, and starts while it stands
                                      unseen in the tray
    desktop.py memory                 what the window and WebKit's processes take, without the engine, after an answer
    desktop.py floor [--count 10]     the same of the least window of WebKit that there is (window_floor.c), warm
    desktop.py page [--count 10]      what the page itself works until its first frame, in chromium (page_work.js; needs npm ci in ui)
    desktop.py speed [--count 3]      what a key costs in a chat of 10,000 messages, and the longest task while an answer comes with 60 pieces
                                      a second, in chromium (ui/tests/page/alone; needs npm ci in ui)
    desktop.py bundle [FILE...]       builds what is installed (bundle/make: .deb, portable folder, AppImage) and keeps the sizes, or those of
                                      FILEs alone; of an AppImage also how long it takes to the first frame, warm
    desktop.py report                 writes DESKTOP.md
    desktop.py all [--count 10]       all of these, in this order

Needs cargo build --release in both workspaces, or HEPH and HEPH_DESKTOP. Drawing is by software under Xvfb.
"""
import argparse
import functools
import json
import os
import pathlib
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

import raw_lines

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
os.environ.setdefault("HEPH", str(ROOT / "target" / "release" / "heph"))
os.environ.setdefault("HEPH_DESKTOP", str(ROOT / "crates" / "heph-desktop" / "target" / "release" / "heph-desktop"))
sys.path.insert(0, str(ROOT / "tests" / "desktop"))

import run as desktop  # noqa: E402
from driver import children, wait  # noqa: E402

RAW = pathlib.Path(os.environ.get("DESKTOP_RAW", HERE / "raw" / "desktop.jsonl"))

# The profiles that engine and window were built with.
ENGINE, WINDOW = (pathlib.Path(os.environ[name]).resolve().parent.name for name in ("HEPH", "HEPH_DESKTOP"))

# What the project asked for.
COLD_MS, WARM_MS, MEMORY_MB, BUNDLE_MB = 800, 300, 150, 40
KEY_MS, TASK_MS = 16, 50

# The bundled model and its companions, which the promised size leaves out.
MODELS = ("heph-story.gguf", "heph-story-draft.gguf", "heph-embed.gguf", "heph-names.bin")

keep = functools.partial(raw_lines.keep, RAW)

FIRST_FRAME = """const [paint] = performance.getEntriesByName('first-contentful-paint');
return paint && document.querySelector('.composer textarea') ? performance.timeOrigin + paint.startTime : null"""


def born(process):
    """When a process began, in seconds since 1970; the system counts hundredths."""
    words = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    since_boot = int(words[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot


def forget():
    """Empties the page cache; whether that could be done."""
    try:
        os.sync()
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
        return True
    except OSError:
        return False


# Notes the first frame that is drawn after the window is seen.
SEEN = """document.addEventListener('visibilitychange', () => requestAnimationFrame(() => {
  const { port1, port2 } = new MessageChannel();
  // Comes when that frame is drawn.
  port1.onmessage = () => { window.seen ??= performance.timeOrigin + performance.now(); };
  port2.postMessage(null);
})); return document.visibilityState"""


def again(count):
    """The program started once more while its window is unseen: from the birth of that process to the first frame."""
    for _ in range(count):
        with desktop.Scene() as scene:
            window = scene.window("--unseen", steady=False)
            wait("the first engine", lambda: scene.asked("GET", "/heph/v1/status")["model"])
            if window.run(SEEN) != "hidden":
                print("an unseen window is not told from a seen one here", flush=True)
                return
            second = subprocess.Popen([str(scene.programs / desktop.DESKTOP.name)], env=scene.environment, stderr=subprocess.DEVNULL)
            first = 1000 * born(second.pid)
            frame = wait("the window", lambda: window.run("return window.seen ?? null"))
            second.wait(desktop.PATIENCE)
            keep("again", engine=ENGINE, window=WINDOW, nice=os.nice(0), ms=round(frame - first), load=os.getloadavg()[0])


def once(scene, image=None):
    """The window opened, in a scene; its process, and how long it took from the birth of that process to the first frame."""
    if image is None:
        window = scene.window(steady=False)
        (process,) = scene.processes(None)
    else:
        window = desktop.Window(image, scene.environment)
        scene.windows.append(window)
        window.shown(".composer textarea")
        # It becomes the window's program.
        (process,) = children(window.driver.pid)
    first = wait("the first frame", lambda: window.run(FIRST_FRAME))
    return process, round(first - 1000 * born(process))


def family(process, name):
    """A process of a window and all below it, by their names; the engine and its own are left out."""
    parts, pending = {process: name}, [process]
    while pending:
        for child, words in children(pending.pop()).items():
            if words[1:2] != ["serve"]:
                parts[child] = pathlib.Path(words[0]).name
                pending.append(child)
    return parts


def worked(processes):
    """How long processors worked for them so far, in milliseconds; the system counts hundredths of a second."""
    ticks = 0
    for process in processes:
        words = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(words[11]) + int(words[12])
    return 1000 * ticks // os.sysconf("SC_CLK_TCK")


def weigh(kind, parts, **more):
    for process, name in parts.items():
        rollup = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:])
        amount = lambda what: int(rollup[what].split()[0])
        keep(kind, part=name, **more, pss_kb=amount("Pss"), rss_kb=amount("Rss"),
             private_kb=amount("Private_Dirty") + amount("Private_Clean"), written_kb=amount("Private_Dirty"))


# As the window sets them itself where there is no graphics card.
WITHOUT_A_CARD = {"WEBKIT_DISABLE_DMABUF_RENDERER": "1", "GDK_GL": "disable", "WEBKIT_WEB_RENDER_DEVICE_FILE": "/dev/null"}


def floor(arguments):
    with tempfile.TemporaryDirectory() as folder:
        program = pathlib.Path(folder) / "floor"
        flags = subprocess.run(["pkg-config", "--cflags", "--libs", "webkit2gtk-4.1"], capture_output=True, text=True, check=True).stdout
        subprocess.run(["cc", "-O2", HERE / "window_floor.c", "-o", program, *shlex.split(flags)], check=True)
        environment = {**os.environ, "HOME": folder, "LANG": "C.UTF-8", **({} if os.path.exists("/dev/dri") else WITHOUT_A_CARD)}
        for count in range(arguments.count):
            window = subprocess.Popen([program], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            first = float(window.stdout.readline())
            parts = family(window.pid, "window")
            keep("floor", nice=os.nice(0), ms=round(first - 1000 * born(window.pid)), cpu_ms=worked(parts), load=os.getloadavg()[0])
            if count + 1 == arguments.count:
                time.sleep(2)
                weigh("floor_memory", parts)
            window.kill()
            window.wait()
            time.sleep(0.2)


def started(kind, scene, image=None, **more):
    process, ms = once(scene, image)
    keep(kind, **more, engine=ENGINE, window=WINDOW, nice=os.nice(0), ms=ms, cpu_ms=worked(family(process, "window")), load=os.getloadavg()[0])


def start(arguments):
    again(arguments.count)
    for cold in (False,) if arguments.warm else (True, False):
        for _ in range(arguments.count):
            with desktop.Scene() as scene:
                if cold and not forget():
                    print("the page cache cannot be emptied here: no cold starts", flush=True)
                    break
                started("start", scene, cold=cold)
            if not cold:
                time.sleep(0.2)
    with desktop.Scene() as scene:
        for count in range(arguments.count + 1):
            if count == 0:
                once(scene)
            else:
                started("known", scene)
            scene.windows.pop().end()
            wait("its end", lambda: not scene.left())


def memory(_):
    with desktop.Scene() as scene:
        window = scene.window()
        desktop.answered(window, desktop.STORY, 1)
        (own,) = scene.processes(None)
        weigh("memory", family(own, "window"), window=WINDOW)


def page(arguments):
    lines = subprocess.run(["node", HERE / "page_work.js", str(arguments.count)], stdout=subprocess.PIPE, text=True, check=True).stdout
    for line in lines.splitlines():
        keep("page", engine=ENGINE, load=os.getloadavg()[0], **json.loads(line))


# What the tests of the page's speed say of themselves.
KEYS = re.compile(r"of (\d+): ([\d.]+) ms in the middle, ([\d.]+) ms in 95 of 100")
TASKS = re.compile(r"(\d+) pieces in ([\d.]+) s: (\d+) tasks above 50 ms, the longest (\d+) ms")


def speed(arguments):
    tests = sorted((ROOT / "ui" / "tests" / "page" / "alone").glob("*.test.js"))
    for _ in range(arguments.count):
        told = subprocess.run(["node", "--test", "--test-reporter=tap", *tests], cwd=ROOT / "ui", stdout=subprocess.PIPE, text=True, check=False).stdout
        keys, tasks = KEYS.search(told), TASKS.search(told)
        if not keys or not tasks:
            sys.exit(told)
        keep("speed", engine=ENGINE, load=os.getloadavg()[0], keys=int(keys[1]), key_ms=float(keys[2]), key_most_ms=float(keys[3]),
             pieces=int(tasks[1]), seconds=float(tasks[2]), tasks=int(tasks[3]), task_ms=int(tasks[4]))


def bundle(arguments):
    models = sum((ROOT / "models" / name).stat().st_size for name in MODELS)
    files = arguments.files or made()
    for file in files:
        keep("bundle", name=pathlib.Path(file).name, bytes=os.stat(file).st_size, models=models, window=WINDOW)
    for image in (file for file in files if str(file).endswith(".AppImage")):
        for count in range(arguments.count + 1):
            with desktop.Scene() as scene:
                # The first one reads it from the disk.
                once(scene, image) if count == 0 else started("image", scene, image)


def made():
    """What people install, built of these programs."""
    told = subprocess.run([ROOT / "crates" / "heph-desktop" / "bundle" / "make"], stdout=subprocess.PIPE, text=True, check=True).stdout
    print(told, end="", flush=True)
    return [str(ROOT / line.split()[0]) for line in told.splitlines() if line.startswith("target/bundle/")]


def everything(arguments):
    for task in (start, memory, floor, page, speed, bundle, report):
        task(arguments)


def lines(kind):
    found = [json.loads(line) for line in RAW.read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


def built_alike(kind):
    """Those lines of a kind from the processor of the last one, whose programs were built as its own."""
    found = lines(kind)
    how = lambda line: (line["cpu"], line["engine"], line.get("window"))
    return [line for line in found if how(line) == how(found[-1])]


# What `page_work.js` counts, and how it is called here.
WORK = (("script", "script"), ("reading", "reading markup and styles"), ("styles", "styles of elements"), ("places", "places of elements"),
        ("drawing", "drawing, as far as the main thread does it"))


def of_the_page():
    """What the page works for itself, where no window has to be drawn by software."""
    found = built_alike("page")
    if not found:
        return []
    middle = lambda what: statistics.median(line[what] for line in found)
    whole = statistics.median(sum(line[kind] for kind, _ in WORK) for line in found)
    return ["", "## What the page itself works until its first frame", "",
            f"In chromium (`page_work.js`, {len(found)} openings, medians; {found[-1]['cpu']}), where neither a window nor a browser has to start: the page is "
            f"{middle('files'):.0f} files of {middle('bytes') / 1e3:.0f} kB until its first frame, for which its main thread works {whole:.0f} ms:", "",
            "| what | milliseconds |", "|---|---|", *(f"| {name} | {middle(kind):.1f} |" for kind, name in WORK), "",
            f"The page's heap is {middle('heap_kb') / 1024:.1f} MB then. That much of a start is the page's own. What a start takes beyond this and beyond the least window is the "
            "window's program, and what WebKit takes to show a larger page where it draws by software."]


def of_its_speed():
    found = built_alike("speed")
    if not found:
        return []
    middle = lambda what: statistics.median(line[what] for line in found)
    longest = f"{middle('task_ms'):.0f} ms" if middle("tasks") else f"none above {TASK_MS} ms"
    return ["", "## Writing and reading in it", "",
            f"In chromium (`ui/tests/page/alone`, medians of {len(found)} runs; {found[-1]['cpu']}, load {middle('load'):.1f}), before a door that answers by a script.", "",
            "| what | measured | asked |", "|---|---|---|",
            f"| work for a key in a chat of 10,000 messages, in 95 of 100 | {middle('key_most_ms'):.1f} ms ({middle('key_ms'):.1f} in the middle) | {KEY_MS} ms, {verdict(middle('key_most_ms'), KEY_MS)} |",
            f"| the longest task while markdown with code comes, {middle('pieces') / middle('seconds'):.0f} pieces a second | "
            f"{longest} | {TASK_MS} ms, {verdict(middle('task_ms'), TASK_MS)} |"]


def verdict(value, goal):
    return "reached" if value <= goal else "**not reached**"


def report(_):
    out = ["# The window", "", "Written by `benches/desktop.py report` from `raw/desktop.jsonl`. Starts are medians of all lines of their kind whose processor and",
           "builds are those of the last one.",
           "Debian's WebKitGTK under Xvfb, drawn by software.", ""]
    starts = built_alike("start")
    cold = [line for line in lines("start") if line["cold"]]
    all_of = lambda what: ", ".join(sorted({str(line[what]) for line in starts}))
    out += [f"Processors: {all_of('cpu')}. Last line: {starts[-1]['at']}. The engine's profile: {all_of('engine')}; the window's: {all_of('window')}. "
            f"Niceness: {all_of('nice')}"
            " (below 0, the window goes before the other work that the load counts).", "",
            "## From the birth of the process to the first frame of the page", "",
            "| start | count | median | fastest | slowest | work of the processors, median | load of the machine, median | asked |",
            "|---|---|---|---|---|---|---|---|"]
    kinds = ((f"nothing in the page cache ({cold[-1]['cpu']})", COLD_MS, [line for line in cold if line["cpu"] == cold[-1]["cpu"]]),
             ("warm", WARM_MS, [line for line in starts if not line["cold"]]),
             ("warm, where a window was open before", WARM_MS, built_alike("known")),
             ("warm, the AppImage", WARM_MS, built_alike("image")),
             ("once more, while it stands in the tray", WARM_MS, built_alike("again")),
             ("the least window of WebKit, warm", None, lines("floor")))
    for name, goal, kind in kinds:
        if kind:
            times = [line["ms"] for line in kind]
            work = [line["cpu_ms"] for line in kind if "cpu_ms" in line]
            load = statistics.median(line["load"] for line in kind)
            median = statistics.median(times)
            asked = f"{goal} ms, {verdict(median, goal)}" if goal else ""
            work = f"{statistics.median(work):.0f} ms" if work else ""
            out.append(f"| {name} | {len(times)} | {median:.0f} ms | {min(times)} ms | {max(times)} ms | {work} | {load:.1f} | {asked} |")
    out += ["", "The work is that of the window and WebKit's processes, without the engine's. The least window (`window_floor.c`) shows one line of text and has "
            "nothing of HEPH: what stands there can go only with WebKit."]
    out += of_the_page()
    out += of_its_speed()
    out += ["", "## Memory after an answer, without the engine", "", "| process | its share (PSS) | private | of that written | resident |", "|---|---|---|---|---|"]
    last = {line["part"]: line for line in lines("memory")}
    for part, line in sorted(last.items()):
        out.append(f"| {part} | {line['pss_kb'] / 1024:.0f} MB | {line['private_kb'] / 1024:.0f} MB | {line['written_kb'] / 1024:.0f} MB | {line['rss_kb'] / 1024:.0f} MB |")
    share, private, written = (sum(line[f"{what}_kb"] for line in last.values()) / 1024 for what in ("pss", "private", "written"))
    out.append(f"| all | {share:.0f} MB | {private:.0f} MB | {written:.0f} MB | |")
    least = {line["part"]: line for line in lines("floor_memory")}
    if least:
        of = lambda what: sum(line[f"{what}_kb"] for line in least.values()) / 1024
        out.append(f"| all of the least window | {of('pss'):.0f} MB | {of('private'):.0f} MB | {of('written'):.0f} MB | |")
    out += ["",
            f"Asked: {MEMORY_MB} MB, {verdict(share, MEMORY_MB)}. Resident memory counts what processes share once for each; what is not written is pages of "
            "libraries and files, which the system takes back where it needs the room."]
    bundles = {line["name"]: line for line in lines("bundle")}
    if bundles:
        out += ["", "## What is installed", "", "| file | size | without models | asked |", "|---|---|---|---|"]
        for name, line in sorted(bundles.items()):
            # Models are random bits to a packer.
            rest = (line["bytes"] - line["models"]) / 1e6
            out.append(f"| {name} | {line['bytes'] / 1e6:.1f} MB | {rest:.1f} MB | {BUNDLE_MB} MB, {verdict(rest, BUNDLE_MB)} |")
    (HERE / "DESKTOP.md").write_text("\n".join(out) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = parser.add_subparsers(required=True)
    task = tasks.add_parser("start")
    task.add_argument("--count", type=int, default=10)
    task.add_argument("--warm", action="store_true")
    task.set_defaults(task=start)
    task = tasks.add_parser("floor")
    task.add_argument("--count", type=int, default=10)
    task.set_defaults(task=floor)
    tasks.add_parser("memory").set_defaults(task=memory)
    task = tasks.add_parser("bundle")
    task.add_argument("files", nargs="*")
    task.add_argument("--count", type=int, default=10)
    task.set_defaults(task=bundle)
    task = tasks.add_parser("page")
    task.add_argument("--count", type=int, default=10)
    task.set_defaults(task=page)
    task = tasks.add_parser("speed")
    task.add_argument("--count", type=int, default=3)
    task.set_defaults(task=speed)
    tasks.add_parser("report").set_defaults(task=report)
    task = tasks.add_parser("all")
    task.add_argument("--count", type=int, default=10)
    task.set_defaults(task=everything, warm=False, files=[])
    arguments = parser.parse_args()
    if arguments.task not in (page, speed, report) and not os.environ.get(desktop.INSIDE):
        why = desktop.why_not()
        if why:
            sys.exit(why)
        sys.exit(desktop.on_a_screen([sys.executable, __file__, *sys.argv[1:]]))
    RAW.parent.mkdir(exist_ok=True)
    arguments.task(arguments)


main()
