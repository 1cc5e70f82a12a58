#!/usr/bin/env python3
"""Writes GGUF files with the shapes of real models and random weights, straight in the quantised format.

Speed depends on shapes, formats and bytes, not on what the weights say, so no model has to be downloaded and
nothing has to be quantised: codes and sub-scales are random bits, and each block's scale is chosen so that a
weight has the spread of a freshly initialised one. The mix of formats in Q4_K_M is the one llama.cpp writes
(Q6_K for the output, and for half of `attn_v` and `ffn_down`). The vocabulary is made up: right in size and
kind, with no words of any language.

    make_shapes.py SHAPE FORMAT OUT.gguf [--seed N]      SHAPE: tinyllama-1.1b, llama-3.2-1b, mistral-7b
                                                         FORMAT: Q4_K_M, Q8_0
needs numpy
"""
import argparse
import struct

import numpy as np

SHAPES = {
    "tinyllama-1.1b": dict(width=2048, layers=22, heads=32, kv_heads=4, inner=5632, vocabulary=32000,
                           context=4096, theta=1e4, eps=1e-5, tied=False, words="llama"),
    "llama-3.2-1b": dict(width=2048, layers=16, heads=32, kv_heads=8, inner=8192, vocabulary=128256,
                         context=131072, theta=5e5, eps=1e-5, tied=True, words="gpt2",
                         scaling=dict(factor=32.0, low=1.0, high=4.0, context=8192)),
    "mistral-7b": dict(width=4096, layers=32, heads=32, kv_heads=8, inner=14336, vocabulary=32000,
                       context=32768, theta=1e4, eps=1e-5, tied=False, words="llama"),
}

# GGML type number, weights per block, bytes per block
FORMATS = {"F32": (0, 1, 4), "Q8_0": (8, 32, 34), "Q4_K": (12, 256, 144), "Q6_K": (14, 256, 210)}

ALIGNMENT = 32
# Bytes made at a time: bounds the memory of this script.
CHUNK = 64 << 20


def tensors(shape, mix):
    """(name, rows, columns, format or "ones" or "divisors", spread of a weight)"""
    d, inner, layers = shape["width"], shape["inner"], shape["layers"]
    kv = d // shape["heads"] * shape["kv_heads"]
    base, fine = ("Q4_K", "Q6_K") if mix == "Q4_K_M" else ("Q8_0", "Q8_0")
    into, out = d ** -0.5, (2 * layers) ** -0.5
    yield "token_embd.weight", shape["vocabulary"], d, fine if shape["tied"] else base, into
    if "scaling" in shape:
        yield "rope_freqs.weight", 1, d // shape["heads"] // 2, "divisors", 0
    for i in range(layers):
        more = i < layers // 8 or i >= 7 * layers // 8 or (i - layers // 8) % 3 == 2
        precious = fine if more else base
        at = f"blk.{i}."
        yield at + "attn_norm.weight", 1, d, "ones", 0
        yield at + "attn_q.weight", d, d, base, into
        yield at + "attn_k.weight", kv, d, base, into
        yield at + "attn_v.weight", kv, d, precious, into
        yield at + "attn_output.weight", d, d, base, out * into
        yield at + "ffn_norm.weight", 1, d, "ones", 0
        yield at + "ffn_gate.weight", inner, d, base, into
        yield at + "ffn_up.weight", inner, d, base, into
        yield at + "ffn_down.weight", d, inner, precious, out * inner ** -0.5
    yield "output_norm.weight", 1, d, "ones", 0
    if not shape["tied"]:
        yield "output.weight", shape["vocabulary"], d, fine, into


def blocks(rng, form, count, spread):
    """`count` blocks of random weights around zero with the given standard deviation, as bytes."""
    size = FORMATS[form][2]
    raw = np.frombuffer(bytearray(rng.bytes(count * size)), np.uint8).reshape(count, size)
    half = lambda value: np.frombuffer(np.float16(value).tobytes(), np.uint8)
    if form == "Q8_0":  # weight = d * code, codes uniform in -128..127
        raw[:, 0:2] = half(spread / 73.9)
    elif form == "Q4_K":  # weight = d * scale * code - dmin * minimum; 6-bit scales, 4-bit codes
        # The mean of scale * code is 31.5 * 7.5, that of the minimum 31.5: dmin = 7.5 d centres the weights.
        d = spread / 274.0
        raw[:, 0:2], raw[:, 2:4] = half(d), half(7.5 * d)
    elif form == "Q6_K":  # weight = d * scale * code; signed 8-bit scales, codes in -32..31; d stands last
        raw[:, 208:210] = half(spread / (73.9 * 18.5))
    return raw.tobytes()


def divisors(shape):
    """What Llama 3 divides each rotary frequency by, so that far positions stay apart."""
    s, size = shape["scaling"], shape["width"] // shape["heads"]
    wave = 2 * np.pi * shape["theta"] ** (np.arange(0, size, 2) / size)
    smooth = np.clip((s["context"] / wave - s["low"]) / (s["high"] - s["low"]), 0, 1)
    return (1 / ((1 - smooth) / s["factor"] + smooth)).astype(np.float32)


def words(shape):
    """A made-up vocabulary as (key, value type, value): single bytes and numbered words."""
    n, kind = shape["vocabulary"], shape["words"]
    if kind == "llama":
        named = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
        types = [2, 3, 3] + [6] * 256
        yield "tokenizer.ggml.scores", "f32s", np.array([0.0] * 259 + [-float(i) for i in range(n - 259)])
    else:
        plain = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b]
        hidden = [b for b in range(256) if b not in plain]
        letters = [chr(b) for b in plain] + [chr(256 + i) for i in range(len(hidden))]
        yield "tokenizer.ggml.pre", "text", "llama-bpe"
        pairs = [(a, b) for a in "abcdefgh" for b in "abcdefgh"]
        yield "tokenizer.ggml.merges", "texts", [f"{a} {b}" for a, b in pairs]
        named = letters + [a + b for a, b in pairs]
        types = []
    space = "\u2581" if kind == "llama" else "\u0120"
    named += [f"{space}w{i}" for i in range(n - len(named))]
    types += [1] * (n - len(types))
    yield "tokenizer.ggml.model", "text", kind
    yield "tokenizer.ggml.tokens", "texts", named
    yield "tokenizer.ggml.token_type", "i32s", np.array(types)
    yield "tokenizer.ggml.bos_token_id", "u32", 1
    yield "tokenizer.ggml.eos_token_id", "u32", 2


def facts(name, shape, mix):
    """The metadata of the file as (key, value type, value)."""
    yield "general.architecture", "text", "llama"
    yield "general.name", "text", f"random weights, {name}"
    yield "general.file_type", "u32", {"Q4_K_M": 15, "Q8_0": 7}[mix]
    yield "general.quantization_version", "u32", 2
    for key, field in [("context_length", "context"), ("embedding_length", "width"), ("block_count", "layers"),
                       ("feed_forward_length", "inner"), ("attention.head_count", "heads"),
                       ("attention.head_count_kv", "kv_heads"), ("vocab_size", "vocabulary")]:
        yield "llama." + key, "u32", shape[field]
    yield "llama.rope.dimension_count", "u32", shape["width"] // shape["heads"]
    yield "llama.rope.freq_base", "f32", shape["theta"]
    yield "llama.attention.layer_norm_rms_epsilon", "f32", shape["eps"]
    yield from words(shape)


def text(value):
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def entry(key, kind, value):
    """One metadata entry in GGUF's binary form."""
    if kind == "u32":
        return text(key) + struct.pack("<II", 4, value)
    if kind == "f32":
        return text(key) + struct.pack("<If", 6, value)
    if kind == "text":
        return text(key) + struct.pack("<I", 8) + text(value)
    head, body = {
        "i32s": (5, lambda: np.asarray(value, "<i4").tobytes()),
        "f32s": (6, lambda: np.asarray(value, "<f4").tobytes()),
        "texts": (8, lambda: b"".join(map(text, value))),
    }[kind]
    return text(key) + struct.pack("<IIQ", 9, head, len(value)) + body()


def bytes_of(rows, columns, form):
    _, weights, size = FORMATS["F32" if form in ("ones", "divisors") else form]
    return rows * columns // weights * size


def write(name, mix, path, seed):
    shape = SHAPES[name]
    plan = list(tensors(shape, mix))
    entries = [entry(*fact) for fact in facts(name, shape, mix)]
    infos, offset = [], 0
    for tensor, rows, columns, form, _ in plan:
        vector = form in ("ones", "divisors")
        sizes = (columns,) if vector else (columns, rows)
        number = FORMATS["F32" if vector else form][0]
        infos.append(text(tensor) + struct.pack("<I", len(sizes)) + struct.pack(f"<{len(sizes)}Q", *sizes)
                     + struct.pack("<IQ", number, offset))
        offset += -(-bytes_of(rows, columns, form) // ALIGNMENT) * ALIGNMENT
    rng = np.random.Generator(np.random.SFC64(seed))
    with open(path, "wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, len(plan), len(entries)))
        file.write(b"".join(entries + infos))
        pad = lambda: file.write(bytes(-file.tell() % ALIGNMENT))
        pad()
        for _, rows, columns, form, spread in plan:
            if form == "ones":
                file.write(np.ones(columns, "<f4").tobytes())
            elif form == "divisors":
                file.write(divisors(shape).tobytes())
            else:
                _, weights, size = FORMATS[form]
                left = rows * columns // weights
                while left:
                    count = min(left, CHUNK // size)
                    file.write(blocks(rng, form, count, spread))
                    left -= count
            pad()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("format", choices=["Q4_K_M", "Q8_0"])
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    write(arguments.shape, arguments.format, arguments.out, arguments.seed)


if __name__ == "__main__":
    main()
