#!/usr/bin/env python3
"""Reads a run's event files with the tensorboard package and compares them with its metrics.jsonl.

usage: tensorboard_events.py RUN        (the output folder of `graftling train --tensorboard`)

Needs `pip install tensorboard`. Ends with code 1 where a number differs by more than f32 rounds.
"""
import json
import pathlib
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TAGS = {
    "loss": "train/loss",
    "learning_rate": "train/learning_rate",
    "grad_norm": "train/grad_norm",
    "tokens_per_second": "train/tokens_per_second",
    "supervised_tokens": "train/supervised_tokens",
    "gpu_bytes": "train/gpu_bytes",
    "eval_loss": "eval/loss",
    "check": "check/right",
}


def value(metric):
    """A number, or of questions the share that was answered right."""
    return metric["all"]["right"] / max(metric["all"]["of"], 1) if isinstance(metric, dict) else metric


def main(folder):
    lines = (pathlib.Path(folder) / "metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line) for line in lines if line.startswith('{"step":')]
    events = EventAccumulator(folder, size_guidance={"scalars": 0})
    events.Reload()
    worst = 0.0
    for key, tag in TAGS.items():
        expected = {step["step"]: value(step[key]) for step in metrics if key in step}
        found = {event.step: event.value for event in events.Scalars(tag)} if tag in events.Tags()["scalars"] else {}
        if len(found) != len(events.Scalars(tag) if found else []):
            sys.exit(f"{tag}: a step stands there twice")
        if found.keys() != expected.keys():
            sys.exit(f"{tag}: steps {sorted(found)}, metrics.jsonl has {sorted(expected)}")
        for step, value in expected.items():
            worst = max(worst, abs(found[step] - value) / max(abs(value), 1e-30))
    if worst > 1e-7:
        sys.exit(f"a number differs by {worst:.1e} of itself")
    print(f"{len(metrics)} steps, {len(TAGS)} tags: as in metrics.jsonl (largest difference {worst:.1e} of the value)")


if __name__ == "__main__":
    main(*sys.argv[1:2] or sys.exit(__doc__))
