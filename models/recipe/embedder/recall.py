"""How often the right passage of a chapter is among the first k: BM25, the vectors of a run, and both fused.

    python recall.py BOOKS.jsonl.xz WORDNET_FOLDER VOCABULARY.txt RUN_FOLDER [LAYERS]

For books that were not trained on. A query is one sentence of a window of three, as it is or recalled in other words; the window is searched without it.
"""
import collections
import math
import random
import re
import sys

import jax
import numpy as np

import pairs
import train


def bm25(queries, passages):
    cut = lambda words: re.findall(r"[a-z0-9]+", " ".join(words).lower())
    docs = [collections.Counter(cut(p)) for p in passages]
    mean = sum(sum(d.values()) for d in docs) / len(docs)
    holding = collections.Counter(t for d in docs for t in d)
    scores = np.zeros((len(queries), len(docs)))
    for i, q in enumerate(queries):
        for t in set(cut(q)) - pairs.STOP:
            idf = math.log(1 + (len(docs) - holding[t] + 0.5) / (holding[t] + 0.5))
            for j, d in enumerate(docs):
                if t in d:
                    scores[i, j] += idf * d[t] * 2.2 / (d[t] + 1.2 * (0.25 + 0.75 * sum(d.values()) / mean))
    return scores


def places(scores):
    """Where the right one stands; among equals, in the middle."""
    right = np.diag(scores)[:, None]
    return (scores > right).sum(1) + ((scores == right).sum(1) - 1) // 2


def fused(*lists):
    ranks = [np.argsort(np.argsort(-s, axis=1, kind="stable"), axis=1) for s in lists]
    return sum(1 / (10 + r) for r in ranks)


def main(books, net, vocabulary, run, layers=train.LAYERS):
    data = pairs.Pairs(books, net, vocabulary, 7)
    saved = np.load(f"{run}/state.npz")
    p = {k[2:]: jax.numpy.asarray(saved[k]) for k in saved if k.startswith("p/")}
    layers = int(layers)
    encode = jax.jit(lambda ids: train.encode(p, ids, 0, layers))
    found = collections.defaultdict(list)
    for chapter in data.chapters:
        windows = [chapter[i : i + 3] for i in range(0, len(chapter) - 2, 3)][:150]
        data.rng = random.Random(3)
        at = [data.rng.randrange(3) for _ in windows]
        passages = [[w for i, s in enumerate(window) if i != a for w in s] for window, a in zip(windows, at)]
        dense = lambda texts, most: np.asarray(encode(np.stack([data.ids(t, most) for t in texts])))
        vectors = dense(passages, 64)
        for kind in ["as it is", "other words"]:
            queries = [window[a][:30] if kind == "as it is" else data.query(window[a]) for window, a in zip(windows, at)]
            meaning, words = dense(queries, 48) @ vectors.T, bm25(queries, passages)
            for name, scores in [("BM25", words), ("vectors", meaning), ("fused", fused(words, meaning))]:
                found[kind, name].extend(places(scores))
    print("chapters:", len(data.chapters), "queries:", len(found["as it is", "BM25"]))
    for (kind, name), ranks in found.items():
        ranks = np.array(ranks)
        print(f"{kind:12} {name:8}" + "".join(f"  recall@{k} {np.mean(ranks < k):.3f}" for k in (1, 5, 10)))


if __name__ == "__main__":
    main(*sys.argv[1:])
