#!/usr/bin/env python3
"""Holds `heph pii --jsonl` against labelled sentences: `pii.py SHARED/accept/pii HEPH`.

Three sets: the 800 sentences of dev, the published ones of external (types that patterns tell), and sentences made here, whose
frames, names and kinds of secrets stand in neither, so that one sees how it does on what it was not written for.
"""
import json
import pathlib
import random
import subprocess
import sys
import tempfile

PATTERNS = "CREDIT_CARD,PHONE,EMAIL,IBAN,US_SSN,IP_ADDRESS"
PEOPLE = """Thandiwe Mokoena|Oluwaseun Adeyemi|Fatoumata Diallo|Giorgos Papadakis|Sigrún Helgadóttir|Mihai Ionescu|Zsófia Kerekes|Anneke Vandersteen|
Rúben Teixeira|Katarzyna Wrona|Bohumil Hájek|Ximena Zubizarreta|Étienne Lacombe|Gunhild Mortensen|Parviz Rostami|Nguyen Thi Hanh|Ioana Dragomir|Kwame Boateng|
Marguerite Thistlewood|Desmond Okonkwo-Hale|Leopold Grubinger|Saoirse Mulcahy|Timoteo Barzaghi|Wilhelmina Drost""".replace("\n", "").split("|")
PLACES = """14 Quarrybank Lane, Ludlow, SY8 2QT|902 Tamarack Ave Apt 5, Duluth, MN 55805|Ahornweg 23, 79104 Freiburg|8 rue des Tanneurs, 67000 Strasbourg|
Via dei Glicini 31, 37121 Verona|Calle del Olmo 12, 29012 Málaga|Keizersgracht 588, 1017 EN Amsterdam|ul. Lipowa 7, 31-045 Kraków|Rua das Acácias 210, 4150-032 Porto|
Björkvägen 5, 752 37 Uppsala|Unit 3, 77 Wattle Street, Fitzroy VIC 3065|2210 Larchmont Blvd, Sacramento, CA 95814""".replace("\n", "").split("|")


def drawn(rng, letters, n):
    return "".join(rng.choice(letters) for _ in range(n))


def secret(rng):
    small, capital, digit, hexa = "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789", "0123456789abcdef"
    plain = small + capital + digit
    return rng.choice([
        ("openai", lambda: "sk-proj-" + drawn(rng, plain + "-_", 48) + "Q"), ("anthropic", lambda: "sk-ant-api03-" + drawn(rng, plain, 60)),
        ("huggingface", lambda: "hf_" + drawn(rng, plain, 34)), ("google", lambda: "AIza" + drawn(rng, plain + "-_", 34) + "x"),
        ("sendgrid", lambda: f"SG.{drawn(rng, plain, 22)}.{drawn(rng, plain, 43)}"), ("pypi", lambda: "pypi-AgEIcHlwaS5vcmc" + drawn(rng, plain, 70)),
        ("digitalocean", lambda: "dop_v1_" + drawn(rng, hexa, 64)), ("shopify", lambda: "shpat_" + drawn(rng, hexa, 32)),
        ("grafana", lambda: "glsa_" + drawn(rng, plain, 32) + "_" + drawn(rng, hexa, 8)), ("tailscale", lambda: "tskey-auth-" + drawn(rng, plain, 30)),
        ("password", lambda: rng.choice(["Trout", "maple", "Kettle", "violin"]) + drawn(rng, digit, 3) + rng.choice("!#%&*") + drawn(rng, plain, 3)),
    ])


def luhn(body):
    doubled = [int(c) * 2 if i % 2 == 0 else int(c) for i, c in enumerate(reversed(body))]
    return body + str(-sum(d - 9 if d > 9 else d for d in doubled) % 10)


def made(rng, n):
    """A labelled sentence."""
    person, place = (lambda: ("PERSON", rng.choice(PEOPLE))), (lambda: ("ADDRESS", rng.choice(PLACES)))
    kind, draw = secret(rng)
    key = ("SECRET", draw())
    card = ("CREDIT_CARD", " ".join((lambda c: [c[:4], c[4:8], c[8:12], c[12:]])(luhn("4" + drawn(rng, "0123456789", 14)))))
    phone = ("PHONE", rng.choice([f"+{rng.choice([31, 33, 34, 39, 46])} {drawn(rng, '123456789', 2)} {drawn(rng, '0123456789', 3)} {drawn(rng, '0123456789', 4)}",
        f"({drawn(rng, '23456789', 3)}) {drawn(rng, '23456789', 3)}-{drawn(rng, '0123456789', 4)}"]))
    mail = ("EMAIL", f"{drawn(rng, 'abcdefghij', 6)}.{drawn(rng, 'klmnop', 5)}@{drawn(rng, 'qrstuvw', 7)}.{rng.choice(['org', 'fr', 'co.za', 'dev'])}")
    date = ("DATE", rng.choice(["{d}.{m}.{y}", "{y}-{m}-{d}", "{d}/{m}/{y}"]).format(d=f"{rng.randint(1, 28):02}", m=f"{rng.randint(1, 12):02}", y=rng.randint(1940, 2005)))
    ip = ("IP_ADDRESS", ".".join(str(rng.randint(11, 250)) for _ in range(4)))
    secrets = [["the guest wifi password is ", key, " until Sunday"], ["Passwort: ", key], ["db_password = '", key, "'"]] if kind == "password" else [
        ["export SERVICE_TOKEN=", key], ["I pasted ", key, " into the chat by accident"], ["  apiKey: \"", key, "\","], ["curl -u ", key, ": https://api.test/v1"]]
    parts = rng.choice([
        ["The janitor ", person(), " found the spare keys."], ["Who let ", person(), " and ", person(), " into the lab?"], [person(), " chairs the committee."],
        ["Reply to ", person(), " at ", mail, " before lunch"], ["shipment for ", person(), ": ", place()], ["Her cottage, ", place(), ", burned down."],
        ["we are moving the office to ", place()], ["text ", phone, " once the plumber is gone"], ["Voicemail from ", phone, ": no message"],
        ["My Visa ", card, " was declined twice"], ["born ", date, ", nationality unknown"], ["Applicant: ", person(), "; date of birth ", date],
        ["login from ", ip, " was refused"], ["DEBUG peer=", ip, " took 3 ms"], ["{\"guest\":\"", person(), "\",\"nights\":2}"], ["guest;mail\n", person(), ";", mail],
        ["Ticket 48213 was closed on Monday."], ["The build took 14.2 s on 8 cores (12% faster)."], ["See section 4.2.1 and RFC 9110 for details."],
        ["Boil 250 g of rice for 12 minutes."], ["Berlin, Lima and Oslo are capitals."], ["let total = items.len() * 42; // no tax"],
        ["checksum 9f86d081884c7d659a2feaa0c55ad015 matches"], ["GET /v2/items/88121 200 17ms"], *secrets, *secrets,
    ])
    text, spans = "", []
    for part in parts:
        if isinstance(part, tuple):
            spans.append({"start": len(text), "end": len(text) + len(part[1]), "type": part[0], "subtype": kind if part is key else part[0].lower()})
            part = part[1]
        text += part
    return {"id": f"made-{n}", "text": text, "spans": spans}


def scored(shared, heph, gold, types=None):
    """The last lines of score.py: its numbers."""
    with tempfile.NamedTemporaryFile("w+", suffix=".jsonl") as pred:
        with open(gold) as lines:
            subprocess.run([heph, "pii", "--jsonl"], stdin=lines, stdout=pred, check=True)
        command = [sys.executable, str(shared / "score.py"), str(gold), pred.name, "--json"] + (["--types", types] if types else [])
        out = subprocess.run(command, capture_output=True, text=True).stdout
    print(f"== {pathlib.Path(gold).name}\n{out}")
    return json.loads(next(line for line in out.splitlines() if line.startswith("{")))


def main():
    shared, heph = pathlib.Path(sys.argv[1]), sys.argv[2]
    rng = random.Random(29)
    with tempfile.NamedTemporaryFile("w", suffix="-made.jsonl") as file:
        for n in range(800):
            file.write(json.dumps(made(rng, n), ensure_ascii=False) + "\n")
        file.flush()
        own = scored(shared, heph, file.name)
    dev = scored(shared, heph, shared / "pii.dev.jsonl")
    external = scored(shared, heph, shared / "external" / "presidio_research_v2.jsonl", PATTERNS)
    asked = [
        ("dev: strict F1", dev["ALL"]["strict"][2], 0.90), ("dev: covered", 1 - dev["leak"], 0.97),
        ("made here: strict F1", own["ALL"]["strict"][2], 0.90), ("made here: covered", 1 - own["leak"], 0.97),
        ("external, patterns: relaxed F1", external["ALL"]["relaxed"][2], 0.92),
    ]
    failed = 0
    for name, value, least in asked:
        failed += value < least
        print(f"{'ok    ' if value >= least else 'FAILED'} {name}: {value:.4f}, {least} asked")
    print(f"{len(asked) - failed} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
