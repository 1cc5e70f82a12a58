"""Makes the vocabulary: WordPiece, lower case, from public-domain books, WordNet and made-up records.

    python vocabulary.py BOOKS.jsonl.xz WORDNET_FOLDER OUT.txt
"""
import json
import lzma
import random
import sys

from tokenizers import BertWordPieceTokenizer

import questions
import wordnet

SIZE = 8192
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def tokenizer(path=None):
    return BertWordPieceTokenizer(path, lowercase=True, strip_accents=True)


def texts(books, folder):
    with lzma.open(books, "rt") as lines:
        for line in lines:
            yield json.loads(line)["text"]
    net, rng = wordnet.WordNet(folder), random.Random(5)
    for lemmas, gloss, examples, _ in net.synsets.values():
        yield " ".join(lemmas + [gloss] + examples)
    for _ in range(20000):
        yield " ".join(questions.record(rng))


if __name__ == "__main__":
    books, folder, out = sys.argv[1:]
    t = tokenizer()
    t.train_from_iterator(texts(books, folder), vocab_size=SIZE, min_frequency=2, limit_alphabet=200, special_tokens=SPECIALS, show_progress=False)
    pieces = sorted(t.get_vocab().items(), key=lambda item: item[1])
    with open(out, "w", encoding="utf-8") as f:
        f.writelines(piece + "\n" for piece, _ in pieces)
    print("pieces:", len(pieces))
