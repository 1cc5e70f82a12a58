"""Batches of pairs: a query and the passage that it should find among all passages of the batch.

Three streams take turns: sentences of books and what stood around them (inverse cloze), WordNet, and records with questions.
"""
import json
import lzma
import random
import re

import numpy as np

import questions
import vocabulary
import wordnet

# Rows of a batch, and tokens of a query and of a passage, with the two around them.
SHAPES = {"books": (112, 24, 56), "wordnet": (256, 12, 24), "records": (64, 24, 48)}
STOP = set("""a an and are as at be been but by for from had has have he her him his i if in into is it its me my no not of on or our she so
that the their them then there they this to up upon was we were what when which who will with would you your""".split())


def sentences(text):
    """The sentences of a text, as lists of words with their punctuation."""
    cut = re.split(r"(?<=[.!?;])[\"')]*\s+|\n+", text)
    return [words for words in (s.split() for s in cut) if len(words) > 3]


class Pairs:
    def __init__(self, books, net, vocab, seed):
        self.rng = random.Random(seed)
        self.tokenizer = vocabulary.tokenizer(vocab)
        self.spelled = {}
        self.net = wordnet.WordNet(net)
        with lzma.open(books, "rt") as lines:
            chapters = [sentences(json.loads(line)["text"]) for line in lines]
        self.chapters = [c for c in chapters if len(c) > 120]
        self.filler = [s for c in self.chapters for s in c if len(s) < 18]

    def batch(self, stream):
        rows, query, passage = SHAPES[stream]
        pairs = getattr(self, stream)(rows)
        queries = np.stack([self.ids(q, query) for q, _ in pairs])
        passages = np.stack([self.ids(p, passage) for _, ps in pairs for p in ps[:1]] + [self.ids(p, passage) for _, ps in pairs for p in ps[1:]])
        return queries, passages

    def ids(self, words, most):
        out = [2]
        for word in words:
            spelled = self.spelled.get(word)
            if spelled is None:
                spelled = self.tokenizer.encode(word, add_special_tokens=False).ids
                self.spelled[word] = spelled
            out += spelled
            if len(out) >= most:
                break
        out = out[: most - 1] + [3]
        return np.array(out + [0] * (most - len(out)), np.int32)

    def books(self, rows):
        """Windows of four chapters, so that wrong passages are of the same story."""
        pairs = []
        for chapter in self.rng.sample(self.chapters, 4):
            starts = self.rng.sample(range(0, len(chapter) - 3, 3), rows // 4)
            for start in starts:
                window = chapter[start : start + 3]
                at = self.rng.randrange(3)
                query = window[at]
                keep = self.rng.random() < 0.35
                passage = [w for i, s in enumerate(window) if keep or i != at for w in s]
                pairs.append((self.query(query), [passage]))
        return pairs

    def query(self, words):
        """A sentence as somebody would recall it: other words for some, and often without the small ones."""
        rng, out = self.rng, []
        short = rng.random() < 0.5
        for word in words:
            bare = word.strip(".,;:!?\"'()").lower()
            if (short and bare in STOP) or rng.random() < 0.15:
                continue
            other = self.net.synonym(bare, rng) if len(bare) > 3 and rng.random() < 0.35 else None
            out.append(other or word)
        return (out or words)[:16]

    def wordnet(self, rows):
        return [(a.split(), [b.split()]) for a, b in (self.net.pair(self.rng) for _ in range(rows))]

    def records(self, rows):
        """A statement among other sentences, and beside it one that does not answer."""
        rng, pairs = self.rng, []
        surround = lambda statement: (rng.choice(self.filler) if rng.random() < 0.5 else []) + statement.split() + (rng.choice(self.filler) if rng.random() < 0.6 else [])
        for _ in range(rows):
            question, right, wrong = questions.record(rng)
            if rng.random() < 0.3:
                question = " ".join(w for w in question.split() if w.lower() not in STOP) or question
            pairs.append((question.split(), [surround(right), surround(wrong)]))
        return pairs
