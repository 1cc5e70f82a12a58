#!/usr/bin/env python3
"""The real window under Xvfb, driven by WebKit's driver, with the real engine and the bundled model.

    tests/desktop/run.py              needs Xvfb, WebKitWebDriver, dbus-run-session and the built programs; says what is missing
    tests/desktop/run.py --can-run    only says whether it could
    tests/desktop/run.py WORD...      only those claims whose function's name holds a word

HEPH and HEPH_DESKTOP name other programs. Every scene has a home folder and a bus of its own, and no network but loopback.
"""

import http.client
import http.server
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "lab"))

from claims import FAILED, PASSED, claim  # noqa: E402
from driver import ENTER, Missing, PATIENCE, Said, Window, children, wait  # noqa: E402

HEPH = pathlib.Path(os.environ.get("HEPH", ROOT / "target" / "tests" / "heph"))
DESKTOP = pathlib.Path(os.environ.get("HEPH_DESKTOP", ROOT / "crates" / "heph-desktop" / "target" / "tests" / "heph-desktop"))
INSIDE = "HEPH_DESKTOP_SESSION"
SYSTEM_PYTHON = "/usr/bin/python3"

SKIPPED = []

# Same seed, same words: an answer can be compared with the one that was not disturbed.
STEADY = {"temperature": 0.7, "seed": 7, "language": "en", "theme": "light", "tokensMax": 200}
STORY = "Tell me a story about a little fox."


def why_not():
    """What is missing; nothing where nothing is."""
    if sys.platform != "linux":
        return "the window is tried on Linux"
    for program in ("Xvfb", "WebKitWebDriver", "dbus-run-session", "xdotool"):
        if not shutil.which(program):
            return f"{program} is not installed"
    for program in (HEPH, DESKTOP):
        if not program.exists():
            return f"there is no {program}"
    return None


def has_gi(what="import gi"):
    return subprocess.run([SYSTEM_PYTHON, "-c", what], capture_output=True, check=False).returncode == 0


def skipped(what, why):
    SKIPPED.append(what)
    print(f"skipped {what}: {why}", flush=True)


class Bus:
    """A tray and a place for notifications, on the bus of this session."""

    def __init__(self):
        self.process = subprocess.Popen(
            [SYSTEM_PYTHON, str(pathlib.Path(__file__).with_name("bus.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.lines = []
        threading.Thread(target=self.listen, daemon=True).start()
        wait("the tray", lambda: len([line for line in self.lines if "owned" in line]) == 2)

    def listen(self):
        for line in self.process.stdout:
            self.lines.append(json.loads(line))

    def said(self, what):
        return [line[what] for line in self.lines if what in line]

    def ask(self, wish):
        count = len(self.lines)
        self.process.stdin.write(json.dumps(wish) + "\n")
        self.process.stdin.flush()
        answers = ("menu", "pressed", "failed")
        return wait("the tray's answer", lambda: [line for line in self.lines[count:] if any(a in line for a in answers)])[0]

    def menu(self):
        return wait("the tray's menu", lambda: self.ask({"menu": True})["menu"])

    def line(self, begins):
        return [line for line in self.menu() if line["label"].startswith(begins)][0]

    def press(self, begins):
        return self.ask({"press": self.line(begins)["id"]})

    def end(self):
        self.process.kill()
        self.process.wait()


class Scene:
    """A home folder, and a folder with both programs beside each other, as a person has them."""

    def __init__(self):
        # What a program that ends still writes is in nobody's way.
        self.work = tempfile.TemporaryDirectory(prefix="heph-desktop-", ignore_cleanup_errors=True)
        work = pathlib.Path(self.work.name)
        self.home, self.programs = work / "home", work / "programs"
        self.home.mkdir()
        self.programs.mkdir()
        for program in (HEPH, DESKTOP):
            try:
                os.link(program, self.programs / program.name)
            except OSError:
                shutil.copy2(program, self.programs / program.name)
        # Downloads and entries for logging in go there, too.
        self.environment = {**os.environ, "HEPH_HOME": str(self.home), "HEPH_KEYS": "file", "HOME": str(work),
                            "XDG_CONFIG_HOME": str(work / "config"), "XDG_DATA_HOME": str(work / "data"), "LANG": "C.UTF-8"}
        self.windows, self.others = [], []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for window in self.windows:
            window.end()
        for process in self.others:
            process.kill()
            process.wait()
        # Nodes say goodbye, and have their port until then.
        try:
            wait("the end of all that the window began", lambda: not self.left())
        except Missing as missing:
            print(f"       {missing}", flush=True)
        self.work.cleanup()

    def left(self):
        """Processes that run a program of this scene."""
        return [entry for entry in filter(str.isdigit, os.listdir("/proc")) if program_of(entry).startswith(self.work.name)]

    def window(self, *arguments, steady=True):
        """The window, with its page open."""
        window = Window(self.programs / DESKTOP.name, self.environment, arguments)
        self.windows.append(window)
        window.shown(".composer textarea")
        if steady:
            anew(window, STEADY)
            window.shown(".composer textarea")
        return window

    def program(self, *words):
        """Another program of this home folder."""
        process = subprocess.Popen(
            [str(self.programs / HEPH.name), *words], env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True)
        self.others.append(process)
        return process

    def node(self):
        """Another machine, with a home folder of its own."""
        home = pathlib.Path(self.work.name) / "node"
        home.mkdir()
        words = ["node", "--json", "--while-input-open", "--name", "node", "--listen", "127.0.0.1:0", "--threads", "1"]
        process = subprocess.Popen(
            [str(HEPH), *words], env={**self.environment, "HEPH_HOME": str(home)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True)
        self.others.append(process)
        return process

    def second(self, *words):
        """The window's program started once more, as a link does it."""
        program = [str(self.programs / DESKTOP.name), *words]
        return subprocess.run(program, env=self.environment, capture_output=True, timeout=PATIENCE, check=False)

    def processes(self, word):
        """The processes that run the window's program, or `heph WORD` begun by it."""
        own = [int(entry) for entry in filter(str.isdigit, os.listdir("/proc")) if program_of(entry) == str(self.programs / DESKTOP.name)]
        if word is None:
            return own
        return [number for window in own for number, words in children(window).items() if words[1:2] == [word]]

    def door(self):
        return json.loads((self.home / "gateway.door").read_text())

    def asked(self, method, path, body=None):
        """What the door answers to a program with the token."""
        connection = http.client.HTTPConnection(self.door()["address"].removeprefix("http://"), timeout=PATIENCE)
        token = (self.home / "gateway.token").read_text().strip()
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"authorization": f"Bearer {token}", "content-type": "application/json"})
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return json.loads(data) if data else None


def program_of(process):
    """The file that a process runs; nothing where it has ended."""
    try:
        return os.readlink(f"/proc/{process}/exe")
    except OSError:
        return ""


def anew(window, settings):
    """Loads the page anew, with `settings`; the old one is not taken for it."""
    window.run("window.before = true; localStorage.setItem('heph.settings', JSON.stringify(arguments[0])); location.reload()", settings)
    wait("the page anew", lambda: window.run("return window.before === undefined && document.readyState === 'complete'"))


def answered(window, words, turns):
    """Asks `words` and gives the text of the answer once its receipt is there."""
    # Apart: a key whose element was drawn anew meanwhile is pressed again, and an empty line is no question.
    if words:
        window.write(".composer textarea", words)
    window.write(".composer textarea", ENTER)
    wait("a receipt", lambda: window.count(".went") >= turns)
    return window.text(".turn.assistant .text")


def longer(window, than):
    """Waits until more than so many letters of the answer are there."""
    return wait("more of the answer", lambda: len(window.text(".turn.assistant .text") or "") > than)


def an_answer_comes_without_a_network(scene):
    window = scene.window()
    claim("the first start says what the machine is, and what one can do next",
          "heph-story" in wait("the welcome", lambda: window.text("#welcome + ul")) and window.count("[aria-labelledby=welcome] a.button") == 3)
    window.write(".composer textarea", STORY)
    claim("the plan is shown before the question is asked",
          wait("the plan", lambda: "nothing leaves" in (window.text(".plan button") or "")))
    before = window.text(".turn.assistant .text")
    text = answered(window, "", 1)
    claim("an answer streams into the window", before is None and len(text) > 40, text[:60])
    window.click(".went .line")
    claim("its receipt says that nothing left", "Stayed on this machine" in wait("the receipt", lambda: window.text(".went")))
    window.click(".went .foot button:nth-child(1)")
    (saved,) = wait("the receipt as a file", lambda: list(pathlib.Path(scene.work.name).glob("*.json")))
    claim("it is saved as a file", wait("its text", lambda: json.loads(saved.read_text()))["traffic"] == [], saved.name)
    claim("no process of the window is connected to another machine", not foreign(scene))
    claim("the token stands in no address", "token" not in window.run("return location.href"))
    anew(window, {**STEADY, "mode": "local"})
    window.shown(".turn.assistant .text")
    claim("the chat is there after the page was loaded anew", wait("the text", lambda: window.text(".turn.assistant .text") == text))


def foreign(scene):
    """Connections of the window and its children to other addresses than loopback."""
    family = set(scene.processes(None))
    family |= {child for window in list(family) for child in children(window)}
    sockets = set()
    for process in family:
        folder = f"/proc/{process}/fd"
        try:
            names = [os.readlink(f"{folder}/{name}") for name in os.listdir(folder)]
        except OSError:
            continue
        sockets |= {name[8:-1] for name in names if name.startswith("socket:[")}
    found = []
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in pathlib.Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            peer, inode = words[2].split(":")[0], words[9]
            if inode in sockets and peer.strip("0") and not peer.endswith("7F") and peer != "0" * 24 + "01000000":
                found.append(line)
    return found


def an_answer_can_be_stopped(scene):
    window = scene.window()
    rests = "return document.querySelector('.composer button.main')?.type === 'submit'"
    for _ in range(20):
        window.write(".composer textarea", STORY + ENTER)
        longer(window, 5)
        window.click(".composer button.main")
        wait("the end of the answer", lambda: window.run(rests))
        text = window.text(".turn.assistant .text")
        time.sleep(0.5)
        # A fast machine may have been done before the press.
        if window.count(".went") == 0:
            break
        fresh(window)
    claim("a stopped answer gets no longer", window.count(".went") == 0 and window.text(".turn.assistant .text") == text, text[:40])
    claim("the engine works at nothing then",
          wait("rest", lambda: scene.asked("GET", "/heph/v1/status")["requests"]["running"] == 0) is True)


def killed_in_the_middle(window, process):
    """Asks for the story until `process` could be stopped while the answer came, and kills it then."""
    for _ in range(20):
        turns = window.count(".went")
        window.write(".composer textarea", STORY + ENTER)
        wait("the answer", lambda: window.count(".turn.assistant") > 0)
        longer(window, 5)
        os.kill(process, signal.SIGSTOP)
        time.sleep(0.3)
        if window.count(".went") == turns:
            seen = len(window.text(".turn.assistant .text"))
            os.kill(process, signal.SIGKILL)
            return seen
        os.kill(process, signal.SIGCONT)
        fresh(window)
    raise Missing("every answer was faster than the test")


def fresh(window):
    """A new chat."""
    window.run("location.hash = '#/chat'")
    wait("a new chat", lambda: window.count(".turn") == 0 and window.count(".composer textarea") == 1)


def an_engine_that_is_killed_is_begun_anew_and_the_answer_goes_on(scene):
    window = scene.window()
    whole = answered(window, STORY, 1)
    address = scene.door()["address"]
    fresh(window)
    (engine,) = scene.processes("serve")
    seen = killed_in_the_middle(window, engine)
    wait("the whole answer", lambda: window.count(".went") == 1)
    text = window.text(".turn.assistant .text")
    claim("an answer goes on over the death of its engine, and has the same words",
          0 < seen < len(whole) and text == whole, f"{seen} of {len(whole)} letters had come")
    claim("another engine is there, at the same address",
          scene.processes("serve") != [engine] and scene.door()["address"] == address)
    claim("the window lives", wait("the page without a banner", lambda: window.count(".banner") == 0) and len(scene.processes(None)) == 1)
    second = answered(window, "What is the capital of France?", 2)
    claim("the next question is answered", len(second) > 0, second[:40])


def another_machine_is_met_by_a_link_and_may_die_in_an_answer(scene):
    window = scene.window()
    whole = answered(window, STORY, 1)
    node = scene.node()
    ticket = json.loads(node.stdout.readline())["ticket"]
    scene.second(f"heph://join/{ticket}")
    field = "main form textarea"
    wait("the ticket", lambda: window.run("return document.querySelector(arguments[0]).value", field) == ticket)
    window.click("main form:has(textarea) button[type=submit]")
    claim("a link and one press bring two machines together",
          wait("the machine", lambda: [line["name"] for line in scene.asked("GET", "/heph/v1/nodes")["nodes"]]) == ["node"])
    fresh(window)
    window.click(".composer button[aria-label^='Where it is computed:']")
    window.click(".composer input[type=radio][value=remote]:not(:disabled)")
    window.ask("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": [
        {"type": "keyDown", "value": "\ue00c"}, {"type": "keyUp", "value": "\ue00c"}]}]})
    seen = killed_in_the_middle(window, node.pid)
    wait("the whole answer", lambda: window.count(".went") == 1)
    text = window.text(".turn.assistant .text")
    claim("an answer goes on over the death of the machine that gave it, and has the same words",
          0 < seen < len(whole) and text == whole, f"{seen} of {len(whole)} letters had come")
    window.click(".went .line")
    wait("the receipt", lambda: "node" in window.text(".went"))
    claim("its receipt says that another machine took part", True, window.text(".went").replace("\n", " ")[:100])


def an_engine_that_does_not_start_is_explained(scene):
    window = scene.window()
    heph = scene.programs / HEPH.name
    heph.rename(heph.with_name("away"))
    heph.write_text("#!/bin/sh\necho 'the model is damaged' >&2\nexit 3\n")
    heph.chmod(0o755)
    (engine,) = scene.processes("serve")
    os.kill(engine, signal.SIGKILL)
    said = wait("the explanation", lambda: window.text(".banner"))
    claim("the page says that the engine does not start, and why",
          wait("the reason", lambda: "the model is damaged" in window.text(".banner")) and "does not start" in window.text(".banner"), said)
    heph.unlink()
    heph.with_name("away").rename(heph)
    window.click(".banner button")
    wait("the engine", lambda: window.count(".banner") == 0)
    claim("a press starts it once more", len(answered(window, STORY, 1)) > 40)


def a_window_joins_a_door_that_is_open(scene):
    serve = scene.program("serve", "--listen", "127.0.0.1:0", "--json")
    there = json.loads(serve.stdout.readline())
    window = scene.window()
    claim("the window shows the page of the door that was open", window.run("return location.origin") == there["address"])
    claim("and begins none of its own", scene.door()["pid"] == serve.pid)
    killed_in_the_middle(window, serve.pid)
    serve.wait()
    wait("the whole answer", lambda: window.count(".went") == 1)
    claim("when that door ends in an answer, the window's own takes its place and the answer goes on",
          scene.door()["pid"] in scene.processes("serve") and window.run("return location.origin") == there["address"],
          window.text(".turn.assistant .text")[-40:])


def there_is_one_window_and_links_come_to_it(scene):
    window = scene.window()
    claim("a second start ends, and the first window stays the only one",
          scene.second().returncode == 0 and len(scene.processes(None)) == 1)
    claim("no second engine stays behind", wait("one engine", lambda: len(scene.processes("serve")) == 1))
    scene.second("heph://join/heph1abcdefgh")
    filled = "return [...document.querySelectorAll('input, textarea')].some((field) => field.value === 'heph1abcdefgh')"
    claim("a link fills the ticket in on the page of machines",
          wait("the ticket", lambda: window.run(filled)) and "#/nodes" in window.run("return location.hash"))
    claim("and meets nobody unasked", scene.asked("GET", "/heph/v1/nodes")["nodes"] == [])
    for wrong in ("heph://join/%3Cscript%3E", "heph://forget/everything", "heph://join/a?now"):
        scene.second(wrong)
    claim("other links do nothing", window.run(filled) and len(scene.processes(None)) == 1)


def what_is_dropped_goes_to_the_question_or_to_the_folders(scene):
    window = scene.window()
    # The second half of the way; the first, from the system to the page, has its tests beside its code.
    drop = "dispatchEvent(new CustomEvent('heph', { detail: { what: 'dropped', about: arguments[0] } }))"
    window.run(drop, {"files": [{"name": "notes.txt", "bytes": "Rm94ZXMgc2xlZXAu"}], "folders": []})
    claim("a file goes to the question", wait("the file", lambda: "notes.txt" in (window.text(".composer") or "")))
    window.run(drop, {"files": [], "folders": ["/home/ada/notes"]})
    filled = "return [...document.querySelectorAll('input')].some((field) => field.value === '/home/ada/notes')"
    claim("a folder goes to the page of folders, and is not added unasked",
          wait("the folder", lambda: window.run(filled)) and scene.asked("GET", "/heph/v1/knowledge")["shelves"] == [])


def a_private_folder_is_asked_about_and_nothing_of_it_leaves(scene):
    notes = pathlib.Path(scene.work.name) / "notes"
    notes.mkdir()
    (notes / "boats.txt").write_text("Notes of the harbour.\n\nThe ferry to Elba leaves at 7:40 from pier four.\n")
    window = scene.window()
    window.run("location.hash = '#/folders'")
    window.write("main form input[type=text]", str(notes))
    window.click("main form input[type=radio][value=nothing]")
    window.click("main form button[type=submit]")
    shelves = lambda: scene.asked("GET", "/heph/v1/knowledge")["shelves"]
    claim("a folder is added, and is private", wait("the folder", lambda: [shelf["label"] for shelf in shelves()]) == ["nothing"], shelves())
    fresh(window)
    answered(window, "When does the ferry to Elba leave?", 1)
    wait("what went with it", lambda: window.count(".turn.user .cited") == 1)
    window.run("document.querySelector('.turn.user .cited > summary').click()")
    said = lambda: window.text(".turn.user .cited")
    claim("the question says that nothing of it leaves", wait("the words", lambda: "nothing of this chat leaves" in said()), said())
    window.run("document.querySelector('.turn.user .cited details summary').click()")
    claim("its citation opens the words", "7:40" in wait("the words", lambda: window.text(".turn.user .cited mark")))
    chat = scene.asked("GET", f"/heph/v1/chats/{scene.asked('GET', '/heph/v1/chats')['chats'][0]['id']}")
    receipt = chat["body"]["messages"][1]["receipt"]
    claim("and its receipt, that nothing left", receipt["traffic"] == [] and receipt["mode"] == "local", receipt)


def several_windows_open_and_close_by_their_keys(scene):
    window = scene.window()
    (first,) = wait("the window", seen)
    others = lambda: [other for other in seen() if other != first]

    opened = pressed("ctrl+n", others, lambda: [first])
    while len(others()) > 1:
        # Both presses were heard.
        pressed("ctrl+w", lambda count=len(others()): len(others()) < count, others)
    pressed("ctrl+w", lambda: not others(), others)
    claim("another window opens and closes by its keys, and the first one stays", len(opened) > 0 and seen() == [first])
    anew(window, {**STEADY, "language": "de", "theme": "dark"})
    kept = scene.home / "window" / "window.json"
    claim("menus follow the language and the look of the page",
          wait("what is kept", lambda: (lambda all: all["tongue"] == "de" and all["look"] == "dark")(json.loads(kept.read_text()))))
    claim("and a key ends it all", pressed("ctrl+q", lambda: not scene.processes(None), lambda: [first]))


def a_page_whose_process_falls_is_loaded_anew(scene):
    # Without the driver, which lets go of a page that falls.
    process = subprocess.Popen([str(scene.programs / DESKTOP.name)], env=scene.environment, stderr=subprocess.DEVNULL)
    scene.others.append(process)
    pages = lambda: [number for number, words in children(process.pid).items() if words[0].endswith("WebKitWebProcess")]
    wait("the window", seen)
    (page,) = wait("the page's process", lambda: len(pages()) == 1 and pages())
    wait("the engine", lambda: scene.asked("GET", "/heph/v1/status")["model"])
    time.sleep(2)
    os.kill(page, signal.SIGKILL)
    (other,) = wait("another one", lambda: [number for number in pages() if number != page])
    time.sleep(1)
    claim("a page whose process falls is loaded anew, and the window stays",
          pages() == [other] and process.poll() is None and len(seen()) == 1)
    for _ in range(2):
        (fallen,) = wait("the page's process", pages)
        # It has a page by then.
        time.sleep(1.5)
        os.kill(fallen, signal.SIGKILL)
        wait("its end", lambda: fallen not in pages())
    claim("one that falls again and again comes back, too", wait("another one", lambda: pages() and process.poll() is None))


def it_starts_with_the_computer_where_that_is_wished(scene):
    window = scene.window()
    window.run("window.__TAURI_INTERNALS__.invoke('change', { change: { login: true } })")
    entry = pathlib.Path(scene.work.name) / ".config" / "autostart" / "HEPH.desktop"
    text = wait("the entry", lambda: "--unseen" in entry.read_text() and entry.read_text())
    claim("the entry starts the window unseen", str(scene.programs) in text, text.replace("\n", " "))
    window.run("window.__TAURI_INTERNALS__.invoke('change', { change: { login: false } })")
    claim("and is taken away again", wait("no entry", lambda: not entry.exists()))
    window.end()
    wait("the end", lambda: not scene.processes(None))
    process = subprocess.Popen([str(scene.programs / DESKTOP.name), "--unseen"], env=scene.environment, stderr=subprocess.DEVNULL)
    scene.others.append(process)
    wait("the engine", lambda: scene.asked("GET", "/heph/v1/status")["model"])
    time.sleep(1)
    claim("started so, nothing is seen of it", not seen())
    scene.second()
    claim("until somebody opens it", wait("the window", seen))


def seen():
    """Windows of the program that are seen."""
    return xdotool("search", "--onlyvisible", "--name", "^(HEPH|.* · HEPH)$").split()


def the_page_may_ask_the_window_only_what_is_meant_for_it(scene):
    window = scene.window()
    call = """const done = arguments[arguments.length - 1];
        window.__TAURI_INTERNALS__.invoke(arguments[0], arguments[1]).then((value) => done({ value }), (error) => done({ error: String(error) }))"""
    asked = lambda command, given=None: window.ask("POST", "/execute/async", {"script": call, "args": [command, given or {}]})
    standing = asked("standing")["value"]
    claim("the page knows how the window stands",
          standing["engine"]["state"] == "open" and standing["lending"]["state"] == "off", standing)
    refused = {name: "error" in asked(name) for name in (
        "plugin:dialog|open", "plugin:autostart|enable", "plugin:notification|notify", "plugin:event|emit", "plugin:webview|create_webview",
        "plugin:window|create", "plugin:updater|check", "plugin:global-shortcut|unregister_all", "plugin:path|resolve_directory")}
    claim("it may not ask the window's libraries for anything", all(refused.values()), refused)
    window.run("setTimeout(() => { location.href = 'http://127.0.0.1:9/' })")
    time.sleep(1)
    claim("the window goes to no other page", window.run("return location.origin") == scene.door()["address"])


def a_quick_question_has_a_window_of_its_own(scene):
    # The driver sees the first window alone: this one is used as a person does, with keys.
    scene.window()
    xdotool("key", "ctrl+shift+space")
    quick = wait("the small window", lambda: small() or xdotool("key", "ctrl+shift+space"), pause=2)
    claim("the shortcut opens a small window", len(quick) == 1)

    # Without a window manager nobody else gives it the keyboard; its page has the focus where one writes.
    def asked():
        xdotool("windowfocus", quick[0], "mousemove", "--window", quick[0], "320", "375", "click", "1")
        xdotool("sleep", "0.5", "key", "ctrl+a", "type", STORY)
        xdotool("key", "Return")
        chats = wait("a chat", lambda: scene.asked("GET", "/heph/v1/chats")["chats"], patience=5)
        return scene.asked("GET", f"/heph/v1/chats/{chats[0]['id']}")

    chat = wait("a question in the small window", asked)
    wait("the answer", lambda: "receipt" in json.dumps(scene.asked("GET", f"/heph/v1/chats/{chat['id']}")["body"]))
    claim("a quick question is answered there, and kept like every chat", STORY[:20] in json.dumps(chat["body"]), chat["title"])
    claim("Escape puts it away", pressed("Escape", lambda: not small()))
    claim("and the shortcut brings it back", pressed("ctrl+shift+space", small) == quick)
    pressed("Escape", lambda: not small())
    claim("with the last other window the program ends, and no small one stays behind unseen",
          pressed("ctrl+w", lambda: not scene.processes(None), seen))


def pressed(keys, holds, windows=None):
    """Presses `keys` until `holds`, in the first of `windows` where some are named: a slow machine loses a press."""
    for patience in (10, 10, PATIENCE):
        focus = ["windowfocus", windows()[0], "sleep", "0.3"] if windows and windows() else []
        xdotool(*focus, "key", keys)
        try:
            return wait(keys, holds, patience)
        except Missing as missing:
            last = missing
    raise last


def xdotool(*words):
    """What xdotool says."""
    return subprocess.run(["xdotool", *words], capture_output=True, text=True, timeout=PATIENCE, check=False).stdout


def small():
    """Windows that are seen and are as small as the one for quick questions."""
    found = []
    for window in xdotool("search", "--onlyvisible", "--name", "HEPH").split():
        if "Geometry: 640x460" in xdotool("getwindowgeometry", window):
            found.append(window)
    return found


def the_tray_cuts_off_and_lends(scene):
    if not has_gi():
        return skipped("the tray", "the system's Python has no gi")
    bus = Bus()
    try:
        window = scene.window()
        wait("the icon", lambda: bus.said("item"))
        labels = lambda: [line["label"].split()[0] for line in bus.menu()]
        claim("the tray offers the switch, sharing and the way out",
              wait("the tray's menu", lambda: labels() == ["Open", "Quick", "Cut", "Share", "Pause", "Quit"]), labels())
        cut = lambda: scene.asked("GET", "/heph/v1/policy")["cut"]
        bus.press("Cut off")
        claim("one press cuts everything off, for every program of this profile",
              wait("the switch", lambda: cut() and bus.line("Cut off")["on"]))
        claim("the page shows it", wait("the shield", lambda: "cut" in (window.text("header") or "").lower()), window.text("header"))
        claim("a model cannot be fetched then", "error" in scene.asked("POST", "/heph/v1/models/pull", {"repository": "a/b"}))
        bus.press("Cut off")
        claim("another ends that", wait("the switch", lambda: not cut() and not bus.line("Cut off")["on"]))
        window.click("header button.shield")
        window.click("header [role=switch]")
        claim("the page's switch shows in the tray", wait("the tray", lambda: bus.line("Cut off")["on"] and cut()))
        window.click("header [role=switch]")
        wait("the tray", lambda: not bus.line("Cut off")["on"])
        bus.press("Share")
        wait("the node", lambda: scene.processes("node"))
        bus.press("Cut off")
        claim("sharing rests from the moment in which everything is cut off",
              wait("no node", lambda: not scene.processes("node") and cut() and bus.line("Pause")["on"]))
        bus.press("Cut off")
        wait("the switch", lambda: not bus.line("Cut off")["on"])
        bus.press("Share")
        wait("nothing is shared", lambda: not bus.line("Share")["on"])
        bus.press("Share")
        wait("the node", lambda: scene.processes("node"))
        claim("sharing begins a node that rests while the person works",
              "--pause-while-i-work" in children(scene.processes(None)[0])[scene.processes("node")[0]]
              and wait("the tray", lambda: bus.line("Share")["on"]))
        bus.press("Pause")
        claim("a pause ends the node", wait("no node", lambda: not scene.processes("node") and bus.line("Pause")["on"]))
        bus.press("Pause")
        wait("the node", lambda: scene.processes("node"))
        bus.press("Share")
        claim("and sharing ends when it is switched off",
              wait("no node", lambda: not scene.processes("node") and not bus.line("Share")["on"]))
        bus.press("Quick")
        quick = wait("the small window", small)

        def told():
            # Until the first window knows that it is not looked at.
            xdotool("windowfocus", quick[0], "sleep", "0.5")
            window.run("window.__TAURI_INTERNALS__.invoke('done', { what: 'answer' })")
            return wait("the notification", lambda: bus.said("notification"), patience=5)

        notes = wait("the notification", told)
        claim("long work that is done is told, and not what came of it", notes[0]["title"] == "The answer is there", notes)
        engines = scene.processes("serve")
        bus.press("Quit")
        wait("the end", lambda: not scene.processes(None))
        claim("the way out ends window and engine",
              wait("no engine", lambda: not any(os.path.exists(f"/proc/{engine}") for engine in engines)))
        del window
    finally:
        bus.end()


def a_system_without_a_tray_has_a_window(scene):
    # Files that are no libraries are found before those of the system.
    folder = pathlib.Path(scene.work.name) / "libraries"
    folder.mkdir()
    for name in ("libayatana-appindicator3.so.1", "libappindicator3.so.1"):
        (folder / name).write_text("")
    scene.environment["LD_LIBRARY_PATH"] = str(folder)
    window = scene.window()
    (process,) = scene.processes(None)
    # The icon would have come by then.
    time.sleep(1)
    text = answered(window, "What is the capital of France?", 1)
    claim("where a system has no library for the tray, the window is there without an icon",
          len(text) > 0 and scene.processes(None) == [process], text[:40])


def this_computer_is_shared_within_the_bounds_of_the_page(scene):
    window = scene.window()
    window.run("location.hash = '#/settings'")
    fields = "return [...document.querySelectorAll('.columns input[type=number]')].filter((field) => field.placeholder === 'no bound').length"
    wait("the bounds", lambda: window.run(fields) == 2)
    fill = """const field = [...document.querySelectorAll('label')].find((label) => label.textContent.includes(arguments[0])).querySelector('input');
        if (field.type === 'checkbox') field.click();
        else { field.value = arguments[1]; field.dispatchEvent(new Event('change', { bubbles: true })); }"""
    for words, value in (("Memory for it", "0.5"), ("Network for it", "3"), ("Cores for it", "40"), ("Share this computer", "")):
        window.run(fill, words, value)
    (node,) = wait("the node", lambda: scene.processes("node"))
    words = children(scene.processes(None)[0])[node]
    claim("bounds of the page are those of the node",
          all(word in words for word in ("--memory=500000000", "--bandwidth=3000000", "--cpu=40%", "--pause-while-i-work")), words)
    window.run(fill, "Memory for it", "")
    claim("a bound that is taken away is no bound of the next node",
          wait("another node", lambda: [words for number, words in children(scene.processes(None)[0]).items()
                                        if words[1:2] == ["node"] and number != node and not any("--memory" in word for word in words)]) != [])
    window.run(fill, "Share this computer", "")
    claim("and the page ends it", wait("no node", lambda: not scene.processes("node")))


def appimage(scene):
    """The AppImage of these programs, in the scene's folder; nothing where it cannot be built here."""
    environment = {**os.environ, "HEPH": str(HEPH), "HEPH_DESKTOP": str(DESKTOP)}
    made = subprocess.run([ROOT / "crates" / "heph-desktop" / "bundle" / "make", "appimage"], env=environment, capture_output=True, text=True, check=False)
    if made.stdout.startswith("no AppImage"):
        skipped("the AppImage", made.stdout.strip())
        return None
    claim("the AppImage is built by one command", made.returncode == 0, (made.stdout + made.stderr).strip())
    image, shows = pathlib.Path(scene.work.name) / "HEPH.AppImage", pathlib.Path(scene.work.name) / "tmp"
    shows.mkdir()
    # A copy: one that replaces itself is not to replace what was built.
    shutil.copy2(ROOT / made.stdout.split()[0], image)
    scene.environment["TMPDIR"] = str(shows)
    return image


def an_appimage_is_one_file_with_everything_in_it(scene):
    image = appimage(scene)
    if image is None:
        return
    work = image.parent
    shows = work / "tmp"
    for words in ([], ["--appimage-extract-and-run"]):
        window = Window(image, scene.environment, words)
        scene.windows.append(window)
        window.shown(".composer textarea")
        anew(window, STEADY)
        window.shown(".composer textarea")
        (folder,) = shows.glob(".mount_heph-*")
        mounted = os.path.ismount(folder)
        claim("it starts, and answers", len(answered(window, STORY, 1)) > 40, f"{'mounted' if mounted else 'unpacked'} {words}")
        running = {pathlib.Path(program_of(entry)).name for entry in scene.left() if program_of(entry).startswith(str(folder))}
        claim("window and engine run from it", running == {"heph", "heph-desktop"} and not (words and mounted), running)
        window.run("window.__TAURI_INTERNALS__.invoke('change', { change: { login: true } })")
        entry = work / ".config" / "autostart" / "HEPH.desktop"
        line = wait("the entry", lambda: [line for line in entry.read_text().splitlines() if line.startswith("Exec=")])[0]
        claim("what starts with the computer is the file, and not where it is shown", str(image) in line and str(folder) not in line, line)
        entry.unlink()
        window.end()
        claim("nothing of it stays where it was shown", wait("no folder", lambda: not list(shows.glob(".mount_heph-*"))))
    cut = work / "cut.AppImage"
    cut.write_bytes(image.read_bytes()[:-100_000])
    cut.chmod(0o755)
    ends = [subprocess.run([cut, *words], env=scene.environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
            for words in (["--appimage-extract-and-run"], [])]
    claim("one that was cut short says so, and leaves nothing behind",
          all(end.returncode == 1 and end.stderr for end in ends) and wait("no folder", lambda: not list(shows.glob(".mount_heph-*"))),
          [end.stderr for end in ends])


def the_package_and_the_folder_hold_all_that_is_needed(scene):
    if not shutil.which("dpkg-deb"):
        return skipped("the package and the folder", "dpkg-deb is not installed")
    # What is packed is looked at, and not how tightly.
    quick = {"XZ_OPT": "-0", "DPKG_DEB_COMPRESSOR_LEVEL": "0"}
    environment = {**os.environ, **quick, "HEPH": str(HEPH), "HEPH_DESKTOP": str(DESKTOP)}
    made = subprocess.run([ROOT / "crates" / "heph-desktop" / "bundle" / "make", "deb", "portable"], env=environment, capture_output=True, text=True, check=False)
    claim("the package and the folder are built by one command", made.returncode == 0, (made.stdout + made.stderr).strip())
    package, archive = [ROOT / line.split()[0] for line in made.stdout.splitlines()]
    work = pathlib.Path(scene.work.name)
    subprocess.run(["dpkg-deb", "-x", package, work / "package"], check=True)
    subprocess.run(["tar", "-xf", archive, "-C", work], check=True)
    needs = subprocess.run(["dpkg-deb", "-f", package, "Depends"], capture_output=True, text=True, check=True).stdout
    usr = work / "package" / "usr"
    entry = (usr / "share" / "applications" / "org.heph.window.desktop").read_text()
    # A name may be on a person's way already: what is started is what the entry says, beside `heph`.
    line = [line for line in entry.splitlines() if line.startswith("Exec=")][0]
    claim("the package names what it needs, and its entry starts what it brings",
          "libwebkit2gtk-4.1-0" in needs and line.startswith("Exec=heph-desktop") and "x-scheme-handler/heph" in entry
          and all((usr / "bin" / name).is_file() for name in ("heph", "heph-desktop")), (needs.strip(), line))
    told = subprocess.run([usr / "bin" / "heph", "--version"], capture_output=True, text=True, check=False)
    claim("its program runs", told.returncode == 0, told.stdout.strip())
    (folder,) = work.glob("heph-*-*")
    own = {name: value for name, value in scene.environment.items() if name != "HEPH_HOME"}
    window = Window(folder / "heph-here", own)
    scene.windows.append(window)
    window.shown(".composer textarea")
    anew(window, STEADY)
    window.shown(".composer textarea")
    text = answered(window, STORY, 1)
    claim("the folder starts where it lies, and keeps everything in it",
          len(text) > 40 and (folder / "data" / "chats.sqlite").is_file() and not (work / ".heph").exists(), sorted(path.name for path in work.iterdir()))


class Place:
    """A place for updates on this machine: gives files by their paths, while it is not held, and knows which were asked for."""

    def __init__(self):
        self.files, self.asked, self.open = {}, [], threading.Event()
        self.open.set()
        place = self

        class Answers(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                place.asked.append(self.path)
                place.open.wait(PATIENCE)
                found = place.files.get(self.path)
                self.send_response(404 if found is None else 200)
                self.send_header("content-length", str(len(found or b"")))
                self.end_headers()
                self.wfile.write(found or b"")

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def offers(self, version, signature, file):
        what = {"url": f"{self.address}/new", "signature": signature}
        offer = {"version": version, "platforms": {"linux-x86_64": what, "linux-aarch64": what}}
        self.files = {"/offer.json": json.dumps(offer).encode(), "/new": file}

    def end(self):
        self.open.set()
        self.server.shutdown()


def help_line(number):
    """Presses that line of the window's menu *Help*, by keys: it is the last menu, and the first key goes to the first one."""
    keys = ["Escape", "F10", "Left"] + ["Down"] * number
    for key in keys:
        xdotool("windowfocus", seen()[0], "sleep", "0.2", "key", key)
    xdotool("sleep", "0.2", "key", "Return")


def the_menu_fetches_an_update_that_is_signed_and_no_other(scene):
    signs = DESKTOP.parent / "examples" / "offer"
    if not has_gi() or not signs.exists():
        return skipped("updates", "the system's Python has no gi" if signs.exists() else f"there is no {signs}, as cargo test builds it")
    image = appimage(scene)
    if image is None:
        return
    old = image.read_bytes()
    newer = old + b"\n"
    (image.parent / "newer").write_bytes(newer)
    offer = json.loads(subprocess.run([signs, image.parent / "newer", "9.0.0"], capture_output=True, text=True, check=True).stdout)
    place, bus = Place(), Bus()
    try:
        scene.environment |= {"HEPH_UPDATE_ADDRESS": f"{place.address}/offer.json", "HEPH_UPDATE_KEY": offer["key"]}
        window = Window(image, scene.environment)
        scene.windows.append(window)
        window.shown(".composer textarea")
        wait("the engine", lambda: scene.asked("GET", "/heph/v1/status")["model"])
        kept = scene.home / "window" / "window.json"
        # A slow machine loses a press.
        wait("leave to look for updates", lambda: help_line(1) or wait("the setting", lambda: json.loads(kept.read_text())["updates"], patience=5))
        claim("a person who allows updates has asked nobody yet", place.asked == [], place.asked)
        bodies = lambda: [note["body"] for note in bus.said("notification")]

        def looked():
            """Presses the line until something is said; what that is."""
            count = len(bodies())
            return wait("what came of it", lambda: help_line(2) or wait("a notification", lambda: bodies()[count:], patience=10))[0]

        place.offers("9.0.0", offer["another"], newer)
        place.open.clear()
        wait("the place is asked", lambda: help_line(2) or wait("a question", lambda: place.asked, patience=5))
        help_line(2)
        time.sleep(1)
        claim("a line that is pressed twice asks once", place.asked == ["/offer.json"], place.asked)
        place.open.set()
        said = wait("what came of it", lambda: bodies()[-1:])[0]
        claim("a newer version with another's signature is not taken, and the person hears of it",
              "signature is wrong" in said and place.asked == ["/offer.json", "/new"] and image.read_bytes() == old, (said, place.asked))
        place.offers("9.0.0", offer["signature"], newer[:-1] + b"\t")
        claim("nor is a file that was changed", "signature is wrong" in looked() and image.read_bytes() == old, bodies()[-1])
        place.offers("9.0.1", offer["signature"], newer)
        claim("nor one under another version than it was signed for", "signature is wrong" in looked() and image.read_bytes() == old, bodies()[-1])
        place.offers("0.0.9", offer["signature"], newer)
        claim("an older one is not fetched", "newest" in looked() and place.asked[-1] == "/offer.json", bodies()[-1])

        place.offers("9.0.0", offer["signature"], newer)
        before = len(place.asked)
        scene.asked("PUT", "/heph/v1/policy", {"cut": True})
        claim("where everything is cut off, the place is not asked", "No update was looked for" in looked() and len(place.asked) == before, bodies()[-1])
        scene.asked("PUT", "/heph/v1/policy", {"cut": False})
        forbids = scene.home / "window" / "no-updates"
        forbids.touch()
        claim("nor where a file forbids it", "No update was looked for" in looked() and len(place.asked) == before, bodies()[-1])
        forbids.unlink()

        claim("a newer version with a right signature is in the old one's place",
              "new version" in looked() and image.read_bytes() == newer and os.access(image, os.X_OK), bodies()[-1])
        claim("the window that fetched it goes on", len(answered(window, STORY, 1)) > 40)
        window.end()
        wait("the end", lambda: not list((image.parent / "tmp").glob(".mount_heph-*")))
        again = Window(image, scene.environment)
        scene.windows.append(again)
        claim("and the newer one starts", again.shown(".composer textarea") is not None)
    finally:
        place.end()
        bus.end()


def a_link_comes_to_the_window_that_is_shown_for_it(scene):
    window = scene.window()
    quick = wait("the small window", lambda: small() or xdotool("key", "ctrl+shift+space"), pause=2)
    # Its page is there, and asks for links as every page does.
    time.sleep(2)
    xdotool("windowfocus", quick[0], "sleep", "0.3", "key", "Escape")
    wait("only the first window", lambda: not small())
    field = "main form textarea"
    came = lambda ticket: wait("the ticket", lambda: window.run("return document.querySelector(arguments[0]).value", field) == ticket, patience=10)
    tickets = [f"heph1ticket{number}" for number in range(8)]
    try:
        shown = [scene.second(f"heph://join/{ticket}").returncode == 0 and came(ticket) for ticket in tickets]
    except Missing as missing:
        shown = [missing]
    claim("with other windows there, every link comes to the first", shown == [True] * len(tickets), shown)
    hostile = [
        "heph://join/" + "a" * 100_000, "heph://join/%00", "heph://join/..%2f..%2fetc", "heph://join/a%0d%0ab", "heph://join/\u202eabc",
        "heph://join/</script><script>alert(1)</script>", "heph://join/a';alert(1)//", "heph:javascript:alert(1)", "heph://join/a#b?c=d\n",
        "javascript:alert(1)", "file:///etc/passwd", "--", "--help", "", b"heph://join/\xff\xfe", b"\xff",
    ]
    codes = [scene.second(link).returncode for link in hostile]
    claim("hostile links and words open nothing, and break nothing",
          not any(codes) and window.run("return document.querySelector(arguments[0])?.value", field) == tickets[-1] and len(scene.processes(None)) == 1 and len(seen()) == 1
          and scene.asked("GET", "/heph/v1/nodes")["nodes"] == [], (codes, window.run("return document.querySelector(arguments[0])?.value", field)))
    window.end()
    wait("the end", lambda: not scene.processes(None))
    process = subprocess.Popen([str(scene.programs / DESKTOP.name), b"\xff"], env=scene.environment, stderr=subprocess.DEVNULL)
    scene.others.append(process)
    wait("the window", seen)
    wait("the engine", lambda: scene.asked("GET", "/heph/v1/status")["model"])
    # By then it has told the system who opens links.
    time.sleep(6)
    claim("a window that is started with a word that is no text opens", process.poll() is None and len(seen()) == 1)


def starts_at_once_are_one_window(scene):
    for _ in range(4):
        starts = [subprocess.Popen([str(scene.programs / DESKTOP.name), *words], env=scene.environment, stderr=subprocess.DEVNULL)
                  for words in ([], ["heph://join/heph1together"], [])]
        scene.others += starts
        alive = lambda: [start for start in starts if start.poll() is None]
        wait("one that stays", lambda: len(alive()) == 1)
        wait("its window", seen)
        wait("the engine", lambda: scene.asked("GET", "/heph/v1/status")["model"])
        # A second window would be there by now, and a second engine gone.
        time.sleep(2)
        ended = [start.returncode for start in starts if start.returncode is not None]
        engines = [entry for entry in scene.left() if program_of(entry).endswith("/heph")]
        claim("three starts at once are one window with one engine", len(seen()) == 1 and len(alive()) == 1 and ended == [0, 0]
              and len(scene.processes("serve")) == 1 and scene.door()["pid"] in scene.processes("serve"), (seen(), ended, engines))
        (first,) = alive()
        first.terminate()
        first.wait()
        wait("the end", lambda: not scene.left())


def odd_files_are_dragged_onto_the_window(scene):
    if not has_gi("import gi; gi.require_version('Gtk', '3.0'); from gi.repository import Gtk"):
        return skipped("dragging", "the system's Python has no Gtk 3")
    window = scene.window()
    work = pathlib.Path(scene.work.name) / "files"
    work.mkdir()
    (work / "notes with ü.txt").write_text("Foxes sleep.")
    (work / "zeros").write_bytes(bytes(1000))
    (work / "long.txt").write_text("word " * 400_000)
    (work / "<img src=x onerror=alert(1)>.txt").write_text("quiet")
    os.mkfifo(work / "pipe")
    (work / "endless").symlink_to("/dev/zero")
    (work / "gone").symlink_to(work / "nowhere")
    odd = b"odd-\xff.txt"
    (pathlib.Path(os.fsdecode(os.fsencode(work) + b"/" + odd))).write_text("odd")
    (work / "folder").mkdir()

    def dragged(*names):
        """Drags these files onto the middle of the window, as a person does."""
        addresses = [f"file://{urllib.parse.quote(os.fsencode(work) + b'/' + os.fsencode(name))}" for name in names]
        source = subprocess.Popen([SYSTEM_PYTHON, str(pathlib.Path(__file__).with_name("drag.py")), *addresses],
                                  env=scene.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            wait("what is dragged", lambda: xdotool("search", "--onlyvisible", "--name", "^files$"))
            xdotool("sleep", "0.5", "mousemove", "1300", "840", "mousedown", "1")
            for step in range(21):
                xdotool("mousemove", str(1300 - 35 * step), str(840 - 20 * step), "sleep", "0.03")
            xdotool("sleep", "0.5", "mouseup", "1")
            wait("the end of it", lambda: source.stdout.readline() == "ended\n", patience=10)
        finally:
            source.kill()
            source.wait()

    attached = lambda: window.run("return [...document.querySelectorAll('.composer li bdi')].map((name) => name.textContent)")
    notes = lambda: window.run("return [...document.querySelectorAll('.composer .note')].map((note) => note.textContent)")
    dragged("notes with ü.txt", "<img src=x onerror=alert(1)>.txt")
    wait("the files", lambda: len(attached()) == 2)
    claim("files that are dragged onto the window go to the question, whatever their names are",
          attached() == ["notes with ü.txt", "<img src=x onerror=alert(1)>.txt"], attached())
    dragged("zeros", "long.txt", "pipe", "endless", "gone", odd)
    wait("what was said of them", lambda: len(notes()) == 6)
    said = sorted(note.split(maxsplit=1)[1] for note in notes())
    claim("of each that cannot be taken it is said why, and nothing waits for a pipe",
          [sum(word in note for note in said) for word in ("is not text", "is larger", "cannot be read")] == [1, 1, 4] and len(attached()) == 2, said)
    window.run("location.hash = '#/settings'")
    wait("another page", lambda: window.count(".composer") == 0)
    dragged("notes with ü.txt")
    claim("what is dragged onto another page goes to the question, too",
          wait("the file", lambda: attached()[-1:]) == ["notes with ü.txt"] and "#/chat" in window.run("return location.hash"))
    dragged("folder")
    filled = "return [...document.querySelectorAll('input')].some((field) => field.value === arguments[0])"
    claim("a folder goes to the page of folders", wait("the folder", lambda: window.run(filled, str(work / "folder"))))
    claim("the window lives", len(scene.processes(None)) == 1 and window.run("return window.bad === undefined"))


def an_engine_that_is_killed_thrice_in_one_answer_gives_it_whole(scene):
    window = scene.window()
    long = {**STEADY, "tokensMax": 700}
    anew(window, long)
    whole = answered(window, STORY, 1)

    def thrice():
        """Kills three engines while they give the same answer; nothing where one of them was faster."""
        fresh(window)
        window.write(".composer textarea", STORY + ENTER)
        killed = []
        while len(killed) < 3:
            (engine,) = wait("an engine", lambda: [engine for engine in scene.processes("serve") if engine not in killed], pause=0.01)
            wait("it works", lambda: window.count(".went") > 0 or scene.asked("GET", "/heph/v1/status")["requests"]["running"] > 0, pause=0.01)
            os.kill(engine, signal.SIGSTOP)
            time.sleep(0.3)
            if window.count(".went") > 0:
                os.kill(engine, signal.SIGCONT)
                return None
            os.kill(engine, signal.SIGKILL)
            killed.append(engine)
        return killed

    killed = None
    for _ in range(20):
        killed = killed or thrice()
    wait("the whole answer", lambda: window.count(".went") == 1)
    text = window.text(".turn.assistant .text")
    claim("an answer whose engine is killed three times comes whole, with the same words", killed is not None and text == whole,
          f"{killed}, {len(text)} of {len(whole)} letters")
    claim("nothing is said of it any more", wait("no banner", lambda: window.count(".banner") == 0))


def a_policy_that_cannot_be_read_lets_nothing_leave(scene):
    policy = scene.home / "policy.toml"
    policy.write_text("preset = \"open\"\n[[rules\n")
    window = scene.window()
    stands = scene.asked("GET", "/heph/v1/policy")
    claim("the page opens, and its shield says that nothing leaves", stands["by"] == "unread"
          and wait("the shield", lambda: window.count("header button.shield.local-only, header button.shield.unknown, header button.shield.cut") == 1), stands)
    window.click("header button.shield")
    claim("it says that the policy cannot be read", wait("the reason", lambda: "policy" in (window.text("header .bad") or "").lower()), window.text("header .bad"))
    claim("an answer comes from here", len(answered(window, STORY, 1)) > 40)


def a_full_disk_is_told_and_costs_nothing_that_can_be_kept_later(scene):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "heph-full", scene.home], capture_output=True, text=True, check=False)
    if mounted.returncode:
        return skipped("a full disk", mounted.stderr.strip())
    try:
        window = scene.window()
        answered(window, "What is the capital of France?", 1)
        chat = wait("the chat", lambda: scene.asked("GET", "/heph/v1/chats")["chats"])[0]["id"]
        turns = lambda: len(scene.asked("GET", f"/heph/v1/chats/{chat}")["body"]["messages"])
        wait("what was said", lambda: turns() == 2)
        fills(scene.home)
        text = answered(window, STORY, 2)
        said = wait("the warning", lambda: window.text(".foot .warn"))
        claim("on a full disk an answer comes, and the page says that the chat is not kept", len(text) > 40 and "not kept" in said and turns() < 4, (said, len(text), turns()))
        (scene.home / "filler").unlink()
        claim("once there is room it is kept, and nothing is said any more",
              wait("no warning", lambda: window.count(".foot .warn") == 0 and turns() == 4), turns())
        window.end()
        wait("the end", lambda: not scene.left())
        fills(scene.home)
        window = Window(scene.programs / DESKTOP.name, scene.environment)
        scene.windows.append(window)
        # It is asked for a press once it was tried often enough.
        why = wait("the reason", lambda: window.run("return document.getElementById('again')?.hidden === false") and window.text("#why"))
        claim("a window that cannot start on a full disk says so, in words", "full" in why and "{" not in why, why)
        (scene.home / "filler").unlink()
        window.click("#again")
        window.shown(".composer textarea")
        claim("and starts once there is room, with all that was kept",
              wait("the chat", lambda: window.count(".history li a") > 0 and turns() == 4) and len(answered(window, STORY, 1)) > 40)
        window.end()
        wait("the end", lambda: not scene.left())
    finally:
        for window in scene.windows:
            window.end()
        wait("the disk is free", lambda: subprocess.run(["umount", scene.home], capture_output=True, check=False).returncode == 0)


def fills(folder):
    """Takes all room that there is."""
    with open(folder / "filler", "wb", buffering=0) as filler:
        for size in (1 << 20, 4096, 1):
            try:
                while filler.write(bytes(size)):
                    pass
            except OSError:
                continue


SCENES = [
    an_answer_comes_without_a_network,
    an_answer_can_be_stopped,
    an_engine_that_is_killed_is_begun_anew_and_the_answer_goes_on,
    another_machine_is_met_by_a_link_and_may_die_in_an_answer,
    an_engine_that_does_not_start_is_explained,
    a_window_joins_a_door_that_is_open,
    there_is_one_window_and_links_come_to_it,
    the_page_may_ask_the_window_only_what_is_meant_for_it,
    what_is_dropped_goes_to_the_question_or_to_the_folders,
    a_private_folder_is_asked_about_and_nothing_of_it_leaves,
    several_windows_open_and_close_by_their_keys,
    a_page_whose_process_falls_is_loaded_anew,
    it_starts_with_the_computer_where_that_is_wished,
    a_quick_question_has_a_window_of_its_own,
    a_system_without_a_tray_has_a_window,
    this_computer_is_shared_within_the_bounds_of_the_page,
    the_tray_cuts_off_and_lends,
    a_link_comes_to_the_window_that_is_shown_for_it,
    starts_at_once_are_one_window,
    odd_files_are_dragged_onto_the_window,
    an_engine_that_is_killed_thrice_in_one_answer_gives_it_whole,
    a_policy_that_cannot_be_read_lets_nothing_leave,
    a_full_disk_is_told_and_costs_nothing_that_can_be_kept_later,
    the_menu_fetches_an_update_that_is_signed_and_no_other,
    an_appimage_is_one_file_with_everything_in_it,
    the_package_and_the_folder_hold_all_that_is_needed,
]


def inside(words):
    for scene in SCENES:
        if words and not any(word in scene.__name__ for word in words):
            continue
        began = time.monotonic()
        try:
            with Scene() as there:
                scene(there)
        except (Missing, Said, OSError, subprocess.SubprocessError, http.client.HTTPException, KeyError, ValueError) as error:
            claim(scene.__name__.replace("_", " "), False, repr(error))
        print(f"       {time.monotonic() - began:.1f} s", flush=True)
    print(f"{len(PASSED)} passed, {len(FAILED)} failed, {len(SKIPPED)} skipped")
    return 1 if FAILED else 0


def main(words):
    why = why_not()
    if why:
        print(why)
        return 2
    if words == ["--can-run"]:
        return 0
    if os.environ.get(INSIDE):
        return inside(words)
    return on_a_screen([sys.executable, __file__, *words])


def on_a_screen(command):
    """Runs `command` with a screen and a bus of its own, so that nobody's desktop is touched."""
    read, write = os.pipe()
    screen = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "1400x900x24", "-nolisten", "tcp"], pass_fds=[write],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(write)
    try:
        with os.fdopen(read) as told:
            display = told.readline().strip()
        environment = {**os.environ, INSIDE: "1", "DISPLAY": f":{display}"}
        environment.pop("WAYLAND_DISPLAY", None)
        return subprocess.run(["dbus-run-session", "--", *command], env=environment, check=False).returncode
    finally:
        screen.terminate()
        screen.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
