"""Documents without end for training: chats and plain stories, drawn by seed, packed into rows of tokens."""
import random

import storybook
import talk

END, START, STOP = 0, 1, 2  # <|endoftext|> <|im_start|> <|im_end|>
STORY_SHARE, PLAIN_SHARE = 0.38, 0.05  # of the documents; the rest are conversations
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def chat_text(turns):
    """The chat template of both models, as text. `turns` is a list of (role, content)."""
    return "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)


SYSTEM = ["You are a helpful assistant.", "You are a helpful assistant.", "You are HEPH.", "You are a friendly story teller.", "Answer in short sentences.",
          "You are a small model that tells stories.", "Be kind.", "You are a helpful, honest assistant.", "Help the user.", "Use simple words."]


def document(rng, stories=STORY_SHARE):
    """One document; `stories` is the share of stories that were asked for."""
    r = rng.random()
    if stories < r < stories + PLAIN_SHARE:
        return storybook.Story(rng).text
    if r < stories:
        ask, story = storybook.requested(rng)
        turns = [("user", ask), ("assistant", story)]
    else:
        turns = talk.conversation(rng)
    system = [("system", rng.choice(SYSTEM))] if rng.random() < 0.08 else []
    return chat_text(system + turns)


class Rows:
    """Rows of `length + 1` tokens. Each begins where a document begins."""

    def __init__(self, tokenizer, length, seed, stories=STORY_SHARE):
        self.tokenizer, self.length, self.rng, self.stories = tokenizer, length, random.Random(seed), stories

    def row(self):
        ids = []
        while len(ids) <= self.length:
            ids += self.tokenizer.encode(document(self.rng, self.stories)).ids + [END]
        return ids[: self.length + 1]
