"""Trains the shared vocabulary: byte-level BPE, 4,096 tokens, from generated text and (for breadth) public-domain books.

    python make_tokenizer.py OUT.json [BOOKS.jsonl.xz]
"""
import json
import lzma
import random
import sys

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import corpus

MORE_WORDS = """HEPH computer program model language small question answer planet Earth moon sun star sky space weather rain snow wind cloud
thunder rainbow ocean sea river mountain island volcano desert forest winter summer spring autumn Monday Tuesday Wednesday Thursday Friday
Saturday Sunday January February March April May June July August September October November December one two three four five six seven
eight nine ten hundred animal mammal insect reptile feather bone heart lungs blood brain stomach muscle teeth tooth sleep dream healthy
vitamin milk bread butter cheese water ice steam heat light electricity magnet metal paper glass plastic number letter alphabet word
sentence story poem song music picture color circle square triangle doctor nurse teacher firefighter police engine airplane helicopter
rocket bicycle ship submarine train station school library hospital kitchen bathroom bedroom window garden opposite big bigger biggest
morning evening tonight yesterday tomorrow today birthday holiday friend family brother sister uncle aunt cousin neighbor because why
how what when where who which sorry thank thanks welcome hello goodbye please know understand remember forget internet offline private"""


def texts(books):
    rng = random.Random(11)
    for _ in range(6000):
        yield corpus.document(rng)
    for _ in range(300):
        for word in MORE_WORDS.split():
            yield f"a {word} is {word}. {word.capitalize()}"
    if books:
        with lzma.open(books, "rt") as lines:
            for line in lines:
                yield json.loads(line)["text"][:6000]


def main(out, books=None):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts(books), trainers.BpeTrainer(
        vocab_size=4096, special_tokens=corpus.SPECIALS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokenizer.save(out)
    print("tokens:", tokenizer.get_vocab_size())


main(*sys.argv[1:])
