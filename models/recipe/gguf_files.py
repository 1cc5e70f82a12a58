"""Writes a trained checkpoint as GGUF and reads one back into torch.

    python gguf_files.py CHECKPOINT TOKENIZER.json|MODEL.gguf OUT.gguf "NAME" CONTEXT [Q8_0|F16|F32]

llama-architecture files hold the rows of q and k interleaved, (2i, 2i+1) instead of (i, i + half): `interleave` and `halve` go between.
"""
import json
import sys

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import corpus
import llama

TEMPLATE = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
NAMES = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v",
         "o_proj": "attn_output", "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}


def interleave(w, heads):
    return w.reshape(heads, 2, -1, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def halve(w, heads):
    return w.reshape(heads, -1, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def write(checkpoint, tokenizer, out, name, context, kind="Q8_0"):
    saved = torch.load(checkpoint, weights_only=False)
    s, state = saved["shape"], saved["model"]
    w = gguf.GGUFWriter(out, "llama")
    w.add_name(name)
    w.add_description("Short simple stories and small talk; comes with HEPH.")
    w.add_license("MIT OR Apache-2.0")
    w.add_languages(["en"])
    w.add_size_label(f"{sum(p.numel() for p in state.values()) / 1e6:.1f}M")
    w.add_file_type({"Q8_0": 7, "F16": 1, "F32": 0}[kind])
    w.add_quantization_version(2)
    w.add_vocab_size(s.vocab)
    w.add_context_length(int(context))
    w.add_embedding_length(s.dim)
    w.add_block_count(s.layers)
    w.add_feed_forward_length(s.ffn)
    w.add_head_count(s.heads)
    w.add_head_count_kv(s.kv_heads)
    w.add_key_length(s.head_dim)
    w.add_value_length(s.head_dim)
    w.add_rope_dimension_count(s.head_dim)
    w.add_rope_freq_base(s.theta)
    w.add_layer_norm_rms_eps(s.eps)
    t = json.loads(tokenizer_of(tokenizer).to_str())["model"]
    tokens = [None] * s.vocab
    for text, i in t["vocab"].items():
        tokens[i] = text
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(tokens)
    w.add_token_types([gguf.TokenType.CONTROL if i < 3 else gguf.TokenType.NORMAL for i in range(s.vocab)])
    w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in t["merges"]])
    w.add_bos_token_id(0)
    w.add_eos_token_id(2)
    w.add_pad_token_id(0)
    w.add_eot_token_id(2)
    w.add_add_bos_token(False)
    w.add_chat_template(TEMPLATE)

    def tensor(label, x):
        x = x.float().numpy()
        quant = gguf.GGMLQuantizationType[kind] if x.ndim == 2 else gguf.GGMLQuantizationType.F32
        w.add_tensor(label, gguf.quants.quantize(np.ascontiguousarray(x), quant), raw_dtype=quant)

    tensor("token_embd.weight", state["embed_tokens.weight"])
    for i in range(s.layers):
        for ours, theirs in NAMES.items():
            x = state[f"layers.{i}.{ours}.weight"]
            if ours in ("q_proj", "k_proj"):
                x = interleave(x, s.heads if ours == "q_proj" else s.kv_heads)
            tensor(f"blk.{i}.{theirs}.weight", x)
    tensor("output_norm.weight", state["norm.weight"])
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def read(path):
    """The model of a GGUF file, its weights as the file's codes stand for."""
    r = gguf.GGUFReader(path)
    field = lambda k: r.fields["llama." + k].contents()
    tensors = {t.name: torch.from_numpy(gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32)) for t in r.tensors}
    s = llama.Shape(vocab=tensors["token_embd.weight"].shape[0], dim=field("embedding_length"), layers=field("block_count"),
                    heads=field("attention.head_count"), kv_heads=field("attention.head_count_kv"), ffn=field("feed_forward_length"),
                    head_dim=field("rope.dimension_count"), theta=field("rope.freq_base"), eps=field("attention.layer_norm_rms_epsilon"))
    model, state = llama.Llama(s), {"embed_tokens.weight": tensors["token_embd.weight"], "norm.weight": tensors["output_norm.weight"]}
    for i in range(s.layers):
        for ours, theirs in NAMES.items():
            x = tensors[f"blk.{i}.{theirs}.weight"]
            state[f"layers.{i}.{ours}.weight"] = halve(x, s.heads if ours == "q_proj" else s.kv_heads) if ours in ("q_proj", "k_proj") else x
    model.load_state_dict(state)
    return model.eval()


def tokenizer_of(path):
    """The tokenizer of a `tokenizer.json`, or the one inside a GGUF file."""
    if path.endswith(".json"):
        return Tokenizer.from_file(path)
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(corpus.SPECIALS)
    return tokenizer


if __name__ == "__main__":
    write(*sys.argv[1:])
