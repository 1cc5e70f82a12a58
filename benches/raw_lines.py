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
    """The processor's name, and its family and model where it has some: clouds call many by one name."""
    told = {}
    for line in open("/proc/cpuinfo"):
        name, _, value = line.partition(":")
        told.setdefault(name.strip(), value.strip())
    name = told.get("model name", platform.processor())
    return f"{name} (family {told['cpu family']}, model {told['model']})" if "cpu family" in told else name
