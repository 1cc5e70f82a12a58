"""Measures how often the draft's greedy token is the target's, on the target's own greedy continuations of held-out prompts.

    python acceptance.py TARGET.gguf DRAFT.gguf OUT.json

Both models are read from the GGUF files that ship, so the loss by quantisation is counted. The prompts are drawn with a seed that training never
uses, beside the written ones below.
"""
import json
import random
import sys

import torch

import corpus
import gguf_files
import speak
import storybook
import talk

WRITTEN = ["Tell me a story about a fox", "Hello, who are you?", "What is the moon?", "Write a short story about a brave girl and a boat.",
           "Tell me a story about a dragon who is afraid of the dark", "hi", "what can you do?", "Why is the sky blue?",
           "I feel sad today", "Can you tell me a bedtime story?", "Tell me a story about a boy and his dog in the snow", "What do rabbits eat?"]
PLAIN = ["Once upon a time", "One day, a little bird", "The old man walked to the sea and", "\"Come here,\" said the mother."]


def prompts():
    """(kind, text) of every held-out prompt."""
    rng = random.Random("acceptance")
    chat = lambda ask: corpus.chat_text([("user", ask)]) + "<|im_start|>assistant\n"
    for ask in WRITTEN:
        yield "written", chat(ask)
    for _ in range(24):
        yield "story", chat(storybook.requested(rng)[0])
    for _ in range(16):
        yield "talk", corpus.chat_text(talk.conversation(rng)[:-1]) + "<|im_start|>assistant\n"
    for text in PLAIN:
        yield "plain", text


def passes(matches, k):
    """Target passes needed when `k` tokens are drafted at a time: each pass keeps the run of matches and adds one token of its own."""
    at, count = 0, 0
    while at < len(matches):
        run = 0
        while run < k and at + run < len(matches) and matches[at + run]:
            run += 1
        at += run + 1
        count += 1
    return count


@torch.no_grad()
def main(target, draft, out):
    tokenizer = gguf_files.tokenizer_of(target)
    target, draft = speak.load(target), speak.load(draft)
    kinds, matches = {}, []
    for kind, text in prompts():
        ids = tokenizer.encode(text).ids
        added = speak.continuation(target, ids, 128)
        guesses = draft(torch.tensor([ids + added[:-1]]))[0][0, len(ids) - 1:].argmax(-1).tolist()
        same = [a == b for a, b in zip(added, guesses)]
        matches.append(same)
        kinds.setdefault(kind, []).extend(same)
    every = [m for same in matches for m in same]
    result = {"acceptance": sum(every) / len(every), "tokens": len(every), "prompts": len(matches),
              "by_kind": {k: sum(v) / len(v) for k, v in kinds.items()},
              "tokens_per_target_pass": {k: len(every) / sum(passes(m, k) for m in matches) for k in (2, 4, 8)}}
    json.dump(result, open(out, "w"), indent=1)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
