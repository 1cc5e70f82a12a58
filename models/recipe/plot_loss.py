"""Draws the loss curve of a run from its log.

    python plot_loss.py RUN/log.jsonl OUT.svg
"""
import json
import sys

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "heph"
from matplotlib import pyplot


def main(log, out):
    lines = [json.loads(line) for line in open(log)]
    figure, axes = pyplot.subplots(figsize=(7, 3.6))
    for key, label, style in (("loss", "target, training", "-"), ("held", "target, held out", "o-"), ("draft_loss", "draft, training (against the target)", "-"),
                              ("draft_held", "draft, held out", "o-")):
        points = [(l["tokens"] / 1e6, l[key]) for l in lines if key in l]
        if points:
            axes.plot(*zip(*points), style, label=label, linewidth=1, markersize=3)
    axes.set(xlabel="million tokens seen", ylabel="nats a token", ylim=(0, 6))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None})


main(*sys.argv[1:])
