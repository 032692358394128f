"""From paths to what is reported: runs, folders of runs, evaluation records, studies and demos, mixed as one likes."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from diffpo.core.errors import UserError
from diffpo.recipes.files import verb_of_stored
from diffpo.report.comparing import compared
from diffpo.report.data import Arm, ReportedRun, placed
from diffpo.report.differences import differences_of
from diffpo.report.fields import optional_number
from diffpo.report.found import SUMMARY, FoundArm, arms_in, is_demo, nothing_in, results_file
from diffpo.report.metrics import parse_object, read_metrics
from diffpo.report.reading import arms_of_summary, build, with_evaluation
from diffpo.report.study_arms import read_study

DEMO_ARMS = {"base": "base", "d1": "d1", "diffpo": "DiFFPO", "any-speed": "any-speed", "sampler": "any-speed"}
"""The folders of a demo in the order of its story, as readers see them: the last sampler is fitted to the policy
any-speed, which stays as it is, so that to readers they are one."""
DEMO_MAIN = "any-speed"
"""The arm that a demo compares with the others."""
LONGEST_NAME = 60


@dataclass
class _Read:
    """What has been read so far: arms with the place that tells equal names apart, and facts about all of them."""

    arms: list[tuple[Path, Arm]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def read_run(path: Path) -> ReportedRun:
    """Return what a path holds, of its first task where it holds several; see `read_sources`."""
    return read_sources([path])[0]


def read_sources(paths: Sequence[Path]) -> tuple[ReportedRun, ...]:
    """Return what paths hold, a `ReportedRun` for each task: arms of different tasks cannot be compared.

    A path is a run's folder, a folder of runs, a record of `diffpo eval`, the folder or file of a study's results, or
    the folder of a demo. Arms keep the order of the paths; those of a folder are sorted by name, models that are
    trained from others after these. Raises UserError where there is nothing, and where a file is broken.
    """
    read = _Read()
    for path in dict.fromkeys(paths):
        with _explained(path):
            if results := results_file(path):
                arms, notes = read_study(results)
                read.arms += [(path / str(arm.task) / arm.name, arm) for arm in arms]
                read.notes += notes
            elif is_demo(path):
                _read_demo(path, read)
            else:
                read.arms += [(found.where, _arm_of(found)) for found in _by_training(arms_in(path))]
    if not read.arms:
        raise nothing_in(paths[0])
    title = ", ".join(path.resolve().name for path in paths)
    of_task = _by_task(read.arms)
    notes = list(read.notes)
    if len(of_task) > 1:
        told = ", ".join(str(task) for task in of_task)
        notes.append(f"There are {len(of_task)} tasks ({told}), which cannot be compared: each has a page of its own.")
    return tuple(
        compared(ReportedRun(f"{title:.{LONGEST_NAME}}", placed(arms), task, notes=tuple(notes), **read.facts))
        for task, arms in of_task.items()
    )


def _arm_of(found: FoundArm) -> Arm:
    """Return an arm with what its record and its log say."""
    arm = Arm(found.name)
    recipe = _recipe(found)
    task = recipe.get("task")
    if isinstance(task, Mapping) and isinstance(kind := task.get("kind"), str):
        arm = replace(arm, task=kind)
    if isinstance(seed := recipe.get("seed"), int):
        arm = replace(arm, seeds=(seed,))
    if found.record:
        record = parse_object(found.record.read_bytes(), found.record, 1)
        if not {"points", "learned", "price_curve", "area", "playback"} & record.keys():
            raise UserError(f"{found.record}: no record of an evaluation, which has points; write one by diffpo eval")
        arm = build(found.record, with_evaluation, arm, record)
        if not arm.is_evaluated:
            raise UserError(
                f"{found.record}: the field 'points' should have the figures of at least one rule, and has none; "
                "write the record again by diffpo eval"
            )
    if found.log:
        metrics = read_metrics(found.log)
        calls = [row["denoiser_calls"] for row in metrics[-1:] if "denoiser_calls" in row]
        arm = replace(arm, metrics=metrics, train_denoiser_calls=int(calls[0]) if calls else None)
    return arm


def _read_demo(path: Path, read: _Read) -> None:
    """Add a demo's arms under their own names, and the figures of its summary."""
    file = path / SUMMARY
    summary = parse_object(file.read_bytes(), file, 1) if file.exists() else {}
    arms: dict[str, Arm] = {}
    for arm in [*build(file, arms_of_summary, summary), *map(_arm_of, arms_in(path))]:
        name = DEMO_ARMS.get(arm.name, arm.name)
        arms[name] = _joined(arms[name], arm) if name in arms else replace(arm, name=name)
    order = list(dict.fromkeys([*DEMO_ARMS.values(), *arms]))
    read.arms += [(path / name, arms[name]) for name in order if name in arms]
    read.facts |= {"seed": _shown(summary.get("seed")), "wall_s": build(file, optional_number, summary, "wall_s", 0)}
    differences = build(file, differences_of, summary)
    read.facts["main"] = DEMO_MAIN
    read.facts["compared"] = {DEMO_ARMS.get(name, name): found for name, found in differences.items()}
    missing = [name for name in dict.fromkeys(DEMO_ARMS.values()) if name not in arms]
    if not summary or missing:
        lacking = f" without {', '.join(missing)}" if missing else ""
        read.notes.append(f"This demo is not finished{lacking}; the same command, diffpo demo, goes on with it.")


def _joined(first: Arm, second: Arm) -> Arm:
    """Return an arm with what either has; of the figures of an evaluation, those of the second."""
    found, other = (second, first) if second.is_evaluated else (first, second)
    calls = first.train_denoiser_calls if first.is_evaluated else None
    return replace(
        found,
        name=first.name,
        metrics=max(found.metrics, other.metrics, key=len),
        train_denoiser_calls=calls or max(arm.train_denoiser_calls or 0 for arm in (first, second)) or None,
        seeds=found.seeds or other.seeds,
    )


def _by_training(found: Sequence[FoundArm]) -> list[FoundArm]:
    """Return supervised runs, then those of reinforcement learning, then fitted samplers, otherwise as they came."""
    return sorted(found, key=lambda arm: {"sft": 0, "sampler": 2}.get(verb_of_stored(_recipe(arm)), 1))


def _recipe(found: FoundArm) -> Mapping[str, Any]:
    if found.recipe is None:
        return {}
    try:
        return tomllib.loads(found.recipe.read_text(encoding="utf-8"))
    except ValueError as error:
        told = str(error).partition("\n")[0]
        raise UserError(f"{found.recipe}: no TOML that can be read ({told}); repair or remove the file") from error


def _by_task(read: Sequence[tuple[Path, Arm]]) -> dict[str | None, dict[str, Arm]]:
    """Return the arms of each task by name.

    A run that is not evaluated knows its task's kind alone, and goes with the first evaluated one of that kind; arms of
    which the task is not known go with the first.
    """
    tasks = list(dict.fromkeys(arm.task for _, arm in read if arm.is_evaluated and arm.task))
    found: dict[str | None, list[tuple[Path, Arm]]] = {task: [] for task in tasks}
    for where, arm in read:
        of_kind = [known for known in tasks if known.startswith(arm.task or "")]
        task = arm.task if arm.is_evaluated and arm.task else next(iter(of_kind), arm.task)
        found.setdefault(task, []).append((where.resolve(), arm))
    return {task: _uniquely_named(dict(arms)) for task, arms in found.items()}


def _uniquely_named(arms: Mapping[Path, Arm]) -> dict[str, Arm]:
    """Return arms by name, those of equal names with as much of their paths before it as tells them apart."""
    found = {}
    for where, arm in arms.items():
        name = arm.name
        rivals = [other for other, rival in arms.items() if rival.name == name and other != where]
        for length in range(1, len(where.parts)):
            if not rivals:
                break
            before = where.parts[-1 - length : -1]
            name = f"{'/'.join(before)}/{arm.name}"
            rivals = [other for other in rivals if other.parts[-1 - length : -1] == before]
        found[name if not rivals else f"{name} ({where.name})"] = arm
    return found


def _shown(value: Any) -> int | str | None:
    """Return a fact for the page, whatever it is."""
    return value if value is None or isinstance(value, int) else f"{value!s:.60}"


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot read {error.filename or path} ({error.strerror or error}); mend it") from error
