"""Made-up records and questions about them: what somebody looks for in their own papers.

The names, numbers, relations and wordings here are for training alone: the evaluation (`heph-world`, tests/retrieval) has its own.
"""

ONSETS = "b bl br c ch d dr f fl g gr h j k kl l m n p pr qu r s sh sk st t th tr v w z".split()
NUCLEI = "a e i o u ai ea ee ia io oa ou".split()
CODAS = "b ck d l ll m n nd ng nt r rd rn s ss st t x".split()

MONTHS = "January February March April May June July August September October November December".split()
STREETS = "Mill Lane|Quarry Road|Station Street|Harbour Row|Orchard Close|Abbey Walk|Foundry Yard|Bishop Street".split("|")
JOBS = "surveyor baker chemist tailor pilot lawyer carpenter nurse editor librarian gardener sculptor brewer welder optician".split()
FOODS = "lentil soup|rye bread|plum cake|grilled trout|mushroom pie|rice pudding|pickled cabbage|barley stew".split("|")
COLOURS = "crimson teal ochre violet ivory navy olive amber grey maroon".split()
ANIMALS = "parrot terrier tortoise hedgehog canary goat rabbit mule".split()
MATERIALS = "oak brass granite linen copper slate cork steel leather".split()
ILLS = "penicillin peanuts latex pollen shellfish aspirin wasp stings".split()

# (who or what the record is about, its statements, its questions); {x} the subject, {v} the value.
RELATIONS = [
    ("person", "year", ["{x} was born in {v}.", "{x} came into the world in {v}.", "{x}, whose year of birth is {v}, grew up by the sea."],
     ["When was {x} born?", "What is the birth year of {x}?", "In which year did {x} come into the world?", "How old is {x}?"]),
    ("person", "place", ["{x} lives in {v}.", "{x} moved to {v} and has stayed there since.", "The home of {x} is in {v}.", "{x} resides in {v}."],
     ["Where does {x} live?", "In which town is the home of {x}?", "What is the residence of {x}?", "Which city did {x} move to?"]),
    ("person", "job", ["{x} works as a {v}.", "{x} earns a living as a {v}.", "By trade, {x} is a {v}.", "{x} was trained as a {v}."],
     ["What does {x} do for a living?", "What is the profession of {x}?", "Which occupation does {x} have?", "What is {x}'s job?"]),
    ("person", "money", ["{x} earns {v} a year.", "The salary of {x} is {v}.", "{x} is paid {v} annually.", "Each year {x} takes home {v}."],
     ["How much does {x} earn?", "What is the salary of {x}?", "What is {x} paid?", "How high are the wages of {x}?"]),
    ("person", "person", ["{x} is married to {v}.", "{x} wed {v} in a small chapel.", "The spouse of {x} is {v}.", "{v} is the wife of {x}."],
     ["Who is {x} married to?", "Who is the husband or wife of {x}?", "What is the name of {x}'s spouse?", "Whom did {x} marry?"]),
    ("person", "person", ["{x} reports to {v}.", "The boss of {x} is {v}.", "{v} supervises the work of {x}.", "{x} has {v} as line manager."],
     ["Who is the manager of {x}?", "Whom does {x} report to?", "Who supervises {x}?", "Who is {x}'s boss?"]),
    ("person", "phone", ["{x} can be reached at {v}.", "The telephone number of {x} is {v}.", "Call {x} on {v}.", "{x} answers the phone at {v}."],
     ["What is the phone number of {x}?", "How can I call {x}?", "Which number reaches {x}?", "What is {x}'s telephone?"]),
    ("person", "mail", ["Write to {x} at {v}.", "The e-mail address of {x} is {v}.", "{x} reads mail sent to {v}."],
     ["What is the e-mail of {x}?", "Where can I write to {x}?", "Which address do I mail {x} at?"]),
    ("person", "ill", ["{x} is allergic to {v}.", "{x} cannot tolerate {v}.", "The doctor noted that {x} reacts badly to {v}."],
     ["What is {x} allergic to?", "Which allergy does {x} have?", "What must {x} avoid for health reasons?", "What does {x} not tolerate?"]),
    ("person", "food", ["{x} likes {v} above all.", "The favourite dish of {x} is {v}.", "{x} always orders {v}."],
     ["What does {x} like to eat?", "What is the favourite food of {x}?", "Which meal does {x} prefer?"]),
    ("person", "animal", ["{x} keeps a {v} at home.", "The pet of {x} is a {v}.", "{x} bought a {v} from a farmer."],
     ["Which pet does {x} have?", "What animal does {x} own?", "What kind of creature lives with {x}?"]),
    ("person", "date", ["{x} joined on {v}.", "{x} was hired on {v}.", "The first working day of {x} was {v}.", "{x} started here on {v}."],
     ["When did {x} join?", "When was {x} hired?", "What was the first day of {x} at work?", "Since when has {x} been employed?"]),
    ("firm", "year", ["{x} was founded in {v}.", "{x} opened its doors in {v}.", "Since {v}, {x} has been in business.", "{x} was established in {v}."],
     ["When was {x} founded?", "In which year was {x} set up?", "How long has {x} existed?", "When did {x} begin?"]),
    ("firm", "place", ["{x} has its headquarters in {v}.", "The main office of {x} stands in {v}.", "{x} is run from {v}."],
     ["Where is {x} based?", "Where are the headquarters of {x}?", "In which city is the head office of {x}?"]),
    ("firm", "money", ["{x} had a turnover of {v}.", "Sales of {x} reached {v}.", "{x} took in {v} last year.", "The revenue of {x} was {v}."],
     ["What was the revenue of {x}?", "How much did {x} sell?", "What turnover did {x} have?", "How much money did {x} make?"]),
    ("firm", "count", ["{x} employs {v} people.", "{v} men and women work for {x}.", "The staff of {x} numbers {v}."],
     ["How many employees does {x} have?", "How large is the workforce of {x}?", "How many people work at {x}?"]),
    ("firm", "person", ["{x} is led by {v}.", "The director of {x} is {v}.", "{v} took over as head of {x}.", "{v} runs {x}."],
     ["Who leads {x}?", "Who is the chief of {x}?", "Who is in charge of {x}?", "What is the name of the director of {x}?"]),
    ("firm", "street", ["Letters to {x} go to {v}.", "The address of {x} is {v}.", "{x} rents rooms at {v}."],
     ["What is the address of {x}?", "Where do I send a letter for {x}?", "On which street is {x}?"]),
    ("project", "money", ["The budget of {x} is {v}.", "{x} may cost {v} at most.", "{v} were set aside for {x}.", "Funds of {v} were granted to {x}."],
     ["What is the budget of {x}?", "How much may {x} cost?", "How much money was reserved for {x}?", "What funds does {x} have?"]),
    ("project", "date", ["{x} is due on {v}.", "The deadline of {x} is {v}.", "{x} must be finished by {v}.", "Delivery of {x} was promised for {v}."],
     ["When is {x} due?", "What is the deadline of {x}?", "By when must {x} be done?", "When will {x} be delivered?"]),
    ("project", "person", ["{v} is responsible for {x}.", "{x} was handed to {v}.", "{v} looks after {x}.", "The owner of {x} is {v}."],
     ["Who is responsible for {x}?", "Who takes care of {x}?", "Who was given {x}?", "Who is the contact for {x}?"]),
    ("project", "firm", ["The parts for {x} come from {v}.", "{v} supplies {x}.", "The contractor of {x} is {v}."],
     ["Who supplies {x}?", "Which vendor works on {x}?", "Where do the parts for {x} come from?"]),
    ("thing", "number", ["{x} weighs {v} kilograms.", "The weight of {x} is {v} kilograms.", "On the scales {x} came to {v} kilograms."],
     ["How heavy is {x}?", "What is the weight of {x}?", "How much does {x} weigh?"]),
    ("thing", "number", ["{x} is {v} metres long.", "The length of {x} is {v} metres.", "From end to end {x} measures {v} metres."],
     ["How long is {x}?", "What is the length of {x}?", "What does {x} measure?"]),
    ("thing", "code", ["The serial number of {x} is {v}.", "{x} bears the number {v}.", "A plate on {x} reads {v}.", "{x} is listed as {v}."],
     ["What is the serial number of {x}?", "Which number does {x} bear?", "What is the code of {x}?", "Under which number is {x} listed?"]),
    ("thing", "material", ["{x} is made of {v}.", "{x} was built from {v}.", "They used {v} for {x}."],
     ["What is {x} made of?", "Which material was used for {x}?", "What was {x} built from?"]),
    ("thing", "colour", ["{x} was painted {v}.", "The colour of {x} is {v}.", "They gave {x} a coat of {v}."],
     ["What colour is {x}?", "How was {x} painted?", "Which shade does {x} have?"]),
    ("thing", "money", ["{x} costs {v}.", "The price of {x} is {v}.", "{x} was sold for {v}.", "Somebody bought {x} for {v}."],
     ["How much is {x}?", "What is the price of {x}?", "What did somebody pay for {x}?", "How expensive is {x}?"]),
    ("thing", "place", ["{x} is kept in {v}.", "{x} is stored in {v}.", "They brought {x} to {v}.", "{x} can be found in {v}."],
     ["Where is {x}?", "Where is {x} stored?", "In which place is {x} kept?", "Where was {x} taken?"]),
    ("thing", "date", ["{x} was repaired on {v}.", "A mechanic mended {x} on {v}.", "{x} was last serviced on {v}."],
     ["When was {x} repaired?", "When was {x} last maintained?", "When did somebody fix {x}?"]),
    ("contract", "date", ["{x} was signed on {v}.", "Both sides put their names under {x} on {v}.", "{x} bears the date {v}."],
     ["When was {x} signed?", "On which day was {x} concluded?", "What is the date of {x}?"]),
    ("contract", "date", ["{x} ends on {v}.", "{x} expires on {v}.", "{x} remains valid until {v}.", "{x} runs out on {v}."],
     ["When does {x} expire?", "Until when is {x} valid?", "When will {x} end?", "When does {x} run out?"]),
    ("contract", "money", ["Breaking {x} costs {v}.", "{x} sets a penalty of {v}.", "A fine of {v} is due under {x} for late delivery."],
     ["What is the penalty in {x}?", "What fine does {x} set?", "How much is due when {x} is broken?"]),
    ("contract", "count", ["{x} may be cancelled with {v} days of notice.", "Under {x} the notice period is {v} days."],
     ["What is the notice period of {x}?", "How many days before must {x} be cancelled?", "How can {x} be terminated?"]),
    ("meeting", "time", ["{x} begins at {v}.", "{x} is set for {v}.", "Please be there for {x} at {v}."],
     ["When does {x} start?", "What time is {x}?", "At what hour is {x}?"]),
    ("meeting", "room", ["{x} takes place in {v}.", "For {x} we booked {v}.", "{x} will be held in {v}."],
     ["Where is {x} held?", "Which room was booked for {x}?", "Where does {x} take place?"]),
    ("meeting", "count", ["{v} guests came to {x}.", "{x} was attended by {v} people.", "{x} drew a crowd of {v}."],
     ["How many people attended {x}?", "How many visitors did {x} have?", "How large was the crowd at {x}?"]),
    ("computer", "code", ["The password of {x} was changed to {v}.", "Log in to {x} with {v}.", "{x} opens with the key {v}."],
     ["What is the password of {x}?", "How do I log in to {x}?", "What are the credentials for {x}?"]),
    ("computer", "number", ["{x} has {v} gigabytes of memory.", "The memory of {x} was raised to {v} gigabytes."],
     ["How much memory does {x} have?", "How much RAM is in {x}?", "What memory size has {x}?"]),
    ("computer", "version", ["{x} runs version {v}.", "{x} was upgraded to release {v}.", "Version {v} was installed on {x}."],
     ["Which version runs on {x}?", "Which release does {x} use?", "What was {x} upgraded to?"]),
    ("computer", "cause", ["{x} failed because {v}.", "The outage of {x} happened since {v}.", "{x} crashed; it turned out that {v}."],
     ["Why did {x} fail?", "What caused the outage of {x}?", "What was the reason that {x} crashed?"]),
    ("rule", "cause", ["{x} was introduced because {v}.", "The board agreed to {x} since {v}."],
     ["Why was {x} introduced?", "What is the reason for {x}?", "What led to {x}?"]),
]

CAUSES = ["a disk was full", "a cable had come loose", "the licence had run out", "two clocks disagreed", "the water pump froze",
          "customers complained", "a fuse had blown", "the roof leaked", "the supplier went bankrupt", "the old rule was unfair",
          "nobody had renewed the certificate", "prices doubled", "too many people were late", "the air was too dry"]
CASUAL = ["tell me {q}", "do you know {q}", "{q} please", "i want to know {q}", "find out {q}", "{q}", "{q}", "{q}", "{q}", "{q}", "{q}"]


def word(rng, capital=True):
    text = "".join(rng.choice(ONSETS) + rng.choice(NUCLEI) for _ in range(rng.choice([1, 1, 2]))) + rng.choice(CODAS)
    return text.capitalize() if capital else text


def subject(kind, rng):
    name = word(rng)
    return {
        "person": lambda: rng.choice([f"{name} {word(rng)}", f"Dr. {name}", f"Mrs. {name}", f"Mr. {name}", f"{name}"]),
        "firm": lambda: f"{name} {rng.choice(['Brothers', 'Works', 'Limited', 'Foods', 'Shipping', 'Bank', 'Laboratories', 'and Sons'])}",
        "project": lambda: rng.choice([f"the {name} project", f"Project {name}", f"the {name} bridge", f"task {name}", f"the {name} study"]),
        "thing": lambda: f"the {rng.choice(COLOURS + MATERIALS)} {rng.choice(['clock', 'boat', 'engine', 'lamp', 'statue', 'pump', 'loom', 'piano', 'ladder', 'crane'])}"
                         + rng.choice(["", "", f" of {name}", f" {name}"]),
        "contract": lambda: f"the {rng.choice(['lease', 'agreement', 'policy', 'licence', 'contract', 'permit'])} with {name}",
        "meeting": lambda: f"the {name} {rng.choice(['meeting', 'conference', 'workshop', 'hearing', 'concert', 'seminar'])}",
        "computer": lambda: rng.choice([f"server {name.lower()}", f"the {name} database", f"host {name.lower()}-{rng.randrange(1, 40)}", f"the {name} cluster"]),
        "rule": lambda: f"the {name} {rng.choice(['rule', 'fee', 'tax', 'ban', 'policy'])}",
    }[kind]()


def value(kind, rng):
    number = rng.choice([rng.randrange(2, 99), rng.randrange(100, 999), rng.randrange(1000, 99999)])
    return {
        "year": lambda: str(rng.randrange(1780, 2030)),
        "place": lambda: word(rng) + rng.choice(["", "", " Bay", " Falls", "ton", "ville", "burg", " on the hill"]),
        "job": lambda: rng.choice(JOBS),
        "money": lambda: rng.choice(["{:,} pounds", "${:,}", "{:,} euros", "{:,} dollars"]).format(number * rng.choice([1, 10, 100])),
        "person": lambda: f"{word(rng)} {word(rng)}",
        "firm": lambda: subject("firm", rng),
        "phone": lambda: f"{rng.randrange(200, 999)}-{rng.randrange(1000, 9999)}",
        "mail": lambda: f"{word(rng).lower()}@{word(rng).lower()}.example",
        "ill": lambda: rng.choice(ILLS),
        "food": lambda: rng.choice(FOODS),
        "animal": lambda: rng.choice(ANIMALS),
        "date": lambda: rng.choice([f"{rng.randrange(1, 29)} {rng.choice(MONTHS)} {rng.randrange(1850, 2030)}", f"{rng.choice(MONTHS)} {rng.randrange(1, 29)}",
                                    f"{rng.randrange(1990, 2030)}-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}"]),
        "count": lambda: str(number),
        "street": lambda: f"{rng.randrange(1, 200)} {rng.choice(STREETS)}",
        "number": lambda: f"{number}" if rng.random() < 0.5 else f"{number / 10:.1f}",
        "code": lambda: f"{word(rng).upper()[:2]}-{rng.randrange(100, 99999)}",
        "material": lambda: rng.choice(MATERIALS),
        "colour": lambda: rng.choice(COLOURS),
        "time": lambda: f"{rng.randrange(7, 20)}:{rng.choice(['00', '15', '30', '45'])}",
        "room": lambda: rng.choice([f"room {rng.randrange(1, 400)}", f"the {word(rng)} hall", "the old library", "the canteen"]),
        "version": lambda: f"{rng.randrange(1, 20)}.{rng.randrange(0, 30)}",
        "cause": lambda: rng.choice(CAUSES),
    }[kind]()


def record(rng):
    """A question, the statement that answers it, and one that does not: the same subject or the same relation, not both."""
    about, kind, statements, questions = rng.choice(RELATIONS)
    x = subject(about, rng)
    say = lambda relation, x: rng.choice(relation[2]).format(x=x, v=value(relation[1], rng))
    relation = (about, kind, statements, questions)
    others = [r for r in RELATIONS if r[0] == about and r is not relation and r[2] is not statements]
    wrong = say(rng.choice(others), x) if others and rng.random() < 0.6 else say(relation, subject(about, rng))
    question = rng.choice(CASUAL).format(q=rng.choice(questions).format(x=x))
    statement = say(relation, x)
    return question, statement[0].upper() + statement[1:], wrong[0].upper() + wrong[1:]
