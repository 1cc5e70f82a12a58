"""A Llama in plain torch, in the Hugging Face layout of names and rotary halves: the form both models are trained in."""
import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Shape:
    vocab: int = 4096
    dim: int = 512
    layers: int = 4
    heads: int = 8
    kv_heads: int = 4
    head_dim: int = 64
    ffn: int = 1024
    theta: float = 10000.0
    eps: float = 1e-5


TARGET = Shape()
DRAFT = Shape(dim=128, layers=2, heads=4, kv_heads=2, head_dim=32, ffn=384)


class Norm(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class Layer(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.s = s
        linear = lambda i, o: nn.Linear(i, o, bias=False)
        self.input_layernorm, self.post_attention_layernorm = Norm(s.dim, s.eps), Norm(s.dim, s.eps)
        self.q_proj, self.k_proj = linear(s.dim, s.heads * s.head_dim), linear(s.dim, s.kv_heads * s.head_dim)
        self.v_proj, self.o_proj = linear(s.dim, s.kv_heads * s.head_dim), linear(s.heads * s.head_dim, s.dim)
        self.gate_proj, self.up_proj, self.down_proj = linear(s.dim, s.ffn), linear(s.dim, s.ffn), linear(s.ffn, s.dim)
        for m in (self.q_proj, self.k_proj, self.v_proj, self.gate_proj, self.up_proj):
            nn.init.normal_(m.weight, std=0.5 / math.sqrt(s.dim))
        for m in (self.o_proj, self.down_proj):
            nn.init.zeros_(m.weight)

    def forward(self, x, cos, sin, past=None):
        s, (n, t, _) = self.s, x.shape
        h = self.input_layernorm(x)
        q = rotate(self.q_proj(h).view(n, t, s.heads, s.head_dim).transpose(1, 2), cos, sin)
        k = rotate(self.k_proj(h).view(n, t, s.kv_heads, s.head_dim).transpose(1, 2), cos, sin)
        v = self.v_proj(h).view(n, t, s.kv_heads, s.head_dim).transpose(1, 2)
        if past is not None:
            k, v = torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)
        groups = s.heads // s.kv_heads
        o = F.scaled_dot_product_attention(q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1), is_causal=past is None)
        x = x + self.o_proj(o.transpose(1, 2).reshape(n, t, -1))
        h = self.post_attention_layernorm(x)
        x = x + self.down_proj(F.silu(self.gate_proj(h)) * self.up_proj(h))
        return x, (k, v)


class Llama(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab, shape.dim)
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.dim, shape.eps)

    def forward(self, ids, past=None):
        """Logits (rows, tokens, vocab); with `past` (one (k, v) a layer) only one new token a row, and the new past."""
        start = past[0][0].shape[2] if past else 0
        angle = torch.arange(start, start + ids.shape[1]).float()[:, None] * self.shape.theta ** (
            -torch.arange(0, self.shape.head_dim, 2).float() / self.shape.head_dim)
        cos, sin = (t.to(self.embed_tokens.weight.dtype) for t in (angle.cos(), angle.sin()))
        x, kept = self.embed_tokens(ids), []
        for i, layer in enumerate(self.layers):
            x, kv = layer(x, cos, sin, past[i] if past else None)
            kept.append(kv)
        return F.linear(self.norm(x), self.embed_tokens.weight), kept


def grown(model, layers):
    """The same function with more layers: each new one is a copy whose outputs start at zero."""
    state = model.state_dict()
    shape = Shape(**{**asdict(model.shape), "layers": layers})
    bigger, old = Llama(shape), model.shape.layers
    out = {k: v for k, v in state.items() if not k.startswith("layers.")}
    for i in range(layers):
        for name in (k.split(".", 2)[2] for k in state if k.startswith("layers.0.")):
            w = state[f"layers.{i % old}.{name}"].clone()
            if i >= old and name in ("o_proj.weight", "down_proj.weight"):
                w.zero_()
            out[f"layers.{i}.{name}"] = w
    bigger.load_state_dict(out)
    return bigger
