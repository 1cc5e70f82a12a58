"""Trains the embedder: a small BERT that brings a query near the passage it should find.

    python train.py BOOKS.jsonl.xz WORDNET_FOLDER VOCABULARY.txt OUT_FOLDER --words-until TIME --end TIME    (seconds since 1970)

Adam, in two stages. At first the layers are left out: a text is the mean of its tokens' rows, which costs a twentieth of a step and teaches which
words belong together. Then the layers come in, beginning as almost nothing, while the rate falls in a line until `--end`.
Writes `state.npz` every minute and `loss.csv`; goes on where a run stopped.
"""
import argparse
import functools
import math
import os
import time

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import jax
import jax.numpy as jnp
import numpy as np

import pairs

WIDTH, HEADS, LAYERS, INNER, CONTEXT, EPS = 192, 6, 2, 512, 512, 1e-12
STREAMS = ["books", "wordnet", "books", "records", "wordnet"]
TEMPERATURE, WARM_UP = 0.05, 100
# The rates of Adam without layers and with them.
WORDS_RATE, RATE = 3e-3, 1.2e-3
# How much the layers add at first, next to what they are given.
FAINT = 0.1


def start(vocab, key):
    normal = lambda shape, scale: scale * np.asarray(jax.random.normal(key_of(shape), shape), np.float32)
    counter = [0]

    def key_of(_):
        counter[0] += 1
        return jax.random.fold_in(key, counter[0])

    ones, zeros = (lambda n: np.ones(n, np.float32)), (lambda n: np.zeros(n, np.float32))
    p = {"token_embd.weight": normal((vocab, WIDTH), 0.05), "token_types.weight": normal((1, WIDTH), 0.01),
         "token_embd_norm.weight": ones(WIDTH), "token_embd_norm.bias": zeros(WIDTH), "positions": np.float32(0.02)}
    for l in range(LAYERS):
        for name, rows, columns in [("attn_q", WIDTH, WIDTH), ("attn_k", WIDTH, WIDTH), ("attn_v", WIDTH, WIDTH), ("attn_output", WIDTH, WIDTH),
                                    ("ffn_up", INNER, WIDTH), ("ffn_down", WIDTH, INNER)]:
            faint = FAINT if name in ("attn_output", "ffn_down") else 1
            p[f"blk.{l}.{name}.weight"] = normal((rows, columns), faint / math.sqrt(columns))
            p[f"blk.{l}.{name}.bias"] = zeros(rows)
        for name in ["attn_output_norm", "layer_output_norm"]:
            p[f"blk.{l}.{name}.weight"], p[f"blk.{l}.{name}.bias"] = ones(WIDTH), zeros(WIDTH)
    return p


def waves():
    """The rows of positions, up to one factor that is learned: sines, so that places past those seen in training are known too."""
    at = np.arange(CONTEXT)[:, None] / 10000 ** (np.arange(0, WIDTH, 2) / WIDTH)
    return np.concatenate([np.sin(at), np.cos(at)], 1).astype(np.float32)


WAVES = waves()


def norm(p, name, x):
    mean = x.mean(-1, keepdims=True)
    var = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(var + EPS) * p[name + ".weight"] + p[name + ".bias"]


def encode(p, ids, offset, layers):
    """Texts to vectors of length 1; `offset` shifts all positions. Without layers, as if they added nothing."""
    linear = lambda name, x: x @ p[name + ".weight"].T + p[name + ".bias"]
    batch, length = ids.shape
    real = (ids != 0).astype(jnp.float32)
    places = jax.lax.dynamic_slice(WAVES, (offset, 0), (length, WIDTH)) * p["positions"]
    x = norm(p, "token_embd_norm", p["token_embd.weight"][ids] + p["token_types.weight"][0] + places)
    hidden = (1 - real)[:, None, None, :] * -1e9
    for l in range(layers):
        split = lambda y: y.reshape(batch, length, HEADS, -1).transpose(0, 2, 1, 3)
        q, k, v = (split(linear(f"blk.{l}.attn_{n}", x)) for n in "qkv")
        weights = jax.nn.softmax(q @ k.swapaxes(2, 3) / math.sqrt(WIDTH // HEADS) + hidden, -1)
        mixed = (weights @ v).transpose(0, 2, 1, 3).reshape(batch, length, WIDTH)
        x = norm(p, f"blk.{l}.attn_output_norm", x + linear(f"blk.{l}.attn_output", mixed))
        inner = jax.nn.gelu(linear(f"blk.{l}.ffn_up", x), approximate=False)
        x = norm(p, f"blk.{l}.layer_output_norm", x + linear(f"blk.{l}.ffn_down", inner))
    if not layers:
        x = norm(p, f"blk.{LAYERS - 1}.layer_output_norm", x)
    mean = (x * real[..., None]).sum(1) / real.sum(1, keepdims=True)
    return mean / jnp.linalg.norm(mean, axis=1, keepdims=True)


def loss(p, queries, passages, offset, layers):
    """Each query against all passages, and each of its passages against all queries."""
    scores = encode(p, queries, offset, layers) @ encode(p, passages, offset, layers).T / TEMPERATURE
    rows = queries.shape[0]
    right = jnp.arange(rows)
    there = -jax.nn.log_softmax(scores, 1)[right, right]
    back = -jax.nn.log_softmax(scores[:, :rows], 0)[right, right]
    return (there + 0.5 * back).mean() / 1.5


@functools.partial(jax.jit, static_argnames="layers", donate_argnums=(0, 1, 2))
def step(p, m, v, n, rate, queries, passages, offset, layers):
    value, g = jax.value_and_grad(loss)(p, queries, passages, offset, layers)
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
    v = jax.tree.map(lambda v, g: 0.98 * v + 0.02 * g * g, v, g)
    down = lambda p, m, v: p - rate * (m / (1 - 0.9**n)) / (jnp.sqrt(v / (1 - 0.98**n)) + 1e-8)
    return jax.tree.map(down, p, m, v), m, v, value


def main():
    a = argparse.ArgumentParser()
    for name in ["books", "wordnet", "vocabulary", "out"]:
        a.add_argument(name)
    a.add_argument("--words-until", type=float, required=True)
    a.add_argument("--end", type=float, required=True)
    a.add_argument("--seed", type=int, default=1)
    a = a.parse_args()
    os.makedirs(a.out, exist_ok=True)
    data = pairs.Pairs(a.books, a.wordnet, a.vocabulary, a.seed)
    rng = np.random.default_rng(a.seed)
    p = start(data.tokenizer.get_vocab_size(), jax.random.key(a.seed))
    zero = lambda: {k: np.zeros_like(x) for k, x in p.items()}
    m, v, n, begin = zero(), zero(), 0, time.time()
    if os.path.exists(f"{a.out}/state.npz"):
        saved = np.load(f"{a.out}/state.npz")
        part = lambda name: {k: saved[name + k] for k in p}
        p, m, v, n, begin = part("p/"), part("m/"), part("v/"), int(saved["n"]), float(saved["begin"])
        data = pairs.Pairs(a.books, a.wordnet, a.vocabulary, a.seed + n)
    began = None
    written, log = time.time(), open(f"{a.out}/loss.csv", "a")
    while (now := time.time()) < a.end:
        stream = STREAMS[n % len(STREAMS)]
        queries, passages = data.batch(stream)
        n += 1
        layers = 0 if now < a.words_until else LAYERS
        began = n if layers and began is None else began
        left = (a.end - now) / (a.end - a.words_until)
        rate = RATE * max(0.02, left) * min(1, (n - began + 1) / WARM_UP) if layers else WORDS_RATE * min(1, n / WARM_UP)
        p, m, v, value = step(p, m, v, n, rate, queries, passages, int(rng.integers(0, CONTEXT - passages.shape[1])), layers)
        print(f"{n},{stream},{layers},{float(value):.4f},{now - begin:.0f}", file=log, flush=True)
        if now - written > 60:
            save(a.out, p, m, v, n, begin)
            written = now
    save(a.out, p, m, v, n, begin)
    print("steps:", n)


def save(out, p, m, v, n, begin):
    named = {letter + "/" + k: np.asarray(x) for letter, tree in (("p", p), ("m", m), ("v", v)) for k, x in tree.items()}
    np.savez(f"{out}/state.new.npz", n=n, begin=begin, **named)
    os.replace(f"{out}/state.new.npz", f"{out}/state.npz")


if __name__ == "__main__":
    main()
