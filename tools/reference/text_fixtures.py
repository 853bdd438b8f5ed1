"""Writes tests/fixtures/text/: what the reference libraries make of small vocabularies and of chat templates.

    pip install "transformers==5.23.0" "tokenizers==0.23.3" "sentencepiece==0.2.3" "gguf==0.19.0"
    python tools/reference/text_fixtures.py [SmolLM2-135M-Instruct.gguf]

* vocabularies.json: a byte-level BPE vocabulary (trained here, by `tokenizers`) and a SentencePiece one (trained here, by
  `sentencepiece`), as GGUF metadata holds them, and the ids that the reference gives for each text. For byte-level BPE the
  reference is the tokenizer class of the model family in `transformers`; for SentencePiece it is `sentencepiece` itself.
* sentencepiece_tokenizer.json: the SentencePiece vocabulary as a Hugging Face tokenizer.json that adds BOS.
* templates.json: templates in the manner of six families (in our own words), the conversations that they are given, what
  `transformers` renders, and which characters its `generation` tags mark as the assistant's.
* smollm2.json, if the model is given: ids of texts by its vocabulary, and conversations by its chat template.
"""

import io
import json
import pathlib
import random
import sys

import sentencepiece
import tokenizers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AddedToken, GPT2Tokenizer, Qwen2Tokenizer
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.utils.chat_template_utils import render_jinja_template

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests/fixtures/text"

CORPUS = [
    "The lighthouse keeper counts the ships, and the ships count the nights. It's late; they're tired, we'll wait.",
    "In 1987 the bridge cost 12,345 crowns; by 2024 it had cost 998877. That's 3.14159 times more than they'd said.",
    "def area(radius):\n    # the area of a circle\n    return 3.14159 * radius ** 2\n\n\nprint(area(10))\n",
    "Äpfel, Öl und Übermut: größer als gestern. Où est le café? Là-bas, près de l'école.",
    "Привет, мир. Сколько стоит билет? 你好，世界。今天天气很好。",
    "A user asks, and the assistant answers. The user thanks the assistant; the assistant is glad to help the user.",
]

TEXTS = [
    "",
    " ",
    "The ships",
    "  two  spaces and\ta tab\n\n\n   then lines\r\n and the end   \n",
    "It's IT'S they'Re we'LL don't",
    "1 22 333 4444 55555 in 1987, 12,345.67",
    "naïve café größer 你好 Привет",
    "cafe\u0301 is composed by some, Å too",
    "🙂 and 👩‍👩‍👧 and a flag 🇫🇷",
    "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
    "<|im_end|><|im_end|> x <|im_end|>",
    "def area(radius):\n    return 3.14159 * radius ** 2",
    "٣٤٥ Ⅷ ½ ² x²",
    "\u00a0no\u2003break\u3000space",
    "a\x00b\x07c\x7f",
    "under_score-and.dots...!!!???\n!!\n",
]


def random_texts(count):
    random.seed(7)
    alphabet = " ".join(CORPUS) + "  \n\n\t'0123456789🙂é_.,;"
    return ["".join(random.choice(alphabet) for _ in range(random.randint(1, 60))) for _ in range(count)]


def byte_level():
    """One vocabulary for all pre-tokenizers: merges that cross their borders are there, and only some may use them."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trained = Tokenizer(models.BPE())
    # Cut only at letters after spaces, so that digits, contractions and line ends do merge.
    trained.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(tokenizers.Regex(r" (?=\p{L})"), "merged_with_next"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    trainer = trainers.BpeTrainer(vocab_size=620, special_tokens=special, min_frequency=1, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    trained.train_from_iterator(CORPUS * 2, trainer)
    model = json.loads(trained.to_str())["model"]
    vocab, merges = model["vocab"], [tuple(m) for m in model["merges"]]
    # One word that no merges lead to: Llama 3 takes it whole.
    vocab["Ġxylophone"] = len(vocab)
    tokens = sorted(vocab, key=vocab.get)

    def with_special(tokenizer):
        for token in special:
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        return tokenizer

    def class_of_family(cls):
        tokenizer = cls(vocab=dict(vocab), merges=list(merges))
        tokenizer.add_special_tokens({"additional_special_tokens": special})
        return lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]

    def backend(pre, ignore_merges=False):
        tokenizer = Tokenizer(models.BPE(vocab=dict(vocab), merges=list(merges), ignore_merges=ignore_merges))
        tokenizer.pre_tokenizer = pre
        with_special(tokenizer)
        return lambda text: tokenizer.encode(text, add_special_tokens=False).ids

    llama3 = pre_tokenizers.Sequence([
        pre_tokenizers.Split(tokenizers.Regex(TikTokenConverter().pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    # As in the tokenizer.json of HuggingFaceTB/SmolLM2-135M-Instruct.
    smollm = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
    ])
    references = {
        "gpt-2": class_of_family(GPT2Tokenizer),
        "qwen2": class_of_family(Qwen2Tokenizer),
        "llama-bpe": backend(llama3, ignore_merges=True),
        "smollm": backend(smollm),
    }
    texts = TEXTS + [" a xylophone"] + random_texts(24)
    return {
        "tokens": tokens,
        "merges": [" ".join(merge) for merge in merges],
        "token_types": [3 if token in special else 1 for token in tokens],
        "texts": texts,
        "ids": {name: [encode(text) for text in texts] for name, encode in references.items()},
    }


def sentence_piece():
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in CORPUS for line in text.split("\n") if line.strip()]),
        model_writer=written, vocab_size=460, model_type="bpe", byte_fallback=True, character_coverage=0.995,
        normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
        allow_whitespace_only_pieces=True, minloglevel=2)
    processor = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    count = processor.vocab_size()
    kind = lambda i: (2 if processor.is_unknown(i) else 3 if processor.is_control(i) else 6 if processor.is_byte(i) else 1)
    vocabulary = {
        "tokens": [processor.id_to_piece(i) for i in range(count)],
        "scores": [processor.get_score(i) for i in range(count)],
        "token_types": [kind(i) for i in range(count)],
    }
    plain = [text for text in TEXTS + random_texts(24) if "<|" not in text and "\x00" not in text]
    vocabulary["texts"] = plain
    vocabulary["ids"] = [processor.encode(text) for text in plain]
    vocabulary["decoded"] = [processor.decode(ids) for ids in vocabulary["ids"]]
    # Control tokens cut the text; each piece is encoded by itself.
    vocabulary["with_control"] = {
        "text": "<s>The ships</s><s> count the nights",
        "ids": [1, *processor.encode("The ships"), 2, 1, *processor.encode(" count the nights")],
    }
    return vocabulary


def hugging_face_file(vocabulary):
    """The same vocabulary in the layout of Llama 2's tokenizer.json."""
    tokens, scores = vocabulary["tokens"], vocabulary["scores"]
    ids = {token: i for i, token in enumerate(tokens)}
    merges = [(scores[i], len(token[:cut]), token[:cut], token[cut:]) for i, token in enumerate(tokens)
              for cut in range(1, len(token)) if token[:cut] in ids and token[cut:] in ids]
    merges.sort(key=lambda merge: (-merge[0], -merge[1]))
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[(left, right) for _, _, left, right in merges],
                                     unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    for token in ["<unk>", "<s>", "</s>"]:
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
    # The run that wrote a file may have left these behind; they must not cut a training text.
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=8)
    return tokenizer


# `generation` marks what the model has to generate after the generation prompt, up to and including its end token.
CHATML = """{% for m in messages %}
{%- if loop.first and m['role'] != 'system' %}{{ '<|im_start|>system\\nBe brief.<|im_end|>\\n' }}{% endif %}
{%- if m['role'] == 'assistant' -%}
{{ '<|im_start|>assistant\\n' }}{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}
{%- else -%}
{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}
{%- endif -%}
{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

LLAMA2 = """{%- if messages[0].role == 'system' -%}
    {%- set opening = '<<SYS>>\\n' ~ messages[0].content ~ '\\n<</SYS>>\\n\\n' -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set opening = '' -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- for turn in turns -%}
    {%- if (turn.role == 'user') != (loop.index0 is even) -%}
        {{ raise_exception('user and assistant must take turns') }}
    {%- endif -%}
    {%- if turn.role == 'user' -%}
        {{- bos_token + '[INST] ' + ((opening if loop.first else '') + turn.content).strip() + ' [/INST]' -}}
    {%- elif turn.role == 'assistant' -%}
        {%- generation -%}{{- ' ' + turn.content.strip() + ' ' + eos_token -}}{%- endgeneration -%}
    {%- endif -%}
{%- endfor -%}"""

LLAMA3 = """{{- bos_token }}
{%- macro head(role) %}{{ '<|start_header_id|>' ~ role ~ '<|end_header_id|>\\n\\n' }}{% endmacro %}
{%- if messages and messages[0]['role'] == 'system' %}
    {%- set said = messages[0]['content'] | trim %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set said = '' %}
    {%- set rest = messages %}
{%- endif %}
{%- if tools is not none or said %}
    {{- head('system') }}
    {%- if strftime_now is defined %}{{- 'Year: ' + strftime_now('%Y')[:2] + 'xx\\n' }}{% endif %}
    {{- said + '<|eot_id|>' }}
{%- endif %}
{%- for message in rest %}
    {{- head(message.role) }}
    {%- if message.role == 'assistant' %}
        {%- generation %}{{- message.content | trim + '<|eot_id|>' }}{%- endgeneration %}
    {%- else %}
        {{- message.content | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- head('assistant') }}
{%- endif %}
"""

ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n' }}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}

{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

MISTRAL = """{%- set ns = namespace(system=none, turn=0) -%}
{%- for m in messages if m.role == 'system' -%}{%- set ns.system = m.content -%}{%- break -%}{%- endfor -%}
{{- bos_token -}}
{%- for m in messages -%}
  {%- if m.role == 'system' -%}{%- continue -%}{%- endif -%}
  {%- set ns.turn = ns.turn + 1 -%}
  {%- if m.role == 'user' -%}
    {%- if ns.system is not none and loop.last -%}
      {{- '[INST] ' + ns.system + '\\n\\n' + m.content + '[/INST]' -}}
    {%- else -%}
      {{- '[INST] ' + m['content'] + '[/INST]' -}}
    {%- endif -%}
  {%- elif m.role == 'assistant' -%}
    {%- generation -%}{{- ' ' + m.get('content', '') + eos_token -}}{%- endgeneration -%}
  {%- else -%}
    {{- raise_exception('Only user, system and assistant roles are supported, not ' + m.role) -}}
  {%- endif -%}
{%- endfor -%}"""

# Drops what the assistant thought from all turns but those after the last question, as reasoning models do.
THINKING = """{%- set ns = namespace(last=-1) -%}
{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}
{%- for m in messages -%}
  {{- '<|im_start|>' + m.role + '\\n' -}}
  {%- if m.role == 'assistant' and '</think>' in m.content and loop.index0 < ns.last -%}
    {%- set said = m.content.split('</think>')[-1].lstrip('\\n') -%}
    {{- said + '<|im_end|>\\n' -}}
  {%- elif m.role == 'assistant' -%}
    {%- generation -%}{{- m.content + '<|im_end|>' -}}{%- endgeneration -%}{{- '\\n' -}}
  {%- else -%}
    {{- m.content + '<|im_end|>\\n' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""

# Channels, a macro that calls itself for the types of a tool's parameters, the date, and answers that only look ahead can tell apart.
HARMONY = """{%- macro type_of(spec, required, may_be_null=false) -%}
    {%- if spec.type == 'array' -%}
        {%- if spec['items'] -%}{{- type_of(spec['items'], []) + '[]' -}}{%- else -%}any[]{%- endif -%}
    {%- elif spec.type is not string and spec.type is iterable -%}{{- spec.type | join(' | ') -}}
    {%- elif spec.oneOf -%}
        {%- for one in spec.oneOf -%}
            {{- type_of(one, []) -}}{%- if one.default is defined %} /* default: {{ one.default | tojson }} */{% endif -%}
            {%- if not loop.last -%}{{- ' | ' -}}{%- endif -%}
        {%- endfor -%}
    {%- elif spec.enum -%}{{- '"' + spec.enum | join('" | "') + '"' -}}
    {%- elif spec.type == 'object' and spec.properties -%}
        {{- '{\n' -}}
        {%- for name, inner in spec.properties.items() -%}
            {{- name -}}{%- if name not in (spec.required or []) -%}?{%- endif -%}{{- ': ' + type_of(inner, spec.required or []) -}}
            {%- if inner.description -%}{{- ' // ' + inner.description -}}{%- endif -%}
            {%- if not loop.last -%},{{- ' ' -}}{%- endif -%}
        {%- endfor -%}
        {{- '\n}' -}}
    {%- else -%}{{- spec.type -}}{%- endif -%}
    {%- if may_be_null %} | null{% endif -%}
{%- endmacro -%}
{%- set parameters = {'type': 'object', 'required': ['ship'], 'properties': {
    'ship': {'type': 'string', 'description': 'its name', 'enum': ['Ada', 'Bo']},
    'masts': {'type': 'array', 'items': {'type': 'number'}},
    'flag': {'oneOf': [{'type': 'string', 'default': 'red'}, {'type': 'null'}]},
    'crew': {'type': ['number', 'null']}}} -%}
{%- macro system() -%}
    {%- if said is not defined -%}{%- set said = 'You are a lighthouse.' -%}{%- endif -%}
    {{- said + '\nCentury: ' + strftime_now('%Y')[:2] + '\n\n' -}}
    {{- 'Reasoning: ' + (reasoning_effort if reasoning_effort is defined else 'medium') + '\n' -}}
    {%- if builtin_tools is defined and 'browser' in builtin_tools -%}{{- '# Browser\n' -}}{%- endif -%}
    {{- '# Valid channels: analysis, commentary, final.' -}}
{%- endmacro -%}
{{- '<|start|>system<|message|>' + system() + '<|end|>' -}}
{%- if messages[0].role == 'developer' or messages[0].role == 'system' -%}
    {%- set instructions = messages[0].content -%}{%- set rest = messages[1:] -%}
{%- else -%}
    {%- set instructions = '' -%}{%- set rest = messages -%}
{%- endif -%}
{%- if instructions or tools -%}
    {{- '<|start|>developer<|message|># Instructions\n\n' + instructions + '\n\ntype look = (_: ' + type_of(parameters, [], true) + ') => any;<|end|>' -}}
{%- endif -%}
{%- set last_call = namespace(name=none) -%}
{%- for message in rest -%}
    {%- if message.role == 'assistant' -%}
        {%- if '<|channel|>analysis<|message|>' in message.content or '<|channel|>final<|message|>' in message.content -%}
            {{- raise_exception('You have passed a message with <|channel|> tags in its content: ' + message.content) -}}
        {%- endif -%}
        {%- if 'tool_calls' in message and message.tool_calls -%}
            {%- set call = message.tool_calls[0].function or message.tool_calls[0] -%}
            {%- set last_call.name = call.name -%}
            {{- '<|start|>assistant to=functions.' ~ call.name ~ '<|channel|>commentary json<|message|>' ~ (call.arguments | tojson) ~ '<|call|>' -}}
        {%- elif loop.last and not add_generation_prompt -%}
            {%- if 'thinking' in message -%}{{- '<|start|>assistant<|channel|>analysis<|message|>' + message.thinking + '<|end|>' -}}{%- endif -%}
            {{- '<|start|>assistant<|channel|>final<|message|>' -}}
            {%- generation -%}{{- message.content + '<|return|>' -}}{%- endgeneration -%}
        {%- else -%}
            {%- set later = namespace(found=false) -%}
            {%- for other in rest[loop.index:] -%}{%- if other.role == 'assistant' and 'tool_calls' not in other -%}{%- set later.found = true -%}{%- endif -%}{%- endfor -%}
            {{- ('' if later.found else '<|start|>assistant<|channel|>analysis<|message|>last<|end|>') + '<|start|>assistant<|channel|>final<|message|>' -}}
            {%- generation -%}{{- message.content + '<|end|>' -}}{%- endgeneration -%}
            {%- set last_call.name = none -%}
        {%- endif -%}
    {%- elif message.role == 'tool' -%}
        {%- if last_call.name is none -%}{{- raise_exception('Message has tool role, but there was no call before it!') -}}{%- endif -%}
        {{- '<|start|>functions.' + last_call.name + ' to=assistant<|channel|>commentary<|message|>' + message.content | tojson + '<|end|>' -}}
    {%- elif message.role == 'user' -%}
        {{- '<|start|>user<|message|>' + message.content + '<|end|>' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}"""

PYTHONISMS = """{{ messages | length }} {{ none }} {{ true }} {{ messages[0] | tojson }}
{{ messages[0].content.upper().startswith('HOW') }} {{ messages[-1]['content'][:4] }} {{ messages[::-1][0].role }}
{%- for key, value in messages[0].items() %}

{{ loop.index }}/{{ loop.length }} {{ key }}={{ value | replace('o', '0') | title }}
{%- endfor %}

{{ ['b', 'a'] | sort | join('+') }} {{ 'x' in 'xyz' }} {{ messages | map(attribute='role') | list | tojson }}
{{- '%s' if false else '' }}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{# gone #}
{{ (1, 2)[1] }} {{ 7 // 2 }} {{ 2 ** 3 }} {{ 'a' ~ 1 }} {{ undefined_name }} {{ messages[0].missing is defined }}
"""

SYSTEM = {"role": "system", "content": "You are a lighthouse. "}
ASK = {"role": "user", "content": "How many ships?\nCount them."}
TELL = {"role": "assistant", "content": "Twelve ships, \"all\" <small>."}
MORE = {"role": "user", "content": " And boats? 🙂 "}
AGAIN = {"role": "assistant", "content": "Three é boats."}
THOUGHT = {"role": "assistant", "content": "<think>\nI see twelve.\n</think>\n\nTwelve."}
CONVERSATIONS = {
    "one turn": [ASK, TELL],
    "system": [SYSTEM, ASK, TELL],
    "two turns": [ASK, TELL, MORE, AGAIN],
    "system and two turns": [SYSTEM, ASK, TELL, MORE, AGAIN],
    "open": [SYSTEM, ASK],
    "ends with the user": [ASK, TELL, MORE],
    "thoughts": [ASK, THOUGHT, MORE, THOUGHT],
    "two answers": [ASK, TELL, AGAIN],
    "same words": [{"role": "user", "content": "assistant"}, {"role": "assistant", "content": "assistant"},
                   {"role": "user", "content": "assistant"}, {"role": "assistant", "content": "assistant"}],
    "tool": [ASK, {"role": "tool", "content": "12"}],
}


def templates():
    families = {
        "chatml": (CHATML, None, "<|im_end|>"), "llama2": (LLAMA2, "<s>", "</s>"), "llama3": (LLAMA3, "<|begin_of_text|>", "<|eot_id|>"),
        "zephyr": (ZEPHYR, "<s>", "</s>"), "mistral": (MISTRAL, "<s>", "</s>"), "thinking": (THINKING, None, "<|im_end|>"),
        "harmony": (HARMONY, "<|startoftext|>", "<|return|>"),
        "pythonisms": (PYTHONISMS, "<s>", "</s>"),
    }
    cases = []
    for family, (template, bos, eos) in families.items():
        tokens = {key: value for key, value in [("bos_token", bos), ("eos_token", eos)] if value is not None}
        for name, messages in CONVERSATIONS.items():
            for prompt in [False, True]:
                case = {"family": family, "conversation": name, "add_generation_prompt": prompt}
                try:
                    texts, spans = render_jinja_template([messages], chat_template=template, add_generation_prompt=prompt,
                                                         return_assistant_tokens_mask=True, **tokens)
                    case["text"] = texts[0]
                    case["assistant"] = [texts[0][start:end] for start, end in spans[0]]
                except Exception as refusal:
                    case["error"] = str(refusal)
                cases.append(case)
    return {
        "templates": {family: {"template": t, "bos_token": b, "eos_token": e} for family, (t, b, e) in families.items()},
        "conversations": CONVERSATIONS,
        "cases": cases,
    }


def smollm2(path):
    import gguf

    fields = gguf.GGUFReader(path).fields
    value = lambda key: fields[key].contents()
    tokens, merges = value("tokenizer.ggml.tokens"), value("tokenizer.ggml.merges")
    assert value("tokenizer.ggml.pre") == "smollm"
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)},
                                     merges=[tuple(merge.split(" ")) for merge in merges]))
    # As in the tokenizer.json of HuggingFaceTB/SmolLM2-135M-Instruct. (The GGUF import of transformers leaves the digits out.)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
    ])
    for token, kind in zip(tokens, value("tokenizer.ggml.token_type")):
        if kind == 3:
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
    texts = TEXTS + CORPUS + random_texts(24)
    conversations = [c for c in CONVERSATIONS.values()]
    rendered = [render_jinja_template([c], chat_template=value("tokenizer.chat_template"), add_generation_prompt=prompt,
                                      bos_token="<|im_start|>", eos_token="<|im_end|>")[0][0]
                for c in conversations for prompt in [False, True]]
    return {"texts": texts, "ids": [tokenizer.encode(text).ids for text in texts],
            "conversations": conversations, "rendered": rendered}


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    write = lambda name, value: (OUT / name).write_text(json.dumps(value, ensure_ascii=False, indent=None) + "\n", encoding="utf-8")
    pieces = sentence_piece()
    write("vocabularies.json", {"byte_level": byte_level(), "sentence_piece": pieces})
    write("templates.json", templates())
    if len(sys.argv) > 1:
        write("smollm2.json", smollm2(sys.argv[1]))
    hugging_face = hugging_face_file(pieces)
    hugging_face.save(str(OUT / "sentencepiece_tokenizer.json"), pretty=False)


if __name__ == "__main__":
    main()
