"""The work that compare.py gives to each program, and the same data in each program's format.

Speed does not depend on what a text says, so the packed workloads are random token ids; the chat workload is made-up sentences,
because ferrotensor reads conversations as text only. Everything is seeded: each run and each program sees the same tokens.
"""

import dataclasses
import json
import pathlib
import random
import struct

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
ALL_LINEAR = ATTENTION + ["gate_proj", "up_proj", "down_proj"]
RECORDS = 32  # distinct records in a file; files are read again when steps need more
FIRST_ORDINARY_TOKEN = 100  # ids below are special tokens and single bytes in the vocabularies of interest
CHAT_MAX_LENGTH = 256
WORDS = (
    "the a river stone lamp carries under over morning seven old quiet garden opens between letters winter boat "
    "keeper writes counts green paper because while after north bridge answers small glass wheel turns slowly"
).split()


@dataclasses.dataclass
class Workload:
    name: str
    target_modules: list
    sequences: int
    length: int  # tokens of a sequence; 0: a conversation, up to CHAT_MAX_LENGTH

    @property
    def is_chat(self):
        return self.length == 0

    @property
    def max_length(self):
        return self.length or CHAT_MAX_LENGTH


WORKLOADS = [
    Workload("all-1x128", ALL_LINEAR, 1, 128),
    Workload("all-4x128", ALL_LINEAR, 4, 128),
    Workload("all-1x512", ALL_LINEAR, 1, 512),
    Workload("attention-1x128", ATTENTION, 1, 128),
    Workload("attention-4x128", ATTENTION, 4, 128),
    Workload("attention-1x512", ATTENTION, 1, 512),
    Workload("all-chat-4", ALL_LINEAR, 4, 0),
]


@dataclasses.dataclass
class Files:
    pretokenised: pathlib.Path  # {"input_ids", "labels"?} a line: graftling and PEFT
    ferrotensor: pathlib.Path  # .bin of u32 ids, or {"prompt", "response"} a line
    records: list


def sentence(chance, words):
    return " ".join(chance.choice(WORDS) for _ in range(words)).capitalize() + "."


def conversation(chance, encode):
    """One question and answer in ChatML with the lengths of real chats (log-normal), the answer supervised."""
    question = sentence(chance, max(4, round(chance.lognormvariate(3.6, 0.7))))
    answer = sentence(chance, max(4, round(chance.lognormvariate(4.0, 0.7))))
    prompt = encode(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")
    completion = encode(f"{answer}<|im_end|>")
    ids = (prompt + completion)[:CHAT_MAX_LENGTH]
    labels = ([-100] * len(prompt) + completion)[:CHAT_MAX_LENGTH]
    return {"input_ids": ids, "labels": labels}, {"prompt": question, "response": answer}


def write_files(workload, folder, vocab_size, encode):
    """The workload's data under `folder`; `encode` turns text into ids (only used for conversations)."""
    chance = random.Random(f"graftling {workload.name.split('-', 1)[1]}")
    records, texts = [], []
    while len(records) < RECORDS:
        if not workload.is_chat:
            records.append({"input_ids": [chance.randrange(FIRST_ORDINARY_TOKEN, vocab_size) for _ in range(workload.length)]})
            continue
        record, text = conversation(chance, encode)
        # a record whose question fills the row has nothing to learn; ferrotensor drops it
        if sum(label != -100 for label in record["labels"]) >= 4:
            records.append(record)
            texts.append(text)
    pretokenised = folder / f"{workload.name}.jsonl"
    pretokenised.write_text("".join(json.dumps(record) + "\n" for record in records))
    if workload.is_chat:
        ferrotensor = folder / f"{workload.name}-ferrotensor.jsonl"
        ferrotensor.write_text("".join(json.dumps(text) + "\n" for text in texts))
    else:
        # ferrotensor cuts a stream into windows that share one token
        ferrotensor = folder / f"{workload.name}.bin"
        stream = [token for record in records for token in record["input_ids"]]
        ferrotensor.write_bytes(struct.pack(f"<{len(stream)}I", *stream))
    return Files(pretokenised, ferrotensor, records)
