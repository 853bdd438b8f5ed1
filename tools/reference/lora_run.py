"""What the generators share: load a Llama, put PEFT's LoRA on it, take losses, gradients and AdamW steps.

Two precisions. `f32` is transformers and PEFT as they ship, with eager attention. `f64` is the same modules in f64, with the
places that transformers forces to f32 (RMSNorm, rotary tables, attention softmax) replaced by f64 ones, so that it shows the
value that f32 programs round. Expected figures are f64's; the distance of transformers' own f32 is recorded as the floor.
"""

import math
import types

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
IGNORED = -100  # a label that is not supervised


def load_model(folder, precision):
    """The frozen model of a Hugging Face folder, `precision` 'f32' or 'f64'."""
    if precision == "f32":
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").double().eval()
    make_exact(model)
    return model


def inverse_frequencies(config):
    """Rotary frequencies [head_dim / 2] in f64: plain, or `llama3` scaling (Llama 3.1)."""
    rope = config.rope_parameters
    head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
    frequencies = 1.0 / rope["rope_theta"] ** (torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    if rope["rope_type"] == "default":
        return frequencies
    if rope["rope_type"] == "linear":
        return frequencies / rope["factor"]
    assert rope["rope_type"] == "llama3", rope
    original, low, high = (
        rope["original_max_position_embeddings"],
        rope["low_freq_factor"],
        rope["high_freq_factor"],
    )
    wavelengths = 2 * math.pi / frequencies
    smooth = ((original / wavelengths - low) / (high - low)).clamp(0, 1)  # 0: long waves, slowed; 1: short ones, kept
    return (1 - smooth) * frequencies / rope["factor"] + smooth * frequencies


def make_exact(model):
    """Replace what transformers computes in f32 whatever the model's type."""

    def rms_norm(module, x):
        return module.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + module.variance_epsilon))

    frequencies = inverse_frequencies(model.config)
    assert torch.allclose(frequencies.float(), model.model.rotary_emb.inv_freq.float(), rtol=1e-5, atol=0)

    def rotary_tables(module, x, position_ids):
        angles = position_ids[..., None].double() * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()

    for module in model.modules():
        if type(module).__name__ == "LlamaRMSNorm":
            module.forward = types.MethodType(rms_norm, module)
    model.model.rotary_emb.forward = types.MethodType(rotary_tables, model.model.rotary_emb)


def mix(x):
    """A 32-bit integer hash, on u32 arrays."""
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x7FEB352D)
    x = x ^ (x >> np.uint32(15))
    x = x * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def hashed_uniform(name, rows, columns, bound):
    """A [rows, columns] f32 matrix, uniform in [-bound, bound), that any language reproduces bit by bit:

    seed    = FNV-1a 32 of the tensor's name, for example "layers.3.self_attn.q_proj.lora_a"
    h       = mix(seed + i * columns + j)      (u32, wrapping)
    A[i, j] = f32((h >> 8) / 2^23 - 1) * bound)    (the quotient minus 1 is exact; product in f64, rounded once)
    """
    seed = 0x811C9DC5
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x01000193) & 0xFFFFFFFF
    with np.errstate(over="ignore"):
        hashed = mix(np.arange(rows * columns, dtype=np.uint32) + np.uint32(seed))
    unit = (hashed >> np.uint32(8)).astype(np.float64) / 2.0**23 - 1.0
    return (unit * bound).astype(np.float32).reshape(rows, columns)


def add_lora(model, modules, r, alpha, layers=None, b_bound=0.0, parameters=None):
    """PEFT's LoRA with A from `hashed_uniform` (bound 1/sqrt(in)) and B likewise (bound `b_bound`; 0 gives B = 0)."""
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=modules,
        target_parameters=parameters,
        layers_to_transform=layers,
        layers_pattern="layers" if layers is not None else None,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in adapters(model).items():
            rows, columns = parameter.shape
            bound = 1.0 / math.sqrt(columns) if name.endswith("lora_a") else b_bound
            parameter.copy_(torch.from_numpy(hashed_uniform(name, rows, columns, bound)))
    return model.eval()


def adapters(model):
    """Trainable tensors by graftling's names, `layers.3.self_attn.q_proj.lora_a`, in the model's order."""
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            short = name[name.index("layers.") :].replace(".default.weight", "")
            found[short.replace("lora_A", "lora_a").replace("lora_B", "lora_b")] = parameter
    return found


def token_nll(model, input_ids):
    """[tokens - 1]: -log p(id i+1 | ids 0..i), natural logarithm; and the logits [tokens, vocab]."""
    ids = torch.tensor(input_ids)
    logits = model(ids[None], use_cache=False).logits[0]
    wanted = logits[:-1].gather(1, ids[1:, None])[:, 0]
    return torch.logsumexp(logits[:-1], dim=-1) - wanted, logits


def supervised(sequence):
    """[tokens - 1] bool: is the id at i+1 supervised? The first id never is: nothing predicts it."""
    labels = sequence.get("labels", sequence["input_ids"])
    return torch.tensor([label != IGNORED for label in labels[1:]])


def backward_step(model, micro_batches):
    """Gradients of the loss of one optimizer step into .grad; returns (loss, token_nll of each sequence).

    The loss is the mean over the supervised tokens of all sequences of all micro-batches together. Each sequence runs by
    itself: no padding, and no attention across sequences.
    """
    for parameter in adapters(model).values():
        parameter.grad = None
    sequences = [sequence for batch in micro_batches for sequence in batch]
    total = sum(int(supervised(sequence).sum()) for sequence in sequences)
    loss, all_nll = 0.0, []
    for sequence in sequences:
        nll, _ = token_nll(model, sequence["input_ids"])
        mask = supervised(sequence)
        part = nll[mask].sum() / total
        part.backward()
        loss += part.item()
        all_nll.append([value if keep else None for value, keep in zip(nll.tolist(), mask.tolist())])
    return loss, all_nll


def gradient_norm(model):
    return math.sqrt(sum(float(p.grad.double().pow(2).sum()) for p in adapters(model).values()))


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in adapters(model).items()}


def values(model):
    return {name: parameter.detach().clone() for name, parameter in adapters(model).items()}


def train(model, steps, learning_rate, weight_decay=0.0, max_grad_norm=0.0, after_backward=None):
    """AdamW (betas 0.9, 0.999, eps 1e-8) over `steps`, a list of micro-batch lists; losses and norms are before the update.

    `after_backward(step)` (step from 1) is called before clipping.
    """
    parameters = list(adapters(model).values())
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=weight_decay)
    losses, norms = [], []
    for step, micro_batches in enumerate(steps, 1):
        loss, _ = backward_step(model, micro_batches)
        losses.append(loss)
        norms.append(gradient_norm(model))
        if after_backward:
            after_backward(step)
        if max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
        optimizer.step()
    return losses, norms


def worst_relative_l2(left, right):
    """The largest relative L2 distance between tensors of one name."""
    return max(float((left[n].double() - right[n].double()).norm() / right[n].double().norm()) for n in right)


def as_f32(tensors, prefix=""):
    return {prefix + name: tensor.detach().float().contiguous() for name, tensor in tensors.items()}
