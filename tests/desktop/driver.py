"""WebKit's driver, as far as the tests of the window need it: plain HTTP and JSON."""

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import time

# A machine under load needs this long for what takes a second elsewhere.
PATIENCE = 60

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
ENTER = "\ue007"


class Missing(AssertionError):
    """What was waited for did not come."""


def wait(what, holds, patience=PATIENCE, pause=0.05):
    """The first true value of `holds`, which may fail meanwhile."""
    until, last = time.monotonic() + patience, None
    while time.monotonic() < until:
        try:
            last = holds()
            if last:
                return last
        except (OSError, ValueError, KeyError, IndexError, http.client.HTTPException, Missing, Said) as error:
            last = error
        time.sleep(pause)
    raise Missing(f"{what}: {last!r}")


def free_port():
    """A port that nobody has now, below those that a system gives to outgoing connections."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise Missing("a free port")


class Said(Exception):
    """The driver said no."""


class Window:
    """The window's program under the driver."""

    def __init__(self, program, environment, arguments=()):
        automation = {"TAURI_AUTOMATION": "true", "TAURI_WEBVIEW_AUTOMATION": "true"}
        self.session = None
        # Between asking for a free port and taking it, another program may have it: the driver ends then.
        for left in reversed(range(5)):
            self.port = free_port()
            self.driver = subprocess.Popen(
                ["WebKitWebDriver", f"--port={self.port}"], env={**environment, **automation},
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if wait("the driver", lambda: self.driver.poll() is not None or self.ask("GET", "/status")) is not True:
                break
            if left == 0:
                raise Missing(f"the driver: it ended with {self.driver.returncode} five times")
        options = {"binary": str(program), "args": list(arguments)}
        wanted = {"capabilities": {"alwaysMatch": {"webkitgtk:browserOptions": options}}}
        self.session = self.ask("POST", "/session", wanted)["sessionId"]

    def ask(self, method, path, body=None, patience=PATIENCE):
        """What the driver answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=patience)
        whole = path if self.session is None else f"/session/{self.session}{path}"
        try:
            text = None if method == "GET" else json.dumps(body or {})
            connection.request(method, whole, text, {"content-type": "application/json"})
            answer = connection.getresponse()
            value = json.loads(answer.read())["value"]
        finally:
            connection.close()
        if answer.status != 200:
            raise Said(value.get("error", ""), value.get("message", ""))
        return value

    def run(self, script, *arguments):
        """What `script` returns in the page."""
        return self.ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def text(self, selector):
        """The text of the last element of `selector`; `None` where there is none."""
        return self.run("const all = document.querySelectorAll(arguments[0]); return all.length ? all[all.length - 1].innerText : null", selector)

    def count(self, selector):
        return self.run("return document.querySelectorAll(arguments[0]).length", selector)

    def shown(self, selector, patience=PATIENCE):
        """Waits for an element of `selector`, and gives it."""
        found = wait(selector, lambda: self.ask("POST", "/elements", {"using": "css selector", "value": selector}), patience)
        return found[-1][ELEMENT]

    def click(self, selector):
        self.reach(selector, "click")

    def write(self, selector, words):
        self.reach(selector, "value", {"text": words})

    def reach(self, selector, what, body=None):
        """Does something with an element, once it is there and can be reached: one that is drawn anew just then is none."""
        def done():
            self.ask("POST", f"/element/{self.shown(selector)}/{what}", body)
            return True

        wait(f"{what} of {selector}", done)

    def windows(self):
        return self.ask("GET", "/window/handles")

    def to(self, handle):
        self.ask("POST", "/window", {"handle": handle})

    def end(self):
        """Closes the window and its driver."""
        programs = list(children(self.driver.pid))
        try:
            self.ask("DELETE", "", patience=10)
        except (OSError, Said, http.client.HTTPException, ValueError):
            pass
        self.driver.terminate()
        try:
            self.driver.wait(10)
        except subprocess.TimeoutExpired:
            self.driver.kill()
            self.driver.wait()
        for program in programs:
            try:
                # The driver does not always come to it.
                os.kill(program, signal.SIGTERM)
            except ProcessLookupError:
                pass


def children(process):
    """The programs that `process` began, by their number: the words of their command lines."""
    found = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/stat") as stat:
                # The name stands in brackets and may hold blanks.
                parent = int(stat.read().rpartition(")")[2].split()[1])
            with open(f"/proc/{entry}/cmdline", "rb") as line:
                words = line.read().decode(errors="replace").split("\0")
        except (OSError, ValueError, IndexError):
            continue
        if parent == process:
            found[int(entry)] = words
    return found
