#!/usr/bin/env python3
"""Makes the lines that the model of names is trained on: `generate.py OUT_FOLDER [--lines N] [--corpus BOOKS.jsonl.xz]`.

Sentences of `frames.py` are filled with names, addresses and firms of `faker` (MIT); lines of this tree's sources and sentences
of public-domain books in which no name stands are lines without any. Writes train.jsonl and held.jsonl with other frames and
other names: names whose hash is a multiple of eight are held out.
"""
import argparse
import json
import lzma
import pathlib
import random
import re
import zlib

import pip
from faker import Faker

import frames

LOCALES = {
    "en_US": "en", "en_GB": "en", "en_IN": "en", "en_CA": "en", "en_AU": "en", "en_IE": "en", "en_NZ": "en", "en_PH": "en", "de_DE": "de",
    "de_AT": "de", "de_CH": "de", "fr_FR": "fr", "fr_CH": "fr", "fr_CA": "fr", "fr_BE": "fr", "es_ES": "es", "es_MX": "es", "es_CO": "es", "es_AR": "es", "it_IT": "it",
    "pt_BR": "pt", "pt_PT": "pt", "nl_NL": "nl", "nl_BE": "nl", "pl_PL": "pl", "cs_CZ": "cs", "sk_SK": "cs", "sv_SE": "sv", "no_NO": "da",
    "da_DK": "da", "tr_TR": "tr", "fi_FI": "fi", "ro_RO": "ro", "hu_HU": "hu", "hr_HR": "cs", "sl_SI": "cs", "lt_LT": "en", "lv_LV": "en",
    "et_EE": "en", "id_ID": "en", "vi_VN": "en", "yo_NG": "en", "zu_ZA": "en", "ga_IE": "en", "az_AZ": "tr", "sq_AL": "en",
}
POOL = 1500
PRODUCTS = """Rust Python Linux Windows Android Kubernetes Docker Postgres Falcon Aurora Nimbus Atlas Phoenix Titan Orion Mercury Apollo Chrome
Firefox Excel Word Photoshop Java Kotlin Swift Go Ubuntu Debian Fedora Git Jenkins Redis Kafka Spark Hadoop Llama Mistral Gemma Bluetooth Wi-Fi
iPhone Galaxy PlayStation Tesla Alexa Siri Zoom Slack Teams Outlook Notion Jira Trello Spotify Netflix YouTube Instagram Emacs Vim""".split()
MONTHS = "January February March April May June July August September October November December".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
LANGS = "English German French Spanish Italian Polish Turkish Swedish Czech Dutch Greek Latin Arabic Hindi Mandarin Portuguese".split()
COUNTRIES = """Spain France Italy Germany Poland Turkey Sweden Norway Brazil India China Japan Mexico Canada Peru Chile Egypt Kenya Ghana Nigeria
Greece Portugal Austria Hungary Romania Ireland Scotland England Finland Denmark Belgium Ukraine Israel Iran Iraq Vietnam Thailand""".split()


def held_out(name):
    return zlib.crc32(name.lower().encode()) % 8 == 0


class Pool:
    """Names, addresses and firms of one locale, drawn once."""

    def __init__(self, locale, seed):
        fake = Faker(locale)
        fake.seed_instance(seed)
        draw = lambda call, n=POOL: sorted({call() for _ in range(n)})
        self.first, self.last = draw(fake.first_name), draw(fake.last_name)
        self.city = draw(fake.city, 400)
        self.street = draw(fake.street_address)
        self.address = draw(fake.address)
        self.firm = draw(fake.company, 500)
        self.postcode = draw(fake.postcode, 400) if hasattr(fake, "postcode") else ["12345"]


class Maker:
    def __init__(self, seed, pools, held, vocabulary):
        self.rng, self.pools, self.held, self.vocabulary = random.Random(seed), pools, held, vocabulary
        self.fake = Faker("en_US")
        self.fake.seed_instance(seed)
        self.keep = lambda names: [n for n in names if held_out(n) == held] or names
        self.kept = {locale: (self.keep(p.first), self.keep(p.last)) for locale, p in pools.items()}

    def first(self, locale):
        return self.rng.choice(self.kept[locale][0])

    def last(self, locale):
        names = self.kept[locale][1]
        name = self.rng.choice(names)
        if self.rng.random() < 0.12:  # A name nobody has: the head of one, the tail of another.
            other = self.rng.choice(names)
            name = name[: max(2, len(name) // 2)] + other[len(other) // 2 :].lower()
        return name

    def person(self, locale):
        r, first, last = self.rng.random(), self.first(locale), self.last(locale)
        if r < 0.04:
            return f"{first} {chr(self.rng.randint(65, 90))}. {last}"
        if r < 0.06:
            return f"{first} {chr(self.rng.randint(65, 90))} {last}"
        if r < 0.08:
            return f"{first[0]}. {last}"
        if r < 0.10:
            return f"{first} {self.first(locale)} {last}"
        if r < 0.12:
            return f"{first} {last}-{self.last(locale)}"
        if r < 0.14:
            return f"{first} {self.rng.choice(['van', 'van der', 'de', 'von', 'da', 'del', 'di', 'dos', 'al', 'bin', 'Mc', 'O'])} {last}".replace("Mc ", "Mc").replace("O ", "O'")
        if r < 0.19:
            return first
        if r < 0.21:
            return f"{last}, {first}"
        if r < 0.23:
            return f"{first} {last}".upper()
        return f"{first} {last}"

    def address(self, locale):
        pool, r = self.pools[locale], self.rng.random()
        if r < 0.62:
            text = self.rng.choice(pool.address)
            return text if self.rng.random() < 0.12 else text.replace("\n", ", ")
        if r < 0.74:
            return self.street(locale)
        street, code, city = self.street(locale), self.rng.choice(pool.postcode), self.rng.choice(pool.city)
        joint = self.rng.choice([", ", ", ", " ", "\n"])
        order = self.rng.choice([f"{code} {city}", f"{city} {code}", f"{city}, {code}", city, code, f"{code} {city}, {self.rng.choice(COUNTRIES)}"])
        return street + joint + order

    def street(self, locale):
        street = self.rng.choice(self.pools[locale].street).replace("\n", ", ")
        return re.sub(r"\d", lambda m: str(self.rng.randint(0, 9)) if self.rng.random() < 0.5 else m.group(), street)

    def firm(self, locale):
        rng = self.rng
        if rng.random() < 0.55:
            return rng.choice(self.pools[locale].firm)
        head = rng.choice([rng.choice(frames.FIRM_HEADS), self.last(locale), rng.choice(self.pools[locale].city), f"{self.last(locale)} & {self.last(locale)}"])
        tails = rng.sample(frames.FIRM_TAILS, rng.choice([1, 1, 2]))
        if rng.random() < 0.15:
            return f"{tails[0]} of {rng.choice(self.pools[locale].city)}"
        return " ".join([head, *tails])

    def plain(self, hole, locale):
        rng = self.rng
        return {
            "city": lambda: rng.choice(self.pools[locale].city), "country": lambda: rng.choice(COUNTRIES), "month": lambda: rng.choice(MONTHS),
            "weekday": lambda: rng.choice(DAYS), "product": lambda: rng.choice(PRODUCTS), "lang": lambda: rng.choice(LANGS),
            "email": self.fake.email, "phone": self.fake.phone_number, "card": self.fake.credit_card_number, "iban": self.fake.iban,
            "date": lambda: rng.choice([self.fake.date(), self.fake.date("%d.%m.%Y"), self.fake.date("%d %B %Y"), self.fake.date("%m/%d/%Y")]),
            "num": lambda: str(rng.choice([rng.randint(1, 12), rng.randint(1, 99), rng.randint(100, 99999)])),
            "word": lambda: rng.choice(self.vocabulary), "ip": self.fake.ipv4, "uuid": self.fake.uuid4, "sha": self.fake.sha1,
            "hex": lambda: f"{rng.getrandbits(40):x}"[: rng.randint(7, 10)],
        }[hole]()

    def fill(self, frame, locale):
        frame = re.sub(r"(?<!\\)\(((?:[^()]|\\[()])*\|(?:[^()]|\\[()])*)(?<!\\)\)", lambda m: self.rng.choice(m.group(1).split("|")), frame)
        frame = frame.replace("\\(", "(").replace("\\)", ")")
        text, spans = "", []
        for part in re.split(r"(\{[A-Za-z]+\})", frame.replace("\\n", "\n")):
            hole = part[1:-1] if re.fullmatch(r"\{[A-Za-z]+\}", part) else None
            if hole is None:
                text += part
                continue
            kind = {"P": "PERSON", "F": "PERSON", "L": "PERSON", "A": "ADDRESS", "S": "ADDRESS", "O": "ORGANIZATION"}.get(hole)
            value = {
                "P": lambda: self.person(locale), "F": lambda: self.first(locale), "L": lambda: self.last(locale), "A": lambda: self.address(locale),
                "S": lambda: self.street(locale), "O": lambda: self.firm(locale),
            }.get(hole, lambda: self.plain(hole, locale))()
            value = value.strip()
            if kind:
                spans.append({"start": len(text), "end": len(text) + len(value), "type": kind})
            text += value
        if self.rng.random() < 0.04 and len(text.lower()) == len(text):
            text = text.lower()
        return {"text": text, "spans": spans}


def lines(text):
    return [line for line in text.strip("\n").splitlines() if line.strip()]


def nameless(corpus, rng, most, names):
    """Of books: sentences without a capital inside, frames carved from sentences with names in them, and common words."""
    found, frames_found, words = [], [], {}
    titles = "Mr Mrs Miss Dr Sir Lady Lord Captain Aunt Uncle Master Madame".split()
    for line in lzma.open(corpus, "rt"):
        text = re.sub(r"\s+", " ", json.loads(line)["text"])
        for sentence in re.split(r"(?<=[.!?])\s+", text):
            for word in re.findall(r"[a-z]{3,12}", sentence):
                words[word] = words.get(word, 0) + 1
            if not 20 < len(sentence) < 260 or re.search(r"[{}|\\]", sentence):
                continue
            inner = re.findall(r"(?<![.!?\"'(] )(?<=\s)[\"'(]?((?:[A-Z][a-z]+)(?: [A-Z][a-z]+)*)", sentence[1:])
            inner = [run for run in inner if run != "I"]
            if not inner:
                found.append(sentence)
                continue
            parts = [part for run in inner for part in run.split()]
            if all(part in names or part in titles for part in parts):
                frame = sentence
                for run in sorted(set(inner), key=len, reverse=True):
                    head = next((t for t in titles if run.startswith(t + " ")), None)
                    hole = f"{head} {{L}}" if head else "{P}" if " " in run else "{F}" if run not in titles else run
                    frame = re.sub(rf"(?<![A-Za-z{{]){re.escape(run)}(?![A-Za-z}}])", hole, frame)
                if not frame[0].isupper() or frame.split()[0].strip(",.!?;:\"'") not in names:
                    frames_found.append(frame)
    # What begins with a word that is never small may begin with a name.
    plain = lambda text: words.get(re.sub(r"[^a-z].*", "", text.strip("\"'( ").lower()), 0) > 30 or re.match(r"[\"'(]?(I|A|In|It|He|We|If|As|At|On|So|My|No|To|By)\b", text)
    found = [text for text in found if plain(text) and not text.endswith((" Mr.", " Mrs.", " Dr."))]
    frames_found = [text for text in frames_found if plain(text) or text.startswith("{")]
    rng.shuffle(found)
    rng.shuffle(frames_found)
    return found[:most], frames_found, sorted(words, key=words.get)[-4000:]


def disguised(sentence, rng):
    """A sentence of a book with a place, an address, a firm or a title of something in it."""
    r = rng.random()
    place = re.search(r"\b(at|to|from|in|near|into|outside|behind) (?:the|a|his|her|their|my) [a-z]+(?=[,.;!?])", sentence)
    if place and r < 0.45:
        hole = rng.choice(["{A}", "{S}", "{city}", "{city}", "{country}"])
        return sentence[: place.start()] + place.group(1) + " " + hole + sentence[place.end() :]
    thing = re.search(r"\b(?:the|a) [a-z]{4,}(?= (?:was|had|said|is|came|went|would|could)\b)", sentence)
    if thing and r < 0.75:
        hole = rng.choice(["{P}", "{F}", "{O}", "{product}", "Mr. {L}", "{P} and {P}", "{F}, {F} and {F}"])
        return sentence[: thing.start()] + hole + sentence[thing.end() :]
    words = sentence.split(" ")
    if len(words) > 6 and r < 0.9:
        at, n = rng.randint(1, len(words) - 4), rng.randint(1, 3)
        words[at : at + n] = [w.capitalize() for w in words[at : at + n]]
        return " ".join(words)
    return sentence


def numbers(rng):
    """A piece of a table of numbers."""
    some = lambda: rng.choice([lambda: str(rng.randint(0, 10 ** rng.randint(1, 12))), lambda: f"{rng.random() * 10 ** rng.randint(0, 4):.{rng.randint(1, 6)}f}",
        lambda: f"{rng.getrandbits(16):04x}", lambda: f"{rng.getrandbits(32):08x}", lambda: f"{chr(rng.randint(65, 90))}{rng.randint(10, 9999)}-{rng.randint(1, 99)}",
        lambda: f"{rng.randint(1990, 2026)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}", lambda: f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}"])
    columns = [some() for _ in range(rng.randint(2, 8))]
    joint = rng.choice([",", ";", "\t", " ", " | ", ", "])
    return "\n".join(joint.join(column() for column in columns) for _ in range(rng.randint(1, 7)))


def sources(root, rng, most):
    """Pieces of this tree's code and documents."""
    pieces = []
    globs = ["crates/*/src/**/*.rs", "docs/*.md", "tests/**/*.py", "ui/src/**/*.ts", "ui/src/**/*.svelte", "benches/**/*.py", "check", "Cargo.lock"]
    # Python in other styles: the package installer and its vendored packages (MIT, Apache-2.0, BSD).
    others = sorted(pathlib.Path(pip.__file__).parent.glob("**/*.py"))
    for path in [p for glob in globs for p in sorted(root.glob(glob))] + rng.sample(others, min(250, len(others))):
        if "heph-privacy" in str(path):
            continue
        rows = path.read_text(errors="replace").splitlines()
        at = 0
        while at < len(rows):
            length = rng.choice([1, 1, 2, 4, 8, 20])
            piece = "\n".join(rows[at : at + length])
            at += length + rng.randint(0, 4)
            if piece.strip() and not re.search(r"Ada|Lovelace|Alan|Turing|Grace|Anna|Alice|Marie|Goethe|Newton|Berlin|Paris", piece):
                pieces.append(piece)
    rng.shuffle(pieces)
    return pieces[:most]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--lines", type=int, default=120_000)
    parser.add_argument("--corpus", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    rng = random.Random(11)
    root = pathlib.Path(__file__).resolve().parents[3]
    pools = {locale: Pool(locale, 1000 + n) for n, locale in enumerate(LOCALES)}
    known = {n for locale in ("en_US", "en_GB", "fr_FR") for n in pools[locale].first + pools[locale].last}
    prose, carved, vocabulary = nameless(arguments.corpus, rng, arguments.lines // 3, known)
    print(f"{len(prose)} sentences without names, {len(carved)} frames carved from books")
    # The last tenth of the frames is held out.
    cut = len(carved) * 9 // 10
    carved, carved_held = carved[:cut], carved[cut:]
    code = sources(root, rng, arguments.lines // 4)
    code += [numbers(rng) for _ in range(arguments.lines // 20)]
    english = [(lines(frames.PEOPLE_EN), 0.36), (lines(frames.PLACES_EN), 0.30), (lines(frames.FIRMS_EN), 0.12), (lines(frames.NOTHING_EN), 0.22)]

    def filled(maker, held):
        locale = rng.choice(list(pools))
        language = LOCALES[locale]
        if held:
            return maker.fill(rng.choice(lines(frames.HELD)) if rng.random() < 0.6 else rng.choice(carved_held), locale)
        if rng.random() < 0.2:
            return maker.fill(rng.choice(carved), locale)
        if language in frames.OTHER and rng.random() < 0.35:
            return maker.fill(rng.choice(lines(frames.OTHER[language])), locale)
        group = rng.choices([g for g, _ in english], [w for _, w in english])[0]
        return maker.fill(rng.choice(group), locale)

    books = Maker(3, pools, False, vocabulary)
    prose = [books.fill(disguised(t, rng), rng.choice(list(pools))) for t in prose]
    train, held = Maker(1, pools, False, vocabulary), Maker(2, pools, True, vocabulary)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with open(arguments.out / "train.jsonl", "w") as out:
        rows = [filled(train, False) for _ in range(arguments.lines)] + prose + [{"text": t, "spans": []} for t in code]
        rng.shuffle(rows)
        for row in rows:
            # Some texts hold two sentences.
            if rng.random() < 0.15:
                other = rng.choice(rows)
                joint = rng.choice([" ", "\n", "\n\n"])
                shift = len(row["text"]) + len(joint)
                row = {"text": row["text"] + joint + other["text"], "spans": row["spans"] + [
                    s | {"start": s["start"] + shift, "end": s["end"] + shift} for s in other["spans"]]}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    with open(arguments.out / "held.jsonl", "w") as out:
        for _ in range(4000):
            out.write(json.dumps(filled(held, True), ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
