"""The demo on many seeds: does its headline hold on all of them?

    python studies/demo_seeds.py                # seeds 0 to 9, four minutes each on two cores; goes on where it stopped
    python studies/demo_seeds.py --report       # only the table of what is there

Each finished seed is a line of results/demo.jsonl: what the base solves at one token per call, and the any-speed
model's whole frontier, under its sampler, against that of each other arm.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WORK = Path("runs/demo-seeds")
OUT = Path("results/demo.jsonl")
SLOWEST = "entropy bound 0"


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seeds", default="0,1,2,3,4,5,6,7,8,9")
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--report", action="store_true", help="run nothing")
    given = parser.parse_args()
    lines = [json.loads(text) for text in given.out.read_text().splitlines()] if given.out.is_file() else []
    for seed in map(int, given.seeds.split(",")):
        if given.report or any(line["seed"] == seed for line in lines):
            continue
        folder = given.work / str(seed)
        if not (folder / "summary.json").is_file():
            subprocess.run([sys.executable, "-m", "diffpo", "demo", "--seed", str(seed), "--out", folder], check=True)
        lines.append(line_of(json.loads((folder / "summary.json").read_text())))
        given.out.parent.mkdir(parents=True, exist_ok=True)
        ordered = sorted(lines, key=lambda line: line["seed"])
        given.out.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in ordered))
    print(table(sorted(lines, key=lambda line: line["seed"])))


def line_of(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of a demo's summary.json."""
    base = {point["rule"]: point["accuracy"] for point in summary["arms"]["base"]["frontier"]}
    return {
        "seed": summary["seed"],
        "wall_s": summary["wall_s"],
        "base": base[SLOWEST],
        "compared": summary["compared"],
    }


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return a line for each seed: differences in area, and the number of calls at which another arm is closest."""
    found = ["seed  base   area over d1            area over DiFFPO        lowest lower end over both, points"]
    for line in lines:
        areas, ends = [], []
        for arm in ("d1", "diffpo"):
            compared = line["compared"][arm]
            low, high = compared["area"]["ci95"]
            areas.append(f"{compared['area']['value']:+.3f} [{low:+.3f}, {high:+.3f}]")
            ends += [(point["ci95"][0], point["ci95"][1], point["nfe"], arm) for point in compared["accuracy"]]
        low, high, nfe, arm = min(ends)
        ahead = sorted({point[2] for point in ends if point[1] < 0})
        closest = f"{100 * low:+.1f} to {100 * high:+.1f} at {nfe:g} calls ({arm})"
        behind = f", BEHIND at {ahead}" if ahead else ""
        found.append(f"{line['seed']:4d}  {100 * line['base']:4.1f}   {areas[0]}  {areas[1]}  {closest}{behind}")
    return "\n".join(found)


if __name__ == "__main__":
    main()
