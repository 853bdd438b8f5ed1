#!/usr/bin/env python3
"""A tiny random model of every family, with what transformers and PEFT compute on it, and the same weights as a GGUF file.

    python tools/reference/make_families.py [--out tests/fixtures/reference/families] [NAME ...]

Each folder is a Hugging Face model folder as transformers saves it, `model.gguf` where the format can say all that the config says
(folder_to_gguf.py), a PEFT adapter folder `adapter/` (all linear modules, B not zero) and the expected figures, in f64. Features are
where they show: norms away from 1, biases away from 0, windows shorter than the sequence, soft caps in their bent range, rotations
scaled within the sequence, activations beyond their bounds. Of gpt-oss there are also `mxfp4/`, with the experts in the blocks in which it is
published, and `mxfp4.gguf`: the same numbers. tests/fixtures/reference/README.md says what the files hold.
"""

import argparse
import json
import pathlib
import re
import shutil
import types

import numpy as np
import peft
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

import folder_to_gguf
import lora_run as run
import mxfp4

RANK, ALPHA, B_BOUND, LENGTH, STEPS, NEW_TOKENS = 2, 4, 0.25, 24, 5, 8
ADAMW = {"learning_rate": 5e-3, "weight_decay": 0.1, "max_grad_norm": 5.0}

SIZES = dict(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
SEPARATE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FUSED = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=16, beta_fast=4.0, beta_slow=0.5)
LONG = dict(
    rope_type="longrope",
    rope_theta=10000.0,
    short_factor=[1.0, 1.25, 1.5],
    long_factor=[1.0, 2.0, 5.0],
    partial_rotary_factor=0.75,
)

GPT_OSS = dict(
    num_local_experts=6, num_experts_per_tok=2, intermediate_size=64, head_dim=16, sliding_window=5, rms_norm_eps=1e-5, num_hidden_layers=3
)
WIDE_HEADS = dict(head_dim=16, query_pre_attn_scalar=16, sliding_window=5)
FEW_HEADS = WIDE_HEADS | dict(num_attention_heads=2)

# config class and what differs from SIZES; `gguf`: whether a GGUF file can say it
FAMILIES = {
    "llama_biases": (hf.LlamaConfig, dict(attention_bias=True, mlp_bias=True, tie_word_embeddings=False), True),
    "llama_yarn": (hf.LlamaConfig, dict(rope_parameters=YARN, tie_word_embeddings=True), False),
    "llama_linear": (hf.LlamaConfig, dict(rope_parameters=dict(rope_type="linear", factor=4.0, rope_theta=1e4)), True),
    # 24 tokens are more than 16, and so are most records: each length has a base of its own.
    "llama_dynamic": (
        hf.LlamaConfig,
        dict(rope_parameters=dict(rope_type="dynamic", factor=4.0, rope_theta=1e4), max_position_embeddings=16),
        False,
    ),
    "mistral": (hf.MistralConfig, dict(sliding_window=5, head_dim=16), False),
    "qwen2": (hf.Qwen2Config, dict(tie_word_embeddings=True), True),
    "qwen2_windows": (
        hf.Qwen2Config,
        dict(use_sliding_window=True, sliding_window=6, max_window_layers=1, tie_word_embeddings=True),
        False,
    ),
    "qwen3": (hf.Qwen3Config, dict(head_dim=16, tie_word_embeddings=True), True),
    "gemma2": (
        hf.Gemma2Config,
        WIDE_HEADS | dict(attn_logit_softcapping=2.0, final_logit_softcapping=3.0),
        True,
    ),
    "gemma3": (
        hf.Gemma3TextConfig,
        FEW_HEADS
        | dict(
            num_hidden_layers=6,
            intermediate_size=32,
            num_key_value_heads=1,
            rope_parameters={
                "full_attention": dict(rope_type="linear", factor=8.0, rope_theta=1e6),
                "sliding_attention": dict(rope_type="default", rope_theta=1e4),
            },
        ),
        True,
    ),
    # of which the text part is used
    "gemma3_with_images": (
        hf.Gemma3Config,
        dict(
            text_config=SIZES | FEW_HEADS | dict(sliding_window_pattern=2),
            vision_config=dict(
                hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=4
            ),
            mm_tokens_per_image=1,
            image_token_index=95,
            boi_token_index=94,
            eoi_token_index=93,
        ),
        False,
    ),
    # 24 tokens are more than 16: the long factors; of the records some have fewer: the short ones.
    "phi3_longrope": (
        hf.Phi3Config,
        dict(rope_parameters=LONG, original_max_position_embeddings=16, max_position_embeddings=64, tie_word_embeddings=True),
        True,
    ),
    "phi3_window": (hf.Phi3Config, dict(sliding_window=7), True),
    "smollm3": (hf.SmolLM3Config, dict(num_hidden_layers=4, rope_parameters=dict(rope_type="default", rope_theta=2e6)), True),
    "olmo2": (hf.Olmo2Config, dict(tie_word_embeddings=False), True),
    "granite": (
        hf.GraniteConfig,
        dict(
            attention_multiplier=0.4,
            embedding_multiplier=3.0,
            residual_multiplier=0.6,
            logits_scaling=2.5,
            tie_word_embeddings=True,
        ),
        True,
    ),
    "mixtral": (hf.MixtralConfig, dict(num_local_experts=6, num_experts_per_tok=2), True),
    "qwen2_moe": (
        hf.Qwen2MoeConfig,
        dict(num_experts=6, num_experts_per_tok=3, moe_intermediate_size=16, shared_expert_intermediate_size=24),
        True,
    ),
    "qwen3_moe": (
        hf.Qwen3MoeConfig,
        dict(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, norm_topk_prob=True, head_dim=16),
        True,
    ),
    # a plain MLP between two layers with experts, and weights that are not renormalised
    "qwen3_moe_mixed": (
        hf.Qwen3MoeConfig,
        dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, num_hidden_layers=3, mlp_only_layers=[1]),
        False,
    ),
    "gpt_oss": (hf.GptOssConfig, GPT_OSS | dict(rope_parameters=YARN | dict(truncate=False)), True),
    # without a window in the first layer, without scaling, and with other bounds
    "gpt_oss_plain": (
        hf.GptOssConfig,
        GPT_OSS
        | dict(
            num_hidden_layers=2,
            layer_types=["full_attention", "sliding_attention"],
            rope_parameters=dict(rope_type="default", rope_theta=1e4),
            swiglu_limit=3.0,
            swiglu_alpha=1.5,
            tie_word_embeddings=True,
        ),
        False,
    ),
    "granite_biases": (
        hf.GraniteConfig,
        dict(residual_multiplier=0.6, attention_bias=True, mlp_bias=True, attention_multiplier=0.3),
        False,
    ),
}


def random_model(config, generator):
    """Weights of scale 1.5 / sqrt(in), so that softmax and gates are far from linear; bf16, so that every format holds them exactly."""
    model = hf.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    adds_one = config.model_type.startswith("gemma")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            shape = tuple(parameter.shape)
            if "vision" in name or "projector" in name:
                values = np.zeros(shape)
            elif name.endswith("norm.weight"):
                values = (0.0 if adds_one else 1.0) + 0.3 * generator.normal(size=shape)
            elif name.endswith("bias"):
                values = 0.4 * generator.normal(size=shape)
            elif name.endswith("sinks"):
                values = 1.5 * generator.normal(size=shape)
            elif config.model_type in TOGETHER and ".experts." in name:
                values = mxfp4.random_experts(generator, shape)
            elif "embed_tokens" in name:
                values = generator.normal(0.0, 0.12 if adds_one else 0.5, shape)
            else:
                values = generator.normal(0.0, 1.5 / np.sqrt(shape[-1]), shape)
            parameter.copy_(torch.from_numpy(values).to(torch.bfloat16))
        if EXPERTS.get(config.model_type):
            # Every token is sent to expert 1 of the first layer, and none to expert 3.
            model.model.embed_tokens.weight[:, 0] = 4.0
            model.model.layers[0].self_attn.o_proj.weight[0] = 0.0
            model.model.layers[0].mlp.gate.weight[1, 0] = 2.5
            model.model.layers[0].mlp.gate.weight[3, 0] = -2.5
            for layer in model.model.layers:
                if hasattr(layer.mlp, "gate"):
                    layer.mlp.gate.weight *= ROUTER_SCALE
        if config.model_type in TOGETHER:
            # The same, and the bias decides too.
            model.model.embed_tokens.weight[:, 0] = 2.0
            model.model.layers[0].self_attn.o_proj.weight[0] = 0.0
            if config.attention_bias:
                model.model.layers[0].self_attn.o_proj.bias[0] = 0.0
            model.model.layers[0].mlp.router.weight[1, 0] = 2.5
            model.model.layers[0].mlp.router.weight[3, 0] = -2.5
            for layer in model.model.layers:
                layer.mlp.router.weight *= ROUTER_SCALE
    return model.to(torch.bfloat16)


# By which the routers' weights are multiplied, so that no choice is as good as another.
ROUTER_SCALE = 2.0
# What an expert's gate, up and down are called in files.
EXPERTS = {
    "mixtral": ["w1", "w3", "w2"],
    "qwen2_moe": ["gate_proj", "up_proj", "down_proj"],
    "qwen3_moe": ["gate_proj", "up_proj", "down_proj"],
}

# Of which the experts are no modules, so that PEFT adapts parameters of all of them.
TOGETHER = {"gpt_oss": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}


class SingleExperts(torch.nn.ModuleList):
    """The experts of a layer as transformers 4 has them and files still do: a linear layer for each, which PEFT adapts by its name.

    Every expert is computed, also for no token, so that its adapter has a gradient of zeros.
    """

    def __init__(self, experts, names):
        gate_up, down = experts.gate_up_proj.data, experts.down_proj.data
        inner = down.shape[2]
        super().__init__()
        for number in range(len(down)):
            expert = torch.nn.Module()
            parts = (gate_up[number, :inner], gate_up[number, inner:], down[number])
            for name, weight in zip(names, parts):
                linear = torch.nn.Linear(*reversed(weight.shape), bias=False)
                linear.weight = torch.nn.Parameter(weight.clone(), requires_grad=False)
                setattr(expert, name, linear)
            self.append(expert)
        self.names = names
        self.tokens = [0] * len(down)

    def forward(self, x, chosen, weights):
        total = torch.zeros_like(x)
        for number, expert in enumerate(self):
            gate, up, down = (getattr(expert, name) for name in self.names)
            rows, place = torch.where(chosen == number)
            self.tokens[number] = len(rows)
            y = down(torch.nn.functional.silu(gate(x[rows])) * up(x[rows]))
            total = total.index_add(0, rows, y * weights[rows, place, None])
        return total


def with_single_experts(model):
    """The same model with a linear layer for each matrix of an expert; equal, or it ends here."""
    names = EXPERTS.get(model.config.model_type)
    if not names:
        return model
    ids = torch.arange(3, 27)[None]
    with torch.no_grad():
        before = model(ids, use_cache=False).logits
        for layer in model.model.layers:
            if hasattr(layer.mlp, "experts"):
                layer.mlp.experts = SingleExperts(layer.mlp.experts, names)
        after = model(ids, use_cache=False).logits
    assert torch.allclose(before, after, rtol=1e-4, atol=1e-4 if before.dtype == torch.float32 else 1e-10), "experts differ"
    return model


def of_parameter(name, tensor):
    """A matrix of a pair of all experts as graftling has it: B's rows by expert, those of gate before those of up."""
    layer, own = re.fullmatch(r"(layers\.\d+\.mlp\.experts)\.(.*)", name).groups()
    module = "gate_up_proj" if own.startswith("base_layer.") else "down_proj"
    matrix = own.rsplit(".", 1)[-1]
    if matrix == "lora_b":
        halves = [tensor[::2], tensor[1::2]] if module == "gate_up_proj" else [tensor]
        out = lambda half: half.reshape(half.shape[0], RANK, -1).permute(2, 0, 1).reshape(-1, RANK)
        tensor = torch.cat([out(half) for half in halves])
    return f"{layer}.{module}.{matrix}", tensor


def of_all_experts(tensors):
    """The matrices of single experts by the name of all, one below the other, as graftling has them."""
    found = {}
    for name, tensor in tensors.items():
        if re.fullmatch(r".*\.experts\.(base_layer\.)?lora_.", name):
            name, tensor = of_parameter(name, tensor)
        match = re.fullmatch(r"(.*)\.experts\.(\d+)\.((.*)\.lora_.)", name)
        if match:
            parent = match[1].replace(".mlp", ".block_sparse_moe") if match[4] in EXPERTS["mixtral"] else match[1]
            found.setdefault(f"{parent}.experts.{match[3]}", []).append((int(match[2]), tensor))
        else:
            found[name] = tensor
    in_order = lambda pieces: torch.cat([tensor for _, tensor in sorted(pieces, key=lambda piece: piece[0])])
    return {name: in_order(value) if isinstance(value, list) else value for name, value in found.items()}


def routing(model, ids):
    """Tokens of each expert in the first layer with experts, and the smallest distance of a chosen logit from one that is not."""
    gaps = []

    def look(module, _, out):
        logits = out[0].sort(descending=True).values
        gaps.append(float((logits[:, module.top_k - 1] - logits[:, module.top_k]).min()))

    def count(module, _, out):
        tokens.append(torch.bincount(out[2].flatten(), minlength=module.num_experts).tolist())

    routers = [module for module in model.modules() if type(module).__name__.endswith("TopKRouter")]
    tokens = []
    gates = [module.register_forward_hook(hook) for module in routers for hook in (look, count)]
    with torch.no_grad():
        model(torch.tensor([ids]), use_cache=False)
    [gate.remove() for gate in gates]
    return tokens[0], min(gaps)


def exact_model(folder):
    """The model in f64, with the places that transformers forces to f32 replaced (frequencies stay transformers' own, in f32)."""
    model = hf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").double().eval()
    adds_one = model.config.model_type.startswith("gemma")
    model_type = model.config.model_type
    if EXPERTS.get(model_type) or model_type in TOGETHER:
        model.set_experts_implementation("eager")  # the others have no f64

    def rms_norm(module, x):
        eps = getattr(module, "variance_epsilon", None) or module.eps
        weight = 1.0 + module.weight if adds_one else module.weight
        return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))

    text_config = model.config.get_text_config()

    def rotary_tables(module, x, position_ids, layer_type=None):
        prefix = "" if layer_type is None else f"{layer_type}_"
        kind = module.rope_type if layer_type is None else module.rope_type[layer_type]
        frequencies = getattr(module, prefix + "original_inv_freq").double()
        length = int(position_ids.max()) + 1
        longer = {"longrope": "original_max_position_embeddings", "dynamic": None}
        if kind in longer and length > text_config.rope_parameters.get(longer[kind], text_config.max_position_embeddings):
            init = hf.modeling_rope_utils.ROPE_INIT_FUNCTIONS[kind]
            frequencies = init(text_config, x.device, seq_len=length)[0].double()
        angles = position_ids[..., None].double() * frequencies
        if model_type not in TOGETHER:
            angles = torch.cat((angles, angles), dim=-1)
        scale = getattr(module, prefix + "attention_scaling")
        return angles.cos() * scale, angles.sin() * scale

    def route(module, x):
        logits = torch.nn.functional.linear(x.reshape(-1, module.hidden_dim), module.weight)
        weights, chosen = logits.softmax(-1).topk(module.top_k, dim=-1)
        if getattr(module, "norm_topk_prob", True):
            weights = weights / weights.sum(-1, keepdim=True)
        return logits, weights, chosen

    for module in model.modules():
        if type(module).__name__.endswith("TopKRouter") and model_type not in TOGETHER:
            module.forward = types.MethodType(route, module)
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = types.MethodType(rms_norm, module)
        if type(module).__name__.endswith("RotaryEmbedding"):
            module.forward = types.MethodType(rotary_tables, module)
    return model


def tokens(generator, vocab, length):
    return generator.integers(3, vocab, length).tolist()


def work_of(generator, vocab, rounds=1):
    return {
        "sequence": tokens(generator, vocab, LENGTH),
        "prompt": tokens(generator, vocab, 9),
        "adamw": [[[{"input_ids": tokens(generator, vocab, length)}]] for length in (17, 13, 21, 11, 17)] * rounds,
    }


def greedy(model, prompt):
    """The continuation, and the smallest distance of the two best logits on the way."""
    ids, margin = list(prompt), float("inf")
    # with a cache, as generation has it: a rotation that looks at the length leaves earlier keys as they are
    cache, step = None, torch.tensor([ids])
    for _ in range(NEW_TOKENS):
        out = model(step, use_cache=True, past_key_values=cache)
        cache = out.past_key_values
        best = out.logits[0, -1].topk(2)
        margin = min(margin, float(best.values[0] - best.values[1]))
        ids.append(int(best.indices[0]))
        step = torch.tensor([ids[-1:]])
    return ids[len(prompt):], margin


def figures(folder, load, work, modules, save=False):
    model = load(folder)
    out, tensors = {}, {}
    with torch.no_grad():
        out["base"] = {"token_nll": run.token_nll(model, work["sequence"])[0].tolist()}
        out["base"]["greedy"], out["base"]["margin"] = greedy(model, work["prompt"])
    model = with_single_experts(model)
    parameters = TOGETHER.get(model.config.model_type)
    if parameters or EXPERTS.get(model.config.model_type):
        tokens_of, gap = routing(model, work["sequence"])
        print(f"  tokens of experts {tokens_of}, smallest gap of the router {gap:.3f}")
        assert max(tokens_of) == LENGTH and min(tokens_of) == 0 and gap > 5e-4, "the router's choice is not safe, or not extreme"
    if EXPERTS.get(model.config.model_type):
        # PEFT would look for transformers 5's experts.
        model.config.model_type = "llama"
    model = run.add_lora(model, modules, RANK, ALPHA, b_bound=B_BOUND, parameters=parameters)
    if save:
        model.save_pretrained(folder / "adapter")
    with torch.no_grad():
        out["adapted"] = {"token_nll": run.token_nll(model, work["sequence"])[0].tolist()}
        out["adapted"]["greedy"], out["adapted"]["margin"] = greedy(model, work["prompt"])
    loss, _ = run.backward_step(model, [[{"input_ids": work["sequence"]}]])
    out["gradients"] = {"loss": loss, "grad_norm": run.gradient_norm(model)}
    tensors.update({f"gradients.{n}": g for n, g in of_all_experts(run.gradients(model)).items()})
    losses, norms = run.train(model, work["adamw"], **ADAMW)
    out["adamw"] = {"losses": losses, "grad_norms": norms}
    tensors.update({f"adamw.{n}": v for n, v in of_all_experts(run.values(model)).items()})
    return out, tensors


def as_shipped(folder):
    model = hf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()

    def forget(module, *_):
        # a dynamic rotation remembers the longest text before
        module.inv_freq = module.original_inv_freq.clone()
        module.max_seq_len_cached = module.original_max_seq_len

    for module in model.modules():
        if getattr(module, "rope_type", None) == "dynamic":
            module.register_forward_pre_hook(forget)
    return model


def distance(a, b):
    return max(abs(x - y) for x, y in zip(a, b))


def save_fused_adapter(folder):
    """`adapter/` as PEFT turns it into the form of transformers 5 and saves it: parameters of all experts (`target_parameters`)."""
    peft.PeftModel.from_pretrained(as_shipped(folder), folder / "adapter").save_pretrained(folder / "adapter_fused")
    (folder / "adapter_fused/README.md").unlink(missing_ok=True)
    path = folder / "adapter_fused/adapter_config.json"
    config = json.loads(path.read_text())
    config["target_modules"].sort()
    path.write_text(json.dumps(config, indent=1) + "\n")


def modules_of(config):
    attention = SEPARATE[:4]
    if config.model_type in TOGETHER:
        return attention
    return FUSED if config.model_type == "phi3" else attention + EXPERTS.get(config.model_type, SEPARATE[4:])


def make(name, folder):
    config_class, changes, gguf = FAMILIES[name]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    generator = np.random.default_rng(list(name.encode()))
    config = config_class(**(changes if "text_config" in changes else SIZES | changes))
    random_model(config, generator).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if gguf:
        folder_to_gguf.convert(folder, folder / "model.gguf")
    together = config.model_type in TOGETHER
    if together and gguf:
        mxfp4.as_published(folder, folder / "mxfp4")
        folder_to_gguf.convert(folder / "mxfp4", folder / "mxfp4.gguf")
    work = work_of(generator, SIZES["vocab_size"], 4 if together else 1)
    modules = modules_of(config)
    if "text_config" in changes:
        modules = rf".*language_model\.layers\.\d+\.(self_attn|mlp)\.({'|'.join(SEPARATE)})"
    single, _ = figures(folder, as_shipped, work, modules, save=True)
    expected, tensors = figures(folder, exact_model, work, modules)
    expected["adamw"] |= {"records": [step[0][0] for step in work["adamw"]], "betas": [0.9, 0.999], "eps": 1e-8} | ADAMW
    floor = {
        "token_nll": max(distance(single[k]["token_nll"], expected[k]["token_nll"]) for k in ("base", "adapted")),
        "adamw_losses": distance(single["adamw"]["losses"], expected["adamw"]["losses"]),
    }
    document = {
        "lora": {"r": RANK, "alpha": ALPHA, "modules": modules_of(config) + (["gate_up_proj", "down_proj"] if together else [])},
        "input_ids": work["sequence"],
        "prompt": work["prompt"],
    }
    document |= expected | {"f32_floor": floor}
    (folder / "expected.json").write_text(json.dumps(document) + "\n")
    save_file(run.as_f32(tensors), folder / "expected.safetensors")
    (folder / "adapter/README.md").unlink(missing_ok=True)
    if config.model_type == "mixtral":
        # as transformers 4 called the layer
        file = folder / "adapter/adapter_model.safetensors"
        save_file({k.replace(".mlp.", ".block_sparse_moe."): v for k, v in load_file(file).items()}, file, {"format": "pt"})
    adapter_config = json.loads((folder / "adapter/adapter_config.json").read_text())
    adapter_config["base_model_name_or_path"] = f"families/{name}"
    if isinstance(modules, list):
        adapter_config["target_modules"].sort()
    (folder / "adapter/adapter_config.json").write_text(json.dumps(adapter_config, indent=1) + "\n")
    if name in ("mixtral", "qwen3_moe"):  # in a plain MLP beside experts PEFT loses its pairs
        save_fused_adapter(folder)
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    print(
        f"{name}: {size / 1000:.0f} KB; base {np.mean(expected['base']['token_nll']):.3f}, "
        f"adamw {expected['adamw']['losses'][0]:.3f} -> {expected['adamw']['losses'][-1]:.3f}, "
        f"greedy margin {min(expected[k]['margin'] for k in ('base', 'adapted')):.3f}, "
        + ", ".join(f"{key} floor {value:.1e}" for key, value in floor.items())
        + ("" if single["base"]["greedy"] == expected["base"]["greedy"] else "  GREEDY DIFFERS IN f32")
    )


def main():
    here = pathlib.Path(__file__).resolve().parent
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=pathlib.Path, default=here.parents[1] / "tests/fixtures/reference/families")
    arguments.add_argument("names", nargs="*", choices=[[], *FAMILIES], default=[])
    options = arguments.parse_args()
    torch.set_num_threads(1)
    for name in options.names or FAMILIES:
        make(name, options.out / name)


if __name__ == "__main__":
    main()
