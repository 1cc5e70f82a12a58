"""Draws the losses of a run, by kind of pair.

    python plot.py RUN_FOLDER/loss.csv OUT.svg
"""
import csv
import sys

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt

# Steps that are drawn as one point.
POINT = 40


def main(path, out):
    rows = list(csv.reader(open(path)))
    figure, axes = plt.subplots(figsize=(7, 3.4))
    for stream in ["books", "wordnet", "records"]:
        own = [(int(r[0]), float(r[3])) for r in rows if r[1] == stream]
        points = [own[i : i + POINT] for i in range(0, len(own) - POINT + 1, POINT)]
        axes.plot([p[-1][0] for p in points], [sum(y for _, y in p) / len(p) for p in points], label=stream)
    turns = [int(b[0]) for a, b in zip(rows, rows[1:]) if a[2] != b[2]]
    for at in turns:
        axes.axvline(at, color="0.8", linewidth=0.8)
    axes.set(xlabel="step", ylabel="loss (nats)", yscale="log")
    axes.legend()
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    main(*sys.argv[1:])
