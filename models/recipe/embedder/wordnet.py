"""WordNet 3.0 as pairs of texts that mean alike: a word and its gloss, two names of one thing, a gloss and an example, a kind and its kin.

Reads the database files of the Debian package wordnet-base (`/usr/share/wordnet`).
"""
import re

POS = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}


class WordNet:
    def __init__(self, folder):
        self.synsets = {}   # (pos, offset) -> (lemmas, gloss, examples, hypernyms)
        self.first = {}     # word -> synset of its most frequent sense, over all parts of speech
        frequency = {}
        for line in open(f"{folder}/cntlist.rev", encoding="latin-1"):
            key, number, count = line.split()
            lemma, pos = key.split("%")[0], "nvars"[int(key.split("%")[1][0]) - 1]
            if number == "1":
                frequency[lemma, "a" if pos == "s" else pos] = int(count)
        for name, pos in POS.items():
            for line in open(f"{folder}/data.{name}", encoding="latin-1"):
                if not line.startswith("  "):
                    self.synset(pos, line)
        best = {}
        for name, pos in POS.items():
            for line in open(f"{folder}/index.{name}", encoding="latin-1"):
                if line.startswith("  "):
                    continue
                f = line.split()
                count = frequency.get((f[0], pos), 0)
                offset = f[-int(f[2])]
                if count > best.get(f[0], -1):
                    best[f[0]] = count
                    self.first[f[0]] = (pos, offset)
        self.all = list(self.synsets)
        self.known = [synset for word, synset in self.first.items() if best[word] > 0]

    def synset(self, pos, line):
        data, gloss = line.rstrip().split(" | ", 1) if " | " in line else (line, "")
        f = data.split()
        words = int(f[3], 16)
        lemmas = [re.sub(r"\(.*\)", "", f[4 + 2 * i]).replace("_", " ").lower() for i in range(words)]
        lemmas = list(dict.fromkeys(lemmas))
        pointers = int(f[4 + 2 * words])
        kin = [f[5 + 2 * words + 4 * i + 1] for i in range(pointers) if f[5 + 2 * words + 4 * i] in ("@", "@i")]
        parts = gloss.strip().split("; \"")
        self.synsets[pos, f[0]] = (lemmas, parts[0].strip(), [p.strip('" ') for p in parts[1:]], [(pos, k) for k in kin])

    def pair(self, rng):
        """Two short texts about one thing."""
        key = rng.choice(self.known if rng.random() < 0.8 else self.all)
        lemmas, gloss, examples, kin = self.synsets[key]
        name, turn = rng.choice(lemmas), rng.random()
        if len(lemmas) > 1 and turn < 0.4:
            other = rng.choice([l for l in lemmas if l != name])
            return name, other
        if examples and turn < 0.55:
            return (name + " " + gloss if rng.random() < 0.5 else gloss), rng.choice(examples)
        if kin and turn < 0.7:
            parents, definition, _, _ = self.synsets[rng.choice(kin)]
            return name, rng.choice(parents) + " " + (definition if rng.random() < 0.5 else "")
        return name, gloss

    def synonym(self, word, rng):
        """Another word for the commonest sense of `word`, in the same regular form, or None."""
        base, ending = word, ""
        if word not in self.first:
            for ending, stems in (("s", [word[:-1]]), ("es", [word[:-2]]), ("ed", [word[:-2], word[:-1]]), ("ing", [word[:-3], word[:-3] + "e"])):
                base = next((s for s in stems if word.endswith(ending) and len(s) > 2 and s in self.first), None)
                if base:
                    break
            else:
                return None
        others = [l for l in self.synsets[self.first[base]][0] if l != base and " " not in l]
        if not others:
            return None
        other = rng.choice(others)
        if ending in ("ed", "ing") and other.endswith("e"):
            other = other[:-1]
        return other + ending
