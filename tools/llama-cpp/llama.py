"""llama.cpp as a library of Python: a model, perhaps with an adapter, that continues ids and answers questions.

    pip install xllamacpp gguf          (llama.cpp itself in a wheel; nothing is built)

Everything runs on one thread of the CPU, greedily, and nothing is kept from one prompt to the next.
"""

import json
import urllib.error
import urllib.request

import gguf
import xllamacpp

CONTEXT = 1024


def described(path):
    """What gguf-py reads: the architecture, keys, and how many tensors have which type."""
    reader = gguf.GGUFReader(path)
    kinds = {}
    for tensor in reader.tensors:
        kinds[tensor.tensor_type.name] = kinds.get(tensor.tensor_type.name, 0) + 1
    architecture = reader.get_field("general.architecture").contents()
    return f"{architecture}, {len(reader.fields)} keys, {', '.join(f'{count} {kind}' for kind, count in kinds.items())}"


class Llama:
    """A model that is loaded, with `lora` beside it if there is one."""

    def __init__(self, model, lora=None):
        params = xllamacpp.CommonParams()
        params.model.path = str(model)
        params.n_ctx, params.n_gpu_layers, params.warmup, params.verbosity = CONTEXT, 0, False, 0
        params.cpuparams.n_threads, params.n_parallel, params.use_jinja = 1, 1, True
        if lora:
            params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(lora), 1.0)]
        self.server = xllamacpp.Server(params)

    def _post(self, path, body):
        request = urllib.request.Request(self.server.listening_address + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise SystemExit(f"llama.cpp says: {error.read().decode()}") from error

    def ids(self, text):
        """The ids of a text in which marks such as <|im_start|> are tokens; nothing is put before it."""
        return self._post("/tokenize", {"content": text, "add_special": False, "parse_special": True})["tokens"]

    def continued(self, ids, count):
        """The most probable ids after `ids`, `count` at most; and of each place log p of the ten most probable ids."""
        body = {"prompt": ids, "n_predict": count, "temperature": 0, "cache_prompt": False, "return_tokens": True, "n_probs": 10}
        answer = self._post("/completion", body)
        places = answer["completion_probabilities"]
        return [place["id"] for place in places], [{top["id"]: top["logprob"] for top in place["top_logprobs"]} for place in places]

    def text(self, prompt, count=24):
        """How it goes on with a text, before which stands what the model wants there."""
        return self._post("/completion", {"prompt": prompt, "n_predict": count, "temperature": 0, "cache_prompt": False})["content"]

    def answer(self, question, count=24):
        """What it says to a question, by the model's own template."""
        body = {"messages": [{"role": "user", "content": question}], "max_tokens": count, "temperature": 0, "cache_prompt": False}
        return self._post("/v1/chat/completions", body)["choices"][0]["message"]["content"]


def parted(llama, prompt, ours, most_partings=6):
    """Where llama.cpp's text parts from ours: `(place, gap)`, gap being how much more probable (natural log) its choice is than ours. After
    a parting it reads our text and goes on from there, so that every one of our ids is compared; after `most_partings` it is given up."""
    partings, at = [], 0
    while at < len(ours) and len(partings) < most_partings:
        theirs, tops = llama.continued(prompt + ours[:at], len(ours) - at)
        same = 0
        while same < min(len(theirs), len(ours) - at) and theirs[same] == ours[at + same]:
            same += 1
        at += same
        if same < len(theirs):
            partings.append((at, max(tops[same].values()) - tops[same].get(ours[at], float("-inf"))))
            at += 1
        elif not theirs:
            return [*partings, (at, float("inf"))]
        # Else it has stopped, at an id that it takes for an end and we do not.
    return partings
