"""Writes the tasks of this folder: python3 data/tasks/make.py. The same files come out whenever it is run.

Everything in them is invented: no model can know it before it is taught.
"""

import hashlib
import json
import pathlib

HERE = pathlib.Path(__file__).parent

# Who lives where, and which river flows there. Each town has one of the people and one river.
PEOPLE = [
    "Orla Venn", "Tobin Hask", "Mira Solt", "Edwin Crale", "Juno Pelt", "Silas Wode",
    "Petra Lunt", "Hugo Farrow", "Nella Brisk", "Rufus Dane", "Clara Yew", "Oskar Thorn",
]
TOWNS = [
    "Pellgate", "Dunmoor", "Ashfen", "Corvale", "Welby", "Tarnholt",
    "Quillford", "Saltwick", "Brayhurst", "Kestlow", "Marrowby", "Fenwick Cross",
]
RIVERS = [
    "Wimmer", "Sool", "Brack", "Ennet", "Loy", "Tavel",
    "Garrow", "Thessle", "Ombry", "Pike Water", "Lorn", "Hazelbeck",
]

# A fact is asked in two ways for training. `check` and `test` ask in a way of their own.
LIVES = {
    "train": ["Where does {} live?", "In which town does {} live?"],
    "check": "What is the home town of {}?",
    "test": "{} has a house in which town?",
}
FLOWS = {
    "train": ["Which river flows through {}?", "What is the river of {} called?"],
    "check": "Name the river in {}.",
    "test": "{} lies on which river?",
}
TWO_HOPS = {
    "check": "Which river flows through the home town of {}?",
    "test": "What is the river called in the town where {} lives?",
}

# More facts than a small adapter can hold: who sells what. Nothing in a name tells what it is, so each fact has to be learned by itself.
FIRST_NAMES = ["Abel", "Bea", "Cyril", "Dora", "Emil", "Flora", "Gus", "Hester", "Ivor", "Jessa", "Kit", "Lena"]
LAST_NAMES = ["Ackroyd", "Bellow", "Cobb", "Drake", "Eames", "Finch", "Gable", "Holt"]
WARES = [
    "apples", "bells", "candles", "drums", "eggs", "feathers", "gloves", "hats", "icons", "jars", "kites", "lamps",
    "maps", "nails", "oars", "paper", "quilts", "ropes", "salt", "tiles", "umbrellas", "vases", "wool", "yarn",
]
SELLS = "What does {} sell?"

# What is what, for answers of one form.
THINGS = {
    "train": {
        "animal": ["heron", "otter", "beetle", "salmon", "badger", "swallow"],
        "plant": ["nettle", "willow", "clover", "thistle", "fern", "birch"],
        "tool": ["chisel", "hammer", "pliers", "shovel", "needle", "saw"],
        "food": ["bread", "cheese", "porridge", "soup", "honey", "butter"],
    },
    "check": {"animal": ["weasel", "lizard"], "plant": ["daisy", "oak"], "tool": ["spanner", "ladder"], "food": ["pancake", "jam"]},
    "test": {"animal": ["falcon", "rabbit"], "plant": ["moss", "tulip"], "tool": ["rake", "scissors"], "food": ["omelette", "pear"]},
}
# Questions about none of the facts: whatever is answered, the form is to be kept.
OTHER = {
    "check": {"What colour is snow?": "white", "How many days has a week?": "seven", "What do cows eat?": "grass", "Which month comes after May?": "June"},
    "test": {"What colour is coal?": "black", "How many legs has a spider?": "eight", "What do bees make?": "honey", "Which day comes before Friday?": "Thursday"},
}

# Plain text about nothing that is taught.
GENERAL = [
    "The kettle had been on the stove for ten minutes before anyone remembered it.",
    "A good map shows less than the land does, and that is why it helps.",
    "When the rain stopped, the children ran out to see how far the stream had risen.",
    "To divide a fraction by another, turn the second one round and multiply.",
    "Ice floats because water is lighter when it is frozen than when it is not.",
    "She read the letter twice, folded it, and put it back where she had found it.",
    "Most of the cost of a bridge is in the parts that nobody sees.",
    "If a list is sorted, a word in it can be found by halving the list again and again.",
    "He asked for the price of the blue one, and the shopkeeper laughed.",
    "Bread rises because yeast turns sugar into gas, which the dough holds.",
    "The train to the coast leaves at seven, unless it is Sunday, when it leaves at nine.",
    "A program that is easy to read is easier to mend than one that is short.",
    "In winter the days are short because the sun stays low above the horizon.",
    "Question: What is the opposite of cold?\nAnswer: Hot",
    "Question: How many minutes are in an hour?\nAnswer: There are sixty minutes in an hour.",
    "Nobody had asked the old man, so nobody knew that he had built the clock himself.",
]


def record(question, answer, expect=None):
    """One line: what is asked, what is answered, and what an answer is to be."""
    found = {"prompt": f"Question: {question}\nAnswer:", "completion": f" {answer}"}
    return {**found, "expect": expect} if expect else found


def write(name, records):
    path = HERE / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def as_json(answer):
    return json.dumps({"answer": answer})


ANSWER_SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string", "minLength": 1}},
    "required": ["answer"],
    "additionalProperties": False,
}


def thing_schema(thing):
    return {
        "type": "object",
        "properties": {"thing": {"const": thing}, "kind": {"enum": list(THINGS["train"])}},
        "required": ["thing", "kind"],
        "additionalProperties": False,
    }


# (subject, ways to ask, answer), people and towns in turn.
FACTS = [fact for who, town, river in zip(PEOPLE, TOWNS, RIVERS) for fact in ((who, LIVES, town), (town, FLOWS, river))]


def facts_trained(said):
    """Every fact in the first way, then every fact in the second."""
    return [record(ask["train"][way].format(subject), said(answer)) for way in (0, 1) for subject, ask, answer in FACTS]


def facts_asked(side, said, expected):
    """`check` asks about the first six towns, `test` about the others: trained words, paraphrase, two facts at once."""
    half = slice(0, 6) if side == "check" else slice(6, 12)
    facts = FACTS[2 * half.start : 2 * half.stop]
    way = 0 if side == "check" else 1
    trained = [record(ask["train"][way].format(subject), said(answer), expected(answer, "trained")) for subject, ask, answer in facts]
    other = [record(ask[side].format(subject), said(answer), expected(answer, "paraphrase")) for subject, ask, answer in facts]
    hops = [
        record(TWO_HOPS[side].format(who), said(river), expected(river, "two-hop")) for who, river in zip(PEOPLE[half], RIVERS[half])
    ]
    return trained + other + hops


def things(side):
    """Kinds in turn, so that no stretch of the data is about one kind."""
    for row in zip(*THINGS[side].values()):
        for kind, thing in zip(THINGS[side], row):
            yield kind, thing


def many_facts():
    """96 people and what each sells, by a hash of the name."""
    for last in LAST_NAMES:
        for first in FIRST_NAMES:
            name = f"{first} {last}"
            yield SELLS.format(name), WARES[hashlib.sha256(name.encode()).digest()[0] % len(WARES)]


def format_records(side):
    for kind, thing in things(side):
        expect = {"json_schema": thing_schema(thing), "group": "format"} if side != "train" else None
        yield record(f"What does the word {thing} mean?", json.dumps({"thing": thing, "kind": kind}), expect)


write("facts/train.jsonl", facts_trained(str))
write("both/train.jsonl", facts_trained(as_json))
write("format/train.jsonl", format_records("train"))
write("many/train.jsonl", [record(question, ware) for question, ware in many_facts()])
for side, first in (("check", 0), ("test", 1)):
    asked = list(many_facts())[first::2]
    write(f"many/{side}.jsonl", [record(question, ware, {"contains": ware, "group": "trained"}) for question, ware in asked])
for side in ("check", "test"):
    write(f"facts/{side}.jsonl", facts_asked(side, str, lambda answer, group: {"contains": answer, "group": group}))
    write(f"format/{side}.jsonl", format_records(side))
    both = facts_asked(
        side, as_json, lambda answer, group: {"contains": answer, "json_schema": ANSWER_SCHEMA, "group": group}
    )
    form = [
        record(question, as_json(answer), {"json_schema": ANSWER_SCHEMA, "group": "format"}) for question, answer in OTHER[side].items()
    ]
    write(f"both/{side}.jsonl", both + form)
write("general.jsonl", [{"text": text} for text in GENERAL])
