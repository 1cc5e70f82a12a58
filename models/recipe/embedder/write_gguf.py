"""Writes a run as a GGUF file of the architecture bert, which llama.cpp reads too.

    python write_gguf.py VOCABULARY.txt RUN_FOLDER OUT.gguf
"""
import sys

import gguf
import numpy as np

import train

SPACE = "\u2581"


def main(vocabulary, run, out):
    saved = np.load(f"{run}/state.npz")
    p = {k[2:]: saved[k] for k in saved if k.startswith("p/")}
    pieces = open(vocabulary, encoding="utf-8").read().splitlines()
    w = gguf.GGUFWriter(out, "bert")
    w.add_name("HEPH Embed")
    w.add_description("Short English texts to vectors; comes with HEPH.")
    w.add_license("MIT OR Apache-2.0")
    w.add_languages(["en"])
    w.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    w.add_quantization_version(2)
    w.add_context_length(train.CONTEXT)
    w.add_embedding_length(train.WIDTH)
    w.add_block_count(train.LAYERS)
    w.add_feed_forward_length(train.INNER)
    w.add_head_count(train.HEADS)
    w.add_layer_norm_eps(train.EPS)
    w.add_causal_attention(False)
    w.add_pooling_type(gguf.PoolingType.MEAN)
    w.add_vocab_size(len(pieces))
    w.add_tokenizer_model("bert")
    w.add_tokenizer_pre("default")
    w.add_token_type_count(1)
    special = lambda piece: piece.startswith("[") and piece.endswith("]") and len(piece) > 2
    w.add_token_list([t if special(t) else t[2:] if t.startswith("##") else SPACE + t for t in pieces])
    w.add_token_types([gguf.TokenType.CONTROL if special(t) else gguf.TokenType.NORMAL for t in pieces])
    at = {t: i for i, t in enumerate(pieces)}
    w.add_bos_token_id(at["[CLS]"])
    w.add_sep_token_id(at["[SEP]"])
    w.add_unk_token_id(at["[UNK]"])
    w.add_pad_token_id(at["[PAD]"])
    w.add_mask_token_id(at["[MASK]"])
    p["position_embd.weight"] = train.WAVES * p.pop("positions")
    for name, x in p.items():
        kind = gguf.GGMLQuantizationType.Q8_0 if x.ndim == 2 and x.shape[0] > 1 else gguf.GGMLQuantizationType.F32
        w.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(x, np.float32), kind), raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
