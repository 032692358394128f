"""Do so many of each, and say in the last line what came of them: `make torture`."""

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.torture import answers, flips, full_disk, kills, nodes, readers, rewards
from tests.torture.guided import torture_guided

WORKER_HARMS = 20


@dataclass(frozen=True)
class Asked:
    """How many of each."""

    kills: int
    flips: int
    full_disks: int
    machines: int
    completions: int
    symbolic: int
    files: int
    rewards: bool
    atheris: int
    """Seconds."""
    seed: int
    jobs: int


@dataclass(frozen=True)
class Outcome:
    """What came of one kind, and whether it is what must be."""

    told: str
    is_good: bool


def torture(asked: Asked, folder: Path) -> list[Outcome]:
    """Do what is asked in a folder. The cheap and quick comes last, since a run that fails should be seen first."""
    found: list[Outcome] = []
    needs_runs = asked.kills or asked.flips or asked.full_disks or asked.machines or asked.rewards
    runs = kills.cases(folder) if needs_runs else []
    if asked.kills:
        killed = kills.torture_by_kills(runs, folder, asked.kills, asked.seed)
        told = f"kills {killed.killed} resumed {killed.resumed} lost {killed.lost}"
        found.append(Outcome(told, killed.resumed == killed.killed and killed.lost == 0))
    if asked.flips:
        detected = flips.torture_by_flips(folder / "rl" / "straight", asked.flips, asked.seed)
        found.append(Outcome(f"flips {asked.flips} detected {detected}", detected == asked.flips))
    if asked.full_disks:
        full = full_disk.torture_by_full_disks(runs, folder, asked.full_disks, asked.seed)
        told = f"full disks {full.filled} told {full.told} resumed {full.resumed}"
        found.append(Outcome(told, full.told == full.resumed == full.filled))
    if asked.machines and nodes.can_make_machines():
        lost = nodes.torture_by_lost_machines(folder / "sft" / "straight", folder, asked.machines, asked.seed)
        found.append(Outcome(f"lost machines {lost.lost} recovered {lost.recovered}", lost.recovered == lost.lost))
    elif asked.machines:
        found.append(Outcome("lost machines not tried, for want of root or iproute2", is_good=True))
    if asked.rewards:
        count, good = rewards.torture_by_rewards(folder / "sft" / "straight", folder)
        harmed, right = rewards.torture_the_worker(WORKER_HARMS, asked.seed)
        told = f"bad rewards {count} survived {good}; harmed workers {harmed} replaced {right}"
        found.append(Outcome(told, good == count and right == harmed))
    if asked.files:
        read = readers.torture_by_files(folder / "files", asked.files, asked.seed)
        write_down(folder, "readers", read.faults)
        found.append(Outcome(f"spoilt files {read.read} faults {len(read.faults)}", not read.faults))
    if asked.completions:
        cheap = answers.torture_cheap_graders(asked.completions, asked.seed, asked.jobs, folder / "faults.jsonl")
        found.append(Outcome(f"completions {cheap.completions}: {cheap.line()}", cheap.is_good))
    if asked.symbolic:
        asking = answers.torture_symbolic_grader(asked.symbolic, asked.seed, asked.jobs, folder / "faults.jsonl")
        found.append(Outcome(f"symbolic {asking.asked}: {asking.line()}", asking.is_good))
        (folder / "symbolic.json").write_text(json.dumps(vars(asking)) + "\n")
    if asked.atheris:
        found.append(Outcome(*torture_guided(asked.atheris, asked.seed, folder)))
    return found


def write_down(folder: Path, label: str, faults: list[str]) -> None:
    """Add the faults of one kind to a file."""
    with (folder / "faults.jsonl").open("a") as file:
        file.write("".join(json.dumps({"of": label, "fault": fault}) + "\n" for fault in faults))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    for name, default in (
        ("kills", 100),
        ("flips", 100),
        ("full-disks", 20),
        ("machines", 10),
        ("completions", 1_000_000),
        ("symbolic", 20_000),
        ("files", 20_000),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"(default: {default})")
    parser.add_argument("--no-rewards", dest="rewards", action="store_false", help="leave out rewards that fail")
    parser.add_argument("--atheris", type=int, default=0, metavar="SECONDS", help="fuzz guided by coverage, too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes that grade (default: 2)")
    asked = Asked(**vars(parser.parse_args()))
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    found = torture(asked, folder)
    is_good = all(outcome.is_good for outcome in found)
    if is_good:
        shutil.rmtree(folder)
    else:
        print(f"what failed is in {folder}")
    print(f"torture: {'; '.join(outcome.told for outcome in found)}")
    sys.exit(not is_good)


if __name__ == "__main__":
    main()
