"""Show that a refactoring changed no number: train the tiny recipes in two checkouts and compare the weights.

    python tools/compare_checkouts.py BEFORE AFTER

BEFORE trains one base. From it, both checkouts train each recipe for a few steps, with the same seed and one thread,
and must end at the same bytes and log the same numbers on the way, times left out. Options of a recipe and metrics may
have other names: each checkout takes its own recipe, but for its base and its budget, and the numbers of a step are
compared without their names.

Finished runs of BEFORE are kept, by the digest of its sources, and serve the next comparison. Weights are equal to the
bit on one machine with one version of torch only. Exit code 0: all is equal; 1: something differs; 2: there is nothing
to compare. It is one long file on purpose: it must run beside checkouts of any layout, and imports nothing of theirs.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ["tiny-coupled", "tiny-d1", "tiny-diffpo", "tiny-diffpo-model-only", "tiny-diffpo-sampler-only"]
RECIPES += ["tiny-dmpo", "tiny-dmpo-wddo", "tiny-exact", "tiny-spg", "tiny-wd1"]
BASE_STEPS = 76
"""Of the base's training: it then solves two puzzles of five, so completions of a group earn different rewards."""
MODEL, CONTROLLER, METRICS = "model.safetensors", "controller.safetensors", "metrics.jsonl"
TIME = "seconds"
"""What the name of a metric ends with that no two runs share."""
PEAKS = ("process_peak", "process_above_body")
"""Counts of the benchmarks that are the kernel's, of whole processes: no two runs share them."""
PEAK, PEAK_TOLERANCE = "peak_bytes", 1e-3
"""What the name of a peak of memory ends with, and by which share of it two checkouts may differ."""
ALONE = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONDONTWRITEBYTECODE": "1"}
"""One thread, no GPU: sums are taken in the same order each time. The checkouts are left as they are."""
PROBE = "import importlib.metadata as m, diffpo; print(diffpo.__file__); print(m.version('torch'))"


class Refused(Exception):
    """There is nothing to compare; one sentence says why."""


class Failed(Exception):
    """A run did not do what it should; one line says what it did."""

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.output = output
        """All that it said."""


@dataclass(frozen=True)
class Checkout:
    """A folder with the sources, and the Python that runs them."""

    root: Path
    python: Path

    def run(self, arguments: Sequence[str], folder: Path, allowed: Sequence[int] = (0,)) -> str:
        """Run Python on this checkout's sources, in a folder. Returns what it printed; raises Failed."""
        environment = os.environ | ALONE | {"PYTHONPATH": str(self.root / "src")}
        command = [str(self.python), *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode not in allowed:
            last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1].strip()
            raise Failed(f"exit code {done.returncode}, {last}", done.stdout + done.stderr)
        return done.stdout

    def digest(self) -> str:
        """Of all sources and built-in recipes, in few letters: it names a folder."""
        found = hashlib.sha256()
        for file in sorted((self.root / "src").rglob("*")):
            if file.suffix in (".py", ".toml"):
                content = file.read_bytes()
                found.update(f"{file.relative_to(self.root).as_posix()} {len(content)}\n".encode() + content)
        return found.hexdigest()[:12]


@dataclass(frozen=True)
class Comparison:
    """Two checkouts, and where their runs go."""

    before: Checkout
    after: Checkout
    kept: Path
    """Finished runs of BEFORE, for this comparison and the next."""
    made: Path
    """Runs of AFTER, and those of BEFORE that are not finished."""
    steps: int
    digest: str
    """Of AFTER's sources at the start."""


@dataclass(frozen=True)
class Verdict:
    """What came of one recipe, or of the benchmarks."""

    name: str
    difference: str
    """Empty where there is none."""
    compared: str
    """What was found equal."""

    def __str__(self) -> str:
        return f"{self.name}: {self.difference or f'equal ({self.compared})'}"


@dataclass(frozen=True)
class Tensor:
    """As a safetensors file has it."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


# ------------------------------------------------------------------------------------------------------- the checkouts


def checkout_of(root: Path) -> Checkout:
    """A folder's checkout, with its own environment where it has one. Raises Refused where it is none."""
    root = root.resolve()
    if not (root / "src" / "diffpo").is_dir():
        raise Refused(f"{root} has no src/diffpo; name the folder of a checkout")
    own = root / ".venv" / "bin" / "python"
    return Checkout(root, own if own.is_file() else Path(sys.executable))


def check(before: Checkout, after: Checkout) -> str:
    """The version of torch that both have. Raises Refused where they differ in it, and where a checkout would run
    sources that are not its own."""
    torches = []
    for checkout in (before, after):
        try:
            file, torch = checkout.run(["-c", PROBE], checkout.root).split()
        except Failed as failure:
            raise Refused(f"{checkout.root} cannot be run with {checkout.python}: {failure}") from failure
        if not Path(file).resolve().is_relative_to(checkout.root / "src"):
            raise Refused(f"{checkout.python} imports {file} and not the sources of {checkout.root}")
        torches.append(torch)
    if len(set(torches)) > 1:
        raise Refused(f"torch is {torches[0]} in {before.root} and {torches[1]} in {after.root}; install the same")
    return str(torches[0])


def comparison_of(before: Path, after: Path, work: Path, steps: int) -> Comparison:
    """Check both checkouts and make the folders of their runs. Raises Refused."""
    sides = checkout_of(before), checkout_of(after)
    torch = check(*sides)
    kept = work.resolve() / f"before-{sides[0].digest()}-torch-{torch}"
    try:
        kept.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix="after-", dir=kept.parent))
    except OSError as error:
        raise Refused(f"cannot write to {work} ({error.strerror}); choose another --work") from error
    return Comparison(*sides, kept, made, steps, sides[1].digest())


# ------------------------------------------------------------------------------------------------------------ the runs


def kept_or_made(plan: Comparison, name: str, make: Callable[[Path], None]) -> Path:
    """What BEFORE has under a name. It is made elsewhere and moved when it is whole, so what is there is finished."""
    final, unfinished = plan.kept / name, plan.made / f"before-{name}"
    if not final.exists():
        make(unfinished)
        with suppress(OSError):  # another comparison has moved its own here, which is the same
            unfinished.rename(final)
    return final


def train_base(plan: Comparison) -> Path:
    """The base of all runs, trained in BEFORE. Raises Refused where that fails."""

    def make(out: Path) -> None:
        overrides = ["seed=0", "threads=1", f"steps={BASE_STEPS}"]
        plan.before.run(["-m", "diffpo", "sft", "sudoku4-base", *overrides, "--out", str(out)], plan.made)

    try:
        return kept_or_made(plan, "base", make)
    except Failed as failure:
        raise Refused(f"{plan.before.root} cannot train the base: {failure}") from failure


def train(plan: Comparison, checkout: Checkout, recipe: str, out: Path) -> None:
    """Run a recipe for the steps of the plan; a last stage, which is a share of the budget, falls within them."""
    base = json.dumps(str(plan.kept / "base"))
    overrides = ["seed=0", "threads=1", f"base={base}", f"budget={{steps={plan.steps}}}"]
    checkout.run(["-m", "diffpo", "rl", recipe, *overrides, "--out", str(out)], plan.made)
    for file in (last_checkpoint(out) / MODEL, out / METRICS):
        if not file.is_file():
            raise Failed(f"wrote no {file.relative_to(out)}")


def measure(plan: Comparison, checkout: Checkout, out: Path) -> None:
    """Count what the benchmarks do. Exit code 1 says that one was refused, which its record says, too."""
    checkout.run(["-m", "diffpo", "bench", "--rounds", "0", "--json", str(out)], plan.made, allowed=(0, 1))


def judge(
    plan: Comparison,
    name: str,
    before: Callable[[], Path],
    after: Callable[[], Path],
    compare: Callable[[str, Path, Path], Verdict],
) -> Verdict:
    """Let both sides run, and compare what they have made. A side that fails is a difference, and leaves a log."""
    found = []
    for side, make in (("BEFORE", before), ("AFTER", after)):
        try:
            found.append(make())
        except Failed as failure:
            (plan.made / f"{name}-{side.lower()}.log").write_text(failure.output, encoding="utf-8")
            return Verdict(name, f"{side} failed: {failure}", "")
    return compare(name, *found)


def judge_recipe(plan: Comparison, recipe: str) -> Verdict:
    def before() -> Path:
        return kept_or_made(plan, f"{recipe}-{plan.steps}", lambda out: train(plan, plan.before, recipe, out))

    def after() -> Path:
        train(plan, plan.after, recipe, plan.made / recipe)
        return plan.made / recipe

    return judge(plan, recipe, before, after, compare_runs)


def judge_bench(plan: Comparison) -> Verdict:
    def before() -> Path:
        return kept_or_made(plan, "bench.json", lambda out: measure(plan, plan.before, out))

    def after() -> Path:
        measure(plan, plan.after, plan.made / "bench.json")
        return plan.made / "bench.json"

    return judge(plan, "bench", before, after, compare_benches)


# --------------------------------------------------------------------------------------------------------- the weights


def last_checkpoint(run: Path) -> Path:
    """The run's last checkpoint. Raises Failed where there is none."""
    steps = [path.name.removeprefix("checkpoint-") for path in run.glob("checkpoint-*")]
    if not steps:
        raise Failed("wrote no checkpoint-N")
    return run / f"checkpoint-{max(steps, key=int)}"


def tensors_of(checkpoint: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint by file and name. A file is: length of the header, JSON header, numbers."""
    tensors = {}
    for file in (checkpoint / MODEL, checkpoint / CONTROLLER):
        if file.is_file():
            content = file.read_bytes()
            start = 8 + int.from_bytes(content[:8], "little")
            for name, entry in json.loads(content[8:start]).items():
                if name != "__metadata__":
                    first, last = entry["data_offsets"]
                    data = content[start + first : start + last]
                    tensors[f"{file.name}: {name}"] = Tensor(entry["dtype"], tuple(entry["shape"]), data)
    return tensors


def weight_difference(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> str:
    """How many tensors differ, or are on one side only, and how the first of them does; empty where none does."""
    names = sorted({*before, *after})
    differing = [name for name in names if before.get(name) != after.get(name)]
    if not differing:
        return ""
    first = tensor_difference(before.get(differing[0]), after.get(differing[0]))
    return f"{len(differing)} of {len(names)} tensors differ, {differing[0]} for one: {first}"


def tensor_difference(before: Tensor | None, after: Tensor | None) -> str:
    """What tells two tensors apart that are not the same; None is one that is not there."""
    if before is None or after is None:
        return f"it is only there {'after' if before is None else 'before'}"
    if (before.dtype, before.shape) != (after.dtype, after.shape):
        return f"{before.dtype} {list(before.shape)} before, {after.dtype} {list(after.shape)} after"
    if before.dtype != "F32":
        return "its bytes are others"
    pairs = list(zip(array("f", before.data), array("f", after.data), strict=True))
    gap = max(abs(new - old) for old, new in pairs)
    return f"{sum(old != new for old, new in pairs)} of {len(pairs)} values, by up to {gap:.1e}"


# --------------------------------------------------------------------------------------------------------- the metrics


def metrics_of(run: Path) -> list[dict[str, Any]]:
    """The numbers of each step, by name, without times."""
    lines = [json.loads(line) for line in (run / METRICS).read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in line.items() if not name.endswith(TIME)} for line in lines]


def metric_difference(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> str:
    """The first step whose numbers are not the same, whatever they are called; empty where there is none."""
    for step, (old, new) in enumerate(zip(before, after, strict=False), start=1):
        if difference := line_difference(old, new):
            return f"step {step}: {difference}"
    return "" if len(before) == len(after) else f"{len(before)} steps logged before, {len(after)} after"


def line_difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """How two lists of numbers differ as multisets; a name is only told for the number that it has on its side."""
    lost, gained = without(before, after), without(after, before)
    parts = [f"only {side}: {told(found)}" for side, found in (("before", lost), ("after", gained)) if found]
    if len(before) != len(after):
        parts.insert(0, f"{len(before)} numbers before, {len(after)} after")
    return ", ".join(parts)


def told(metrics: Mapping[str, Any], most: int = 3) -> str:
    more = f" and {len(metrics) - most} more" if len(metrics) > most else ""
    return ", ".join(f"{name} {value}" for name, value in list(metrics.items())[:most]) + more


def without(metrics: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics whose values are not among the others' as often as here."""
    left = Counter(map(as_number, others.values()))
    found = {}
    # Those of one name are matched first, or a 0 that became 1 is told under the name of another 0.
    for name in sorted(metrics, key=lambda name: others.get(name) != metrics[name]):
        value = as_number(metrics[name])
        if left[value]:
            left[value] -= 1
        else:
            found[name] = metrics[name]
    return found


def as_number(value: Any) -> str:
    """All digits of a number; nan equals nan, and 1 equals 1.0."""
    return repr(float(value)) if isinstance(value, int | float) else repr(value)


def compare_runs(name: str, before: Path, after: Path) -> Verdict:
    """Compare the weights at the end and the numbers on the way, which tell where a difference begins."""
    checkpoints = last_checkpoint(before), last_checkpoint(after)
    old, new = (tensors_of(checkpoint) for checkpoint in checkpoints)
    lines = metrics_of(before)
    differences = [weight_difference(old, new), metric_difference(lines, metrics_of(after))]
    if checkpoints[0].name != checkpoints[1].name:
        differences.insert(0, f"ends with {checkpoints[0].name} before, {checkpoints[1].name} after")
    return Verdict(name, "; ".join(filter(None, differences)), f"{len(lines)} steps, {len(old)} tensors")


# ------------------------------------------------------------------------------------------------------ the benchmarks


def compare_benches(name: str, before: Path, after: Path) -> Verdict:
    """Compare what each benchmark counts, and whether its two sides did the same.

    Peaks of memory must agree to `PEAK_TOLERANCE`: small tensors may live somewhat longer or shorter than before.
    """
    old, new = (counts_of(file) for file in (before, after))
    for bench in sorted({*old, *new}):
        if bench not in old or bench not in new:
            return Verdict(name, f"{bench} is only there {'before' if bench in old else 'after'}", "")
        for key in [key for key in old[bench] if key.endswith(PEAK) and key in new[bench]]:
            peak, was = new[bench].pop(key), old[bench].pop(key)
            if abs(peak - was) > PEAK_TOLERANCE * was:
                return Verdict(name, f"{bench}: {key} was {was} and is {peak}", "")
        if difference := line_difference(old[bench], new[bench]):
            return Verdict(name, f"{bench}: {difference}", "")
    return Verdict(name, "", f"{len(old)} benchmarks, {sum(map(len, old.values()))} numbers")


def counts_of(file: Path) -> dict[str, dict[str, Any]]:
    """By benchmark: the counts that its records share, as side.quantity, and how many records there are.

    The peaks of processes are left out.
    """
    found: dict[str, dict[str, Any]] = {}
    for record in json.loads(file.read_text(encoding="utf-8")):
        counts = found.setdefault(record["name"].partition("/")[0], {"records": 0})
        counts["records"] += 1
        counts["identity"] = record["identity"]
        for key, value in record["counts"].items():
            if isinstance(value, dict):
                counts |= {f"{key}.{quantity}": count for quantity, count in value.items()}
            elif key not in PEAKS:
                counts[key] = value
    return found


# ------------------------------------------------------------------------------------------------------------ the tool


def compare(plan: Comparison, recipes: Sequence[str], jobs: int, has_bench: bool) -> list[Verdict]:
    """Judge every recipe, `jobs` at a time, then the benchmarks, and print each as it is done."""
    if not (plan.kept / "base").exists():
        print("training the base", flush=True)
    train_base(plan)
    pool = ThreadPoolExecutor(jobs)
    verdicts = []
    try:
        tasks = [pool.submit(judge_recipe, plan, recipe) for recipe in recipes]
        tasks += [pool.submit(judge_bench, plan)] if has_bench else []
        for done in as_completed(tasks):
            verdicts.append(done.result())
            print(verdicts[-1], flush=True)
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C ends the runs, and does not begin the next
    if plan.after.digest() != plan.digest:
        raise Refused(f"the sources of {plan.after.root} changed meanwhile, so this says nothing; compare again")
    return verdicts


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Raises Refused for a number or a name that makes no sense."""
    parser = argparse.ArgumentParser(description="Train the tiny recipes in two checkouts; the weights must be equal.")
    parser.add_argument("before", type=Path, metavar="BEFORE", help="folder of the checkout that is taken as right")
    parser.add_argument("after", type=Path, metavar="AFTER", help="folder of the one to compare with it")
    work = ROOT / "runs" / "compare"
    parser.add_argument("--work", type=Path, default=work, help="where the runs go (default: runs/compare)")
    parser.add_argument("--steps", type=int, default=33, help="steps of each run (default: 33)")
    parser.add_argument("--only", nargs="+", default=RECIPES, metavar="NAME", help="some of the recipes")
    parser.add_argument("--jobs", type=int, default=2, help="recipes compared at a time (default: 2)")
    parser.add_argument("--bench", action="store_true", help="also compare what the benchmarks count")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.only if name not in RECIPES]:
        raise Refused(f"--only: no recipe is called {', '.join(unknown)}; there are {', '.join(RECIPES)}")
    for name in ("steps", "jobs"):
        if getattr(options, name) < 1:
            raise Refused(f"--{name}: should be 1 or more, got {getattr(options, name)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        options = read_options(arguments)
        plan = comparison_of(options.before, options.after, options.work, options.steps)
        verdicts = compare(plan, list(dict.fromkeys(options.only)), options.jobs, options.bench)
    except Refused as refusal:
        print(f"compare_checkouts: {refusal}", file=sys.stderr)
        return 2
    is_equal = not any(verdict.difference for verdict in verdicts)
    if is_equal:
        shutil.rmtree(plan.made)
    else:
        print(f"the runs are in {plan.kept} and {plan.made}")
    recipes = [verdict for verdict in verdicts if verdict.name in RECIPES]
    print(f"{len(recipes)} recipes, {sum(not verdict.difference for verdict in recipes)} equal")
    return 0 if is_equal else 1


if __name__ == "__main__":
    sys.exit(main())
