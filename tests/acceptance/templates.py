#!/usr/bin/env python3
"""Feeds the outside chat-template cases to `heph render` and scores the answers.

usage: templates.py FOLDER HEPH   (FOLDER holds cases.dev.jsonl, templates.dev.json and score_templates.py)
"""

import json
import pathlib
import subprocess
import sys
import tempfile

ASKED = ("id", "messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "kwargs", "now")


def question(case, sources):
    """The line that `heph render` reads for one case."""
    fields = {name: case.get(name) for name in ASKED}
    return json.dumps({**fields, "template": sources[case["template"]]}, ensure_ascii=False)


def main(folder, heph):
    folder = pathlib.Path(folder)
    sources = json.loads((folder / "templates.dev.json").read_text(encoding="utf-8"))
    cases = [json.loads(line) for line in (folder / "cases.dev.jsonl").open(encoding="utf-8")]
    lines = "".join(question(case, sources) + "\n" for case in cases)
    answers = subprocess.run([heph, "render"], input=lines.encode(), stdout=subprocess.PIPE, check=True).stdout
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        file.write(answers)
        file.flush()
        score = [sys.executable, folder / "score_templates.py", folder / "cases.dev.jsonl", file.name, "--show", "5"]
        return subprocess.run(score).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
