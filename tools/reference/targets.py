#!/usr/bin/env python3
"""Which modules PEFT adapts for many settings of adapter_config.json: tests/fixtures/reference/targets.json.

    python tools/reference/targets.py

For each family of tests/fixtures/reference/families that is listed here, and each case: the linear modules of the layers that carry an
adapter, as a row of 0 and 1 in the order of `modules`; ranks and scales where a pattern sets them; other modules that carry one; or the
type of PEFT's error. tests/files/targets.rs compares.
"""

import json
import pathlib
import warnings

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoConfig, AutoModelForCausalLM

FIXTURES = pathlib.Path(__file__).resolve().parents[2] / "tests/fixtures/reference"
FAMILIES = ["llama_biases", "qwen3", "gemma3", "phi3_window"]


def of(target_modules, **more):
    return dict(target_modules=target_modules) | more


EVERY = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "qkv_proj", "gate_up_proj"]
FIRST = "model.layers.0.self_attn.o_proj"

CASES = [
    # Lists: the end of a path, after a dot.
    of(["o_proj"]),
    of(["q_proj"]),
    of(["q_proj", "v_proj"]),
    of(["qkv_proj", "gate_up_proj"]),
    of(["up_proj"]),
    of(EVERY),
    of(["self_attn.o_proj"]),
    of(["self_attn.o_proj", "mlp.down_proj"]),
    of(["layers.1.self_attn.o_proj"]),
    of(["1.self_attn.o_proj"]),
    of(["model.layers.1.self_attn.o_proj"]),
    of(["base_model.model.model.layers.1.self_attn.o_proj"]),
    of(["mlp.o_proj", "down_proj"]),
    of(["proj"]),
    of(["_proj"]),
    of(["o_proj", "nonsense"]),
    of(["nonsense"]),
    of(["O_PROJ"]),
    of(["o_proj "]),
    of([".o_proj"]),
    of([".*o_proj"]),
    of(["o_proj|down_proj"]),
    of(["self_attn"]),
    of(["layers.0"]),
    of(["input_layernorm"]),
    of(["all-linear"]),
    of(["lm_head"]),
    of(["o_proj", "lm_head"]),
    of(["o_proj", "embed_tokens"]),
    # Strings: a regular expression for the whole path.
    of("o_proj"),
    of("all-linear"),
    of("All-Linear"),
    of(".*"),
    of(".*o_proj"),
    of(r".*\.o_proj"),
    of(r".*\.(o|down)_proj"),
    of(r"(.*\.)?(o|down)_proj"),
    of(r".*(q|k|v|o|qkv)_proj"),
    of(r"model\.layers\.[01]\.self_attn\..*_proj"),
    of(r"model\.layers\.1\..*_proj"),
    of(r"layers\.1\..*_proj"),
    of(r".*layers\.\d+\.mlp\.\w+_proj"),
    of(r".*\.mlp\..*"),
    of(r".*self_attn.*"),
    of(r"model\.layers\.0\.self_attn\.o_proj|model\.layers\.1\.mlp\.down_proj"),
    of(r"^model.*o_proj$"),
    of(r"(?i).*\.O_PROJ"),
    of(r"(?P<path>.*)\.(?P<module>down|o)_proj"),
    of(r".*\.(\w)_proj"),
    of(r".*\.[^o_]+_proj"),
    of(r".*\.[a-n]\w*_proj"),
    of(r".*\.o{1}_proj"),
    of(r".*\.o{,1}_proj"),
    of(r".*+\.o_proj"),
    of(r".*\.[o[]_proj"),
    of(r".*\.[no&&op]_proj"),
    of(r".*\.(?!o_proj)\w+_proj"),
    of(r".*(?<!gate_)up_proj"),
    of(r".*\.(\w)\1?_proj"),
    of(r".*\.o_proj\Z"),
    of(r".*\.o_proj|lm_head"),
    of(r".*(o_proj"),
    of(""),
    # Left out.
    of("all-linear", exclude_modules=["o_proj"]),
    of("all-linear", exclude_modules=["self_attn.o_proj", "layers.1.mlp.down_proj"]),
    of("all-linear", exclude_modules=["self_attn", "mlp"]),
    of("all-linear", exclude_modules=[FIRST]),
    of("all-linear", exclude_modules=r".*\.layers\.0\..*"),
    of("all-linear", exclude_modules="o_proj"),
    of("all-linear", exclude_modules=r".*\.(?:o|down)_proj"),
    of("all-linear", exclude_modules=r".*\.(?!o_proj)\w+"),
    of(["o_proj", "down_proj"], exclude_modules=["o_proj"]),
    of(["o_proj", "down_proj"], exclude_modules=["layers.0.self_attn.o_proj"]),
    of(["o_proj", "down_proj"], exclude_modules=["nonsense"]),
    of(["o_proj"], exclude_modules=["o_proj"]),
    of(["o_proj"], exclude_modules=r".*"),
    of(r".*\.(o|down)_proj", exclude_modules=["down_proj"]),
    of(r".*\.(o|down)_proj", exclude_modules=r".*\.0\..*"),
    of(["o_proj", "down_proj"], exclude_modules=[]),
    of(["o_proj", "down_proj"], exclude_modules=""),
    # Layers.
    of(["o_proj"], layers_to_transform=[0]),
    of(["o_proj"], layers_to_transform=1),
    of(["o_proj"], layers_to_transform=0),
    of(["o_proj"], layers_to_transform=[1, 0, 1]),
    of(["o_proj"], layers_to_transform=[]),
    of(["o_proj"], layers_to_transform=[0, 99]),
    of(["o_proj"], layers_to_transform=[99]),
    of(["o_proj"], layers_to_transform=[-1]),
    of(["o_proj"], layers_to_transform=[0], layers_pattern="layers"),
    of(["o_proj"], layers_to_transform=[0], layers_pattern=["h", "layers"]),
    of(["o_proj"], layers_to_transform=[0], layers_pattern="h"),
    of(["o_proj"], layers_to_transform=[0], layers_pattern=""),
    of(["o_proj"], layers_to_transform=[0], layers_pattern=[]),
    of(["o_proj"], layers_to_transform=[0], layers_pattern="model.layers"),
    of(["o_proj"], layers_to_transform=[0], layers_pattern="layer."),
    of(["o_proj"], layers_pattern="layers"),
    of(["layers.1.self_attn.o_proj"], layers_to_transform=[0]),
    of(["layers.1.self_attn.o_proj", "down_proj"], layers_to_transform=[1]),
    of(["model.layers.1.self_attn.o_proj"], layers_to_transform=[0]),
    of(["model.layers.1.self_attn.o_proj", "down_proj"], layers_to_transform=[0]),
    of(["o_proj", "down_proj"], layers_to_transform=[0], exclude_modules=["o_proj"]),
    of("all-linear", layers_to_transform=[0]),
    of(r".*\.o_proj", layers_to_transform=[0]),
    of(r".*\.o_proj", layers_to_transform=[]),
    # Ranks and scales: the first key that ends the path.
    of(["o_proj", "down_proj"], rank_pattern={"o_proj": 4}),
    of(["o_proj", "down_proj"], rank_pattern={"proj": 4}),
    of(["o_proj", "down_proj"], rank_pattern={"self_attn.o_proj": 4, "mlp.down_proj": 6}),
    of(["o_proj", "down_proj"], rank_pattern={"layers.1.self_attn.o_proj": 4, "o_proj": 6}),
    of(["o_proj", "down_proj"], rank_pattern={"o_proj": 6, "layers.1.self_attn.o_proj": 4}),
    of(["o_proj", "down_proj"], rank_pattern={"model.layers.1.self_attn.o_proj": 4}),
    of(["o_proj", "down_proj"], rank_pattern={"^model.layers.1.self_attn.o_proj": 4}),
    of(["o_proj", "down_proj"], rank_pattern={r".*\.1\..*": 4}),
    of(["o_proj", "down_proj"], rank_pattern={"o_proj|layers.0.mlp.down_proj": 4}),
    of(["o_proj", "down_proj"], rank_pattern={r"layers\.[01]\.mlp\.\w+": 4}),
    of(["o_proj", "down_proj"], alpha_pattern={"o_proj": 3, "down.proj": 5}),
    of(["o_proj", "down_proj"], rank_pattern={"o_proj": 4}, alpha_pattern={"layers.0.self_attn.o_proj": 2, "proj$": 7}),
    of(["o_proj"], rank_pattern={"nonsense": 4}),
    of(["o_proj"], rank_pattern={"(o_proj": 4}),
    of(["o_proj", "down_proj"], modules_to_save=["lm_head"]),
    of("all-linear", modules_to_save=["embed_tokens"]),
]


def linear_modules(model):
    return [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and ".layers." in name]


def measured(folder, case):
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    modules = linear_modules(model)
    try:
        peft = get_peft_model(model, LoraConfig(r=2, lora_alpha=4, task_type="CAUSAL_LM", **case))
    except Exception as error:  # whatever PEFT, torch or re raises
        return modules, {"error": type(error).__name__}
    prefix = "base_model.model."
    adapted = {
        name.removeprefix(prefix): module
        for name, module in peft.named_modules()
        if isinstance(module, BaseTunerLayer) and "default" in (*module.lora_A, *module.lora_embedding_A)
    }
    found = {"adapted": "".join(str(int(name in adapted)) for name in modules)}
    others = sorted(set(adapted) - set(modules))
    if others:
        found["others"] = others
    if "rank_pattern" in case or "alpha_pattern" in case:
        in_order = [adapted[name] for name in modules if name in adapted]
        found["ranks"] = [module.r["default"] for module in in_order]
        found["scales"] = [module.scaling["default"] for module in in_order]
    return modules, found


def main():
    warnings.simplefilter("ignore")
    modules, cases = {}, []
    for case in CASES:
        by_family = {}
        for family in FAMILIES:
            modules[family], by_family[family] = measured(FIXTURES / "families" / family, case)
        cases.append({"config": case, "peft": by_family})
    lines = ",\n".join(json.dumps(case) for case in cases)
    text = f'{{"modules": {json.dumps(modules)},\n"cases": [\n{lines}\n]}}\n'
    (FIXTURES / "targets.json").write_text(text)
    errors = sum("error" in found for case in cases for found in case["peft"].values())
    print(f"{len(cases)} cases in {len(FAMILIES)} families, {errors} errors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
