"""Lines of raw figures, one JSON object each, from which tables are made."""
import datetime
import json
import platform


def keep(raw, kind, **numbers):
    """Adds a line to the file `raw`, with the time and the processor, and prints it."""
    line = {"kind": kind, "at": datetime.datetime.now().isoformat(timespec="seconds"), "cpu": cpu()} | numbers
    with raw.open("a") as out:
        out.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


def cpu():
    """The processor's name."""
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
