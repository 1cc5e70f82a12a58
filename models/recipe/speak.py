"""Answers prompts with a checkpoint or a GGUF file.

    python speak.py MODEL TOKENIZER.json|MODEL.gguf [--temperature T] "PROMPT" ...
"""
import sys

import torch

import corpus
import gguf_files
import llama


def load(path):
    if path.endswith(".gguf"):
        return gguf_files.read(path)
    saved = torch.load(path, weights_only=False)
    model = llama.Llama(saved["shape"])
    model.load_state_dict(saved["model"])
    return model.eval()


@torch.no_grad()
def continuation(model, ids, most, temperature=0.0):
    """Token by token until an end token or `most`; the ids that were added."""
    logits, past = model(torch.tensor([ids]))
    out = []
    while len(out) < most:
        last = logits[0, -1]
        token = int(last.argmax() if temperature == 0 else torch.multinomial((last / temperature).softmax(-1), 1))
        out.append(token)
        if token in (corpus.END, corpus.STOP):
            break
        logits, past = model(torch.tensor([[token]]), past)
    return out


def main(path, tokenizer, *prompts):
    model, tokenizer, temperature = load(path), gguf_files.tokenizer_of(tokenizer), 0.0
    if prompts[0] == "--temperature":
        temperature, prompts = float(prompts[1]), prompts[2:]
    for prompt in prompts:
        ids = tokenizer.encode(corpus.chat_text([("user", prompt)]) + "<|im_start|>assistant\n").ids
        print(f"> {prompt}\n{tokenizer.decode(continuation(model, ids, 300, temperature))}\n", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
