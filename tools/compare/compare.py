#!/usr/bin/env python3
"""The same LoRA training with graftling, ferrotensor-cli and PyTorch + PEFT on the CPU, in turn, in one run.

    python tools/compare/compare.py --model FOLDER [--graftling BINARY] [--ferrotensor BINARY] [--peft-python PYTHON]

Prints, for each workload and program, the median over steps of the tokens trained per second, the ratio to graftling, and the
peak memory of the process. The first step of each process warms up and is not counted. README.md has the set-up.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading

from workloads import WORKLOADS, write_files

HERE = pathlib.Path(__file__).resolve().parent
LORA_R = 8


@dataclasses.dataclass
class Outcome:
    tokens_per_second: list  # one entry a counted step
    first_loss: float
    peak_megabytes: float


def run(command, log, timeout):
    """Standard output of `command` and the peak resident memory of its process, in megabytes."""
    with open(log, "w") as errors:
        errors.write(shlex.join(map(str, command)) + "\n")
        errors.flush()
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=errors, text=True)
        clock = threading.Timer(timeout, process.kill)
        clock.start()
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        clock.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        tail = "\n".join(pathlib.Path(log).read_text().splitlines()[-5:])
        raise RuntimeError(f"exit code {process.returncode}; {log} ends with\n{tail}")
    kilobyte = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is bytes on macOS, KiB on Linux
    return output, usage.ru_maxrss * kilobyte / 1e6


def json_lines(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def run_graftling(options, workload, files, folder, log):
    out = folder / "graftling-out"
    shutil.rmtree(out, ignore_errors=True)
    command = [options.graftling, "train", "--model", options.graftling_model or options.model, "--data", files.pretokenised]
    command += ["--out", out, "--lora-r", LORA_R, "--lora-alpha", 2 * LORA_R]
    command += ["--target-modules", ",".join(workload.target_modules)]
    command += ["--batch-size", workload.sequences, "--max-length", workload.max_length, "--no-packing", "--no-shuffle"]
    command += ["--max-steps", options.steps, "--learning-rate", 2e-4, "--lr-schedule", "constant", "--max-grad-norm", 0]
    _, memory = run(command + shlex.split(options.graftling_args), log, options.timeout)
    steps = json_lines((out / "metrics.jsonl").read_text())
    steps = [step for step in steps if "tokens_per_second" in step]
    return Outcome([step["tokens_per_second"] for step in steps[1:]], steps[0]["loss"], memory)


def run_peft(options, workload, files, folder, log):
    command = [options.peft_python, HERE / "peft_steps.py", "--model", options.model, "--data", files.pretokenised]
    command += ["--target-modules", ",".join(workload.target_modules), "--lora-r", LORA_R]
    command += ["--batch-size", workload.sequences, "--steps", options.steps, "--dtype", options.peft_dtype]
    output, memory = run(command, log, options.timeout)
    steps = json_lines(output)
    return Outcome([step["tokens"] / step["seconds"] for step in steps[1:]], steps[0]["loss"], memory)


def run_ferrotensor(options, workload, files, folder, log):
    """It runs one sequence at a time, whatever the batch, so sequences of a step go into --grad-accum.

    Its order is its own and it reports supervised tokens only, so a step of a chat counts the file's mean tokens.
    """
    out = folder / "ferrotensor-out"
    shutil.rmtree(out, ignore_errors=True)
    command = [options.ferrotensor, "train", "--model", options.model, "--data", files.ferrotensor, "--out", out]
    command += ["--task", "sft" if workload.is_chat else "pretrain", "--seq-len", workload.max_length]
    command += ["--lora-rank", LORA_R, "--lora-alpha", 2 * LORA_R, "--lora-targets", ",".join(workload.target_modules)]
    command += ["--batch-size", 1, "--grad-accum", workload.sequences, "--max-steps", options.ferrotensor_steps]
    command += ["--log-every", 1, "--lr", 2e-4, "--warmup-steps", 0]
    _, memory = run(command, log, options.timeout)
    steps = json_lines((out / "metrics.jsonl").read_text())
    tokens = workload.sequences * statistics.mean(len(record["input_ids"]) for record in files.records)
    return Outcome([tokens / step["seconds"] for step in steps[1:]], steps[0]["loss"], memory)


PROGRAMS = {"graftling": run_graftling, "PyTorch + PEFT": run_peft, "ferrotensor": run_ferrotensor}


def encoder(model):
    """Text to ids with the folder's tokenizer.json; special tokens in the text are recognised."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(pathlib.Path(model) / "tokenizer.json"))
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def table(results, programs):
    """Markdown: one row a workload and program."""
    lines = ["| workload | program | tokens/s | graftling is | peak MB | loss of step 1 |", "|---|---|---:|---:|---:|---:|"]
    for name, outcomes in results.items():
        speed = {p: statistics.median([s for o in outcomes[p] for s in o.tokens_per_second]) for p in programs if outcomes[p]}
        for program, median in speed.items():
            ratio = f"{speed['graftling'] / median:.2f} x" if "graftling" in speed and program != "graftling" else ""
            memory = max(o.peak_megabytes for o in outcomes[program])
            loss = outcomes[program][0].first_loss
            lines.append(f"| {name} | {program} | {median:.1f} | {ratio} | {memory:,.0f} | {loss:.4f} |")
    return "\n".join(lines)


def first_line(command, wanted=""):
    """The first line of what `command` prints that contains `wanted`, or '' where there is none."""
    try:
        printed = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next((line.strip() for line in printed.splitlines() if wanted in line), "")


def setting(options, load):
    """What the figures depend on, one Markdown list: machine, adapter, versions, command."""
    lines = [f"{os.cpu_count()} cores ({platform.machine()}), load average {load:.1f} at the start"]
    if options.graftling:
        version = first_line([options.graftling, "--version"])
        adapter = first_line([options.graftling, "doctor"], "0: ").removeprefix("0: ")
        backend = first_line([options.graftling, "doctor"], "backend ").removeprefix("backend").strip()
        lines.append(f"{version} on {adapter}, {backend}")
    if options.ferrotensor:
        lines.append(f"{first_line([options.ferrotensor, '--version'])} on the same adapter, {options.ferrotensor_steps} steps")
    if options.peft_python:
        program = "from importlib.metadata import version; print(version('torch'), version('transformers'), version('peft'))"
        versions = first_line([options.peft_python, "-c", program])
        lines.append(f"torch, transformers, peft {versions}, {options.peft_dtype}, all cores")
    lines.append(f"r {LORA_R}; medians over the steps after the first of {options.rounds} round(s) of {options.steps} steps")
    extra = f", `{options.graftling_args}`" if options.graftling_args else ""
    own_model = (options.graftling_model or options.model).name
    lines.append(f"model: {own_model} for graftling{extra}, {options.model.name} for the others")
    return "\n".join(f"- {line}" for line in lines)


def parse_options():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", required=True, type=pathlib.Path, help="Hugging Face folder, for all programs")
    arguments.add_argument("--graftling", type=pathlib.Path, help="the release binary; left out: not run")
    arguments.add_argument("--graftling-model", type=pathlib.Path, help="another model for graftling (such as the GGUF file)")
    arguments.add_argument("--graftling-args", default="", help="further options for `graftling train`, in one string")
    arguments.add_argument("--ferrotensor", type=pathlib.Path, help="the binary; left out: not run")
    arguments.add_argument("--peft-python", type=pathlib.Path, help="a Python with torch and peft; left out: not run")
    arguments.add_argument("--peft-dtype", choices=["f32", "bf16"], default="f32")
    arguments.add_argument("--steps", type=int, default=6, help="steps of a process, the first not counted")
    arguments.add_argument("--ferrotensor-steps", type=int, default=2, help="the same for ferrotensor, the slowest")
    arguments.add_argument("--rounds", type=int, default=1, help="how often each program runs, in turn")
    arguments.add_argument("--workloads", default="all-4x128,all-1x128,all-chat-4", help="comma-separated, or `every`")
    arguments.add_argument("--timeout", type=float, default=1800, help="seconds for one process")
    arguments.add_argument("--markdown", type=pathlib.Path, help="also write the report here (benches/RESULTS.md)")
    arguments.add_argument("--json", type=pathlib.Path, help="also write every measured step here")
    options = arguments.parse_args()
    wanted = [w.name for w in WORKLOADS] if options.workloads == "every" else options.workloads.split(",")
    unknown = set(wanted) - {w.name for w in WORKLOADS}
    if unknown:
        arguments.error(f"unknown workload {', '.join(sorted(unknown))}; known: {', '.join(w.name for w in WORKLOADS)}")
    if min(options.steps, options.ferrotensor_steps) < 2:
        arguments.error("a process needs at least 2 steps: the first is not counted")
    options.wanted = [w for w in WORKLOADS if w.name in wanted]
    return options


def main():
    options = parse_options()
    given = {"graftling": options.graftling, "PyTorch + PEFT": options.peft_python, "ferrotensor": options.ferrotensor}
    programs = [program for program in PROGRAMS if given[program]]
    if not programs:
        raise SystemExit("nothing to compare: give --graftling, --peft-python, --ferrotensor")
    vocab_size = json.loads((options.model / "config.json").read_text())["vocab_size"]
    folder = pathlib.Path(tempfile.mkdtemp(prefix="graftling-compare-"))
    encode = encoder(options.model) if any(w.is_chat for w in options.wanted) else None
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 0.5:
        print(f"warning: load average {load:.1f}: other work takes part of the machine, trust no figure below", file=sys.stderr)
    results = {}
    for workload in options.wanted:
        files = write_files(workload, folder, vocab_size, encode)
        outcomes = results[workload.name] = {program: [] for program in programs}
        for round_number in range(1, options.rounds + 1):
            for program in programs:
                log = folder / f"{workload.name}-{program.split()[0].lower()}-{round_number}.log"
                try:
                    outcome = PROGRAMS[program](options, workload, files, folder, log)
                except (RuntimeError, OSError, ValueError, KeyError, IndexError) as error:
                    print(f"{workload.name}: {program} failed: {error}", file=sys.stderr)
                    continue
                outcomes[program].append(outcome)
                median = statistics.median(outcome.tokens_per_second)
                print(f"{workload.name}: {program}: {median:.1f} tokens/s, {outcome.peak_megabytes:,.0f} MB", file=sys.stderr)
    if options.json:
        steps = {w: {p: [dataclasses.asdict(o) for o in runs] for p, runs in by.items()} for w, by in results.items()}
        options.json.write_text(json.dumps(steps, indent=1) + "\n")
    report = f"{setting(options, load)}\n\n{table(results, programs)}\n"
    print(report)
    if options.markdown:
        source = "Printed by `tools/compare/compare.py`; see tools/compare/README.md."
        options.markdown.write_text(f"# Training speed and memory\n\n{source}\n\n{report}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
