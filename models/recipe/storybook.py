"""Composes stories, and the requests that ask for them, from the words and plots of this folder.

Everything is drawn from one `random.Random`, so a seed names a corpus.
"""
import re

import plots
import words


def choose(text, rng):
    """Resolves every `[a|b|c]`, innermost first."""
    inner = re.compile(r"\[([^\[\]]*)\]")
    while True:
        found = inner.search(text)
        if not found:
            return text
        text = text[: found.start()] + rng.choice(found.group(1).split("|")) + text[found.end():]


def article(phrase):
    return ("an " if phrase.startswith(("honest", "hour")) or phrase[0] in "aeiou" and not phrase.startswith("uni") else "a ") + phrase


SAYING = r"(?:said|cried|called|asked|thought|shouted|whispered|laughed|told|sang|went)"
# What may follow a closing quote and still belong to its sentence: "said", "he cried", "the fox asked", "they both said".
TAG = re.compile(r"(?!and |then |but |so )(?:%s|(?:the |a )?(?:\w+ )?(?:\w+ )?\w+ (?:both )?%s)\b" % (SAYING, SAYING))
QUESTION = re.compile(r"(?:(?:and|but) )?(?:who|what|where|why|how|when (?:will|is|did)|which|do(?! not)|does|did|can|could|may|are|am|is|was|will|would|shall|should)\b(?! a\b| (?:beautiful|kind|fine|pretty|high|lovely|nice|big)\b)", re.I)


def asked(match):
    """A sentence inside quotes, with the mark its first words call for."""
    words, mark = match.group(1), match.group(2)
    if words.lower().startswith("happy birthday"):
        return words + "!"
    if mark == "?" and not QUESTION.match(words) and not re.search(r"\b(?:you|we|I|it|what|who|how|where|then)\b.*,|, \w+$", words):
        mark = "." if "oh " not in words else "!"
    elif mark in "!." and QUESTION.match(words):
        mark = "?"
    return words + mark


def polish(text):
    """Capitals, articles and marks, once the words stand."""
    text = re.sub(r"[ \t]+", " ", text)
    text = re.sub(r" *\n *", "\n", text).strip()
    text = re.sub(r"\b([Aa]) (?=[aeio][a-z]|honest)(?!one\b|once\b)", lambda m: m.group(1) + "n ", text)
    pieces = text.split('"')
    for i in range(1, len(pieces), 2):
        was_question = pieces[i].endswith("?")
        pieces[i] = re.sub(r"([^.!? ][^.!?]*)([.!?])", asked, pieces[i])
        after = pieces[i + 1].lstrip() if i + 1 < len(pieces) else ""
        if pieces[i].endswith(".") and (re.match(SAYING, after) or was_question and TAG.match(after)):
            pieces[i] = pieces[i][:-1] + ","
        elif pieces[i].endswith(",") and re.match(r"(?:may|can|could|would|shall|will) (?:I|we|you) ", re.split(r"[.!?] ", pieces[i])[-1]):
            pieces[i] = pieces[i][:-1] + "?"
        if i >= 3 and pieces[i - 2].endswith(",") and re.fullmatch(r" [^.!?]*, ", pieces[i - 1]):
            continue  # the same sentence goes on after "said the fox,"
        pieces[i] = re.sub(r"(^|[.!?] )([a-z])", lambda m: m.group(1) + m.group(2).upper(), pieces[i])
    for i in range(0, len(pieces), 2):
        piece = re.sub(r"(^|[.!?:] |\n)(?!went\b)([a-z])", lambda m: m.group(1) + m.group(2).upper() if m.group(1) else m.group(0), pieces[i])
        body = piece.lstrip(" ")
        if i == 0 or pieces[i - 1].endswith(".") or pieces[i - 1].endswith(("!", "?")) and not TAG.match(body):
            piece = piece[: len(piece) - len(body)] + body[:1].upper() + body[1:]
        pieces[i] = piece
    return '"'.join(pieces)


PRONOUNS = {"h": ("he", "him", "his", "himself"), "s": ("she", "her", "her", "herself"), "i": ("it", "it", "its", "itself")}


class Figure:
    """Somebody in a story: a kind, a pronoun, perhaps a name and a trait.

    Who has a name is called by it, and who has none is `he` or `she` by kind, always the same: a small model
    learns who is meant from few words when each figure has one.
    """

    def __init__(self, rng, kind=None, named=0.75, name=None, sex=None):
        line = next((h for h in words.HEROES if h.split("|")[0] == kind), None) if kind else self.draw(rng)
        self.kind, sexes, self.home, self.loves = line.split("|")
        named = name or rng.random() < named
        self.sex = sex or (rng.choice(sexes) if named else sexes[sum(map(ord, self.kind)) % len(sexes)])
        self.he, self.him, self.his, self.himself = PRONOUNS[self.sex]
        self.name = name or (self.fresh_name(rng) if named else None)
        self.trait = rng.choice(words.TRAITS) if rng.random() < 0.4 else None

    @staticmethod
    def draw(rng):
        if rng.random() < 0.8:
            return rng.choice(words.HEROES)
        kind = rng.choice(words.MORE_HEROES)
        sexes = "s" if kind in words.WOMEN else "h" if kind in words.MEN else "hs"
        return "|".join([kind, sexes, rng.choice(words.GENERAL_HOMES), rng.choice(words.GENERAL_LOVES)])

    def fresh_name(self, rng):
        return rng.choice({"h": words.HE_NAMES, "s": words.SHE_NAMES, "i": words.IT_NAMES}[self.sex])

    def introduced(self, rng):
        text = article(((self.trait + " ") if self.trait else "") + self.kind)
        if self.name:
            text += rng.choice([" named ", " named ", " called ", " whose name was "]) + self.name
        return text

    def mention(self):
        return self.name or "the " + self.kind


def thing(rng, noun=None):
    line = next((o for o in words.OBJECTS if o.split("|")[0] == noun), None) if noun else rng.choice(words.OBJECTS)
    if noun and not line or not noun and rng.random() < 0.25:
        line = (noun or rng.choice(words.MORE_OBJECTS)) + "|" + " ".join(words.MORE_ADJECTIVES)
    noun, adjectives = line.split("|")
    return noun, rng.choice(adjectives.split()) + " " + noun


def plot_for(theme, rng):
    fitting = [p for p in plots.PLOTS if theme in p[0].split()]
    return rng.choice(fitting) if fitting else rng.choice(plots.PLOTS)


THEMES = sorted({t for p in plots.PLOTS for t in p[0].split()})


class Story:
    """One story and what a request for it may name."""

    def __init__(self, rng, hero=None, friend=None, plot=None, place=None, noun=None):
        self.rng = rng
        self.plot = plot or rng.choice(plots.PLOTS)
        self.hero = hero or Figure(rng)
        self.friend = friend or Figure(rng, named=0.7)
        while self.friend.kind == self.hero.kind or self.friend.name and self.friend.name == self.hero.name:
            self.friend = Figure(rng, named=0.7)
        self.noun, self.thing = thing(rng, noun)
        self.place = next((p for p in words.PLACES if p.endswith("|" + place)), None) if place else rng.choice(words.PLACES)
        self.text = self.tell()

    def tell(self):
        rng, h, f = self.rng, self.hero, self.friend
        needs_friend = self.plot[1]
        opening = rng.choice(plots.OPENINGS)
        if needs_friend:
            opening += rng.choice(plots.FRIEND_OPENINGS)
        body = self.plot[2].strip()
        used_thing = "{x}" in body or "{xs}" in body or "{ax}" in body
        text = opening + "\n" + body
        ending = rng.choice(plots.ENDINGS)
        text = choose(text + (" " if rng.random() < 0.6 else "\n") + ending, rng)
        self.uses_thing, self.uses_place = used_thing, "place}" in text
        inplace, toplace, bare = self.place.split("|")
        helper = rng.choice(words.HELPERS)
        food, food2, food3 = rng.sample(words.FOODS, 3)
        color, color2 = rng.sample(words.COLORS[:9], 2)
        skill, skilling, skillplace = rng.choice(words.SKILLS)
        whale, _ = rng.choice(plots.WHALES)
        mo = rng.choice(words.FAMILY)
        introduced_friend = [needs_friend]
        introduced_helper = [False]

        def a_friend():
            introduced_friend[0] = True
            return f.introduced(rng)

        def a_k():
            if introduced_helper[0]:
                return "the " + helper.split()[-1]
            introduced_helper[0] = True
            return article(helper)

        slots = {
            "n": lambda: h.mention(), "nn": lambda: h.name or "the " + h.kind, "he": lambda: h.he, "him": lambda: h.him,
            "his": lambda: h.his, "himself": lambda: h.himself, "a_hero": lambda: h.introduced(rng), "home": lambda: h.home,
            "loves": lambda: h.loves.replace("his own", h.his + " own").replace("her horse", h.his + " horse"),
            "fr": lambda: f.mention() if introduced_friend[0] else "the " + f.kind, "frn": lambda: f.name or "the " + f.kind,
            "fhe": lambda: f.he, "fhim": lambda: f.him, "fhis": lambda: f.his, "a_friend": a_friend,
            "x": lambda: self.thing, "xs": lambda: self.noun, "ax": lambda: article(self.thing),
            "inplace": lambda: inplace, "toplace": lambda: toplace, "k": lambda: helper, "kk": lambda: helper.split()[-1], "a_k": a_k,
            "the_k": lambda: "the " + helper, "mo": lambda: mo, "food": lambda: food, "food2": lambda: food2, "the_food": lambda: food3,
            "small": lambda: small, "skill": lambda: skill, "skilling": lambda: skilling, "skillplace": lambda: skillplace,
            "color": lambda: color, "color2": lambda: color2, "build": lambda: build, "a_whale": lambda: whale,
            "him_whale": lambda: "them", "food_pot": lambda: pot, "hechild": lambda: child,
        }
        small = rng.choice(words.SMALL)
        build = rng.choice(plots.BUILDS)
        pot = rng.choice(plots.POTS)
        child = rng.choice(["she", "he"])
        text = text.replace("threw {him_whale} a rope, and it", "held on, and it")
        text = re.sub(r"\{(\w+)\}", lambda m: slots[m.group(1)](), text)
        paragraphs = text.split("\n")
        if rng.random() < 0.15:  # a short one: opening and the first two beats read badly, so only join lines
            text = " ".join(paragraphs)
        return polish(text)


ASK = ["tell me a story about", "tell me a story about", "write a short story about", "write a story about", "can you tell me a story about",
       "please tell me a story about", "i want a story about", "story about", "tell a story about", "a story about", "make up a story about",
       "tell me a short story about", "could you write a story about", "i would like to hear a story about", "write me a story about"]
ASK_ANY = ["tell me a story", "tell me a story", "write a short story", "can you tell me a story?", "please tell me a story", "tell me another story",
           "i want to hear a story", "tell me a bedtime story", "story please", "write a story", "can you make up a story?", "read me a story",
           "tell me something nice", "do you know a story?", "tell me a tale", "i cannot sleep. tell me a story", "make up a story", "once upon a time"]
LEAD = ["here is a story about {about}.\n"] * 6 + ["", "", "sure! here is a story about {about}.\n", "this is a story about {about}.\n"]


def careless(text, rng):
    """A request as people type it."""
    r = rng.random()
    if r < 0.45:
        text = text[0].upper() + text[1:]
        if text[-1] not in ".?!":
            text += rng.choice([".", ".", ".", "!", "", "?" if text.lower().startswith(("can", "could", "do")) else "."])
    elif r < 0.7:
        text = text[0].upper() + text[1:]
    elif r < 0.8 and text[-1] not in ".?!":
        text += "."
    return text


def requested(rng):
    """A pair (request, answer): the story holds what was asked for."""
    if rng.random() < 0.16:
        s = Story(rng)
        return careless(rng.choice(ASK_ANY), rng), s.text
    hero = Figure(rng, named=0.7)
    about = article(((hero.trait + " ") if hero.trait and rng.random() < 0.7 else "") + hero.kind)
    friend, plot, place, noun = None, None, None, None
    r = rng.random()
    if hero.name and r < 0.2:
        about += rng.choice([" named ", " called "]) + hero.name
    elif r < 0.24:
        hero = Figure(rng, kind=rng.choice(["boy", "girl", "child"]), named=1)
        about = hero.name
        if rng.random() < 0.5:
            friend = Figure(rng, named=1)
            about += " and " + (friend.name if rng.random() < 0.6 else article(friend.kind))
    elif r < 0.36:
        friend = Figure(rng, named=0.7)
        if friend.kind != hero.kind:
            about += " and " + article(friend.kind)
        else:
            friend = None
    elif r < 0.5:
        noun, _ = thing(rng)
        plot = rng.choice([p for p in plots.PLOTS if "{x}" in p[2] or "{ax}" in p[2]])
        about += " and " + article(noun)
    elif r < 0.6:
        theme = rng.choice(THEMES)
        plot = plot_for(theme, rng)
        about += rng.choice([" and ", " and some "]) + theme if theme in ("food", "rain", "snow", "magic", "music", "treasure") else ""
    elif r < 0.68:
        place = rng.choice(words.PLACES).split("|")[2]
        plot = rng.choice([p for p in plots.PLOTS if "place}" in p[2]])
        about += next(" " + p.split("|")[0] for p in words.PLACES if p.endswith("|" + place))
    elif r < 0.74:
        theme = rng.choice(["friendship", "honesty", "sharing", "kindness", "helping", "patience", "sleep", "winter", "rain", "music", "treasure",
                            "magic", "school", "family", "snow", "the sea", "the night", "a birthday", "a dragon", "a garden", "a race", "a kite"])
        plot = plot_for(theme.split()[-1], rng)
        about = theme
    s = Story(rng, hero=hero, friend=friend, plot=plot, place=place, noun=noun)
    lead = polish(rng.choice(LEAD).replace("{about}", about).strip())
    lead += ("\n" if lead.endswith(".") else " ") if lead else ""
    ask = rng.choice(ASK) + " " + about
    return careless(ask, rng), lead + s.text
