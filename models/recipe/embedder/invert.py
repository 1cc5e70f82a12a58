"""How much of a text its vector gives away: the words of held-out sentences, guessed from their vectors by a linear attack.

    python invert.py BOOKS.jsonl.xz HELD_OUT.jsonl.xz WORDNET_FOLDER VOCABULARY.txt RUN_FOLDER

The attacker has the encoder and other books. As many pieces are guessed as the text has; the prior guesses the commonest.
"""
import sys

import jax
import numpy as np

import pairs
import train

TEXTS, STRENGTH = 12000, 0.3


def main(books, held_out, net, vocabulary, run):
    saved = np.load(f"{run}/state.npz")
    p = {k[2:]: jax.numpy.asarray(saved[k]) for k in saved if k.startswith("p/")}
    encode = jax.jit(lambda ids: train.encode(p, ids, 0, train.LAYERS))

    def load(path):
        data = pairs.Pairs(path, net, vocabulary, 7)
        sentences = [s for chapter in data.chapters for s in chapter if 8 <= len(s) <= 30]
        data.rng.shuffle(sentences)
        ids = np.stack([data.ids(s, 48) for s in sentences[:TEXTS]])
        vectors = np.concatenate([np.asarray(encode(ids[i : i + 256])) for i in range(0, len(ids) - 255, 256)])
        held = np.zeros((len(vectors), data.tokenizer.get_vocab_size()), np.float32)
        for row, own in zip(held, ids):
            row[own[own > 4]] = 1
        return vectors, held

    (v, held), (w, wanted) = load(books), load(held_out)
    prior = held.mean(0)
    scale = np.sqrt(prior * (1 - prior)) + 1e-3
    weights = np.linalg.solve(v.T @ v + STRENGTH * np.eye(v.shape[1]), v.T @ ((held - prior) / scale))
    telling = prior < 0.01  # pieces that stand in fewer than 1 of 100 sentences
    for name, some in [("all pieces", np.ones_like(telling)), ("telling pieces", telling)]:
        for attack, scores in [("prior", np.broadcast_to(prior, wanted.shape)), ("vector", (w @ weights) * scale + prior)]:
            right = total = 0
            for row, own in zip(np.where(some, scores, -9), wanted * some):
                count = int(own.sum())
                right += own[np.argsort(-row)[:count]].sum() if count else 0
                total += count
            print(f"{name:15} {attack:7} recovered {right / total:.3f} of {total}")


if __name__ == "__main__":
    main(*sys.argv[1:])
