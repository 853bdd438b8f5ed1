#!/usr/bin/env python3
"""What sweeps of this folder found, as the table that docs/placement.md shows and `graftling advise` cites.

    graftling sweep --config data/sweeps/NAME.toml --out FOLDER/NAME        (for each)
    python3 data/sweeps/measured.py FOLDER > data/sweeps/measured.tsv
    python3 data/sweeps/measured.py FOLDER --markdown                       (the tables of the page)

A figure is its mean over the seeds and, where there are several, their standard deviation (n - 1).
"""

import json
import pathlib
import sys

# Column, the figure's name in results.json, and how the page writes it.
FIGURES = [
    ("trained", "check_group.trained", "share"),
    ("paraphrase", "check_group.paraphrase", "share"),
    ("two-hop", "check_group.two-hop", "share"),
    ("format", "check_group.format", "share"),
    ("check loss", "check_loss", "loss"),
    ("forgetting", "forgetting", "loss"),
]
HEAD = ["sweep", "arm", "seeds", "rank", "parameters", *(column for column, _, _ in FIGURES)]


def cell(figure):
    if figure is None:
        return "-"
    spread = "" if figure["spread"] is None else f" {figure['spread']:.4f}"
    return f"{figure['mean']:.4f}{spread}"


def markdown(figure, kind):
    """`63 +- 18 %`, `17 % (each seed)`, `0.655 +- 0.004`."""
    if figure is None:
        return "-"
    mean, spread = (float(cell(figure).split()[0]), figure["spread"] and float(f"{figure['spread']:.4f}"))
    if kind == "loss":
        return f"{mean:.3f}" + ("" if spread is None else f" +- {spread:.3f}")
    if not spread:
        return f"{100 * mean:.0f} %" + ("" if spread is None else " (each seed)")
    return f"{100 * mean:.0f} +- {100 * spread:.0f} %"


def main():
    folder, as_markdown = pathlib.Path(sys.argv[1]), "--markdown" in sys.argv
    if not as_markdown:
        print("\t".join(HEAD))
    for recipe in sorted(pathlib.Path(__file__).parent.glob("*.toml")):
        found = folder / recipe.stem / "results.json"
        if not found.exists():
            print(f"{recipe.stem}: not there", file=sys.stderr)
            continue
        arms = [arm for arm in json.loads(found.read_text())["arms"] if arm["figures"]]
        # A column that no arm has is none of this sweep.
        columns = [column for column in FIGURES if any(column[1] in arm["figures"] for arm in arms)]
        if as_markdown:
            print(f"\n{recipe.stem}\n\n| arm | rank | parameters | {' | '.join(name for name, _, _ in columns)} |")
            print("|---" * (3 + len(columns)) + "|")
        for arm in arms:
            plan, figures, seeds = arm["plan"], arm["figures"], arm["figures"]["check_loss"]["seeds"]
            if as_markdown:
                cells = [markdown(figures.get(key), kind) for _, key, kind in columns]
                print(f"| {arm['name']} | {plan['rank']} | {plan['parameters']:,} | {' | '.join(cells)} |")
            else:
                cells = [cell(figures.get(key)) for _, key, _ in FIGURES]
                print("\t".join([recipe.stem, arm["name"], str(seeds), str(plan["rank"]), str(plan["parameters"]), *cells]))


if __name__ == "__main__":
    main()
