"""The files of a run as frozen records. What is not there is None or empty; a broken file is a UserError."""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from diffpo.core.errors import UserError
from diffpo.recipes.renamed import renamed_metric
from diffpo.report.differences import differences_of
from diffpo.statistics.comparison import FrontierDifference
from diffpo.statistics.constant import ConstantGain
from diffpo.statistics.gain import Gain
from diffpo.statistics.intervals import Estimate, Interval

ARMS = ("base", "d1", "diffpo", "any-speed", "sampler")
"""The arms of a demo run, in the order of the story; others follow by name."""

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class FrontierPoint:
    """Figures of one sampler on one set of problems. `solved` and `nfe_rows` hold a value per problem, or nothing."""

    rule: str
    kind: str
    accuracy: float
    ci95: Interval
    nfe: float
    n: int
    bound: float | None = None
    solved: tuple[float, ...] = ()
    nfe_rows: tuple[float, ...] = ()


@dataclass(frozen=True)
class LearnedSampler:
    """The point of the learned sampler (the controller), and the entropy bound that it chose for every problem."""

    point: FrontierPoint
    bounds: tuple[float, ...] = ()


@dataclass(frozen=True)
class PriceCurve:
    """What a sampler with prices achieves: a point for each rule that it uses at some price, cheapest first."""

    points: tuple[FrontierPoint, ...]
    prices: Mapping[float, str]
    """By price of a call, the rule that it buys."""
    area: Estimate
    area_gain: Estimate
    """The area less that of all fixed rules on the same model."""

    def at(self, price: float) -> FrontierPoint | None:
        """Return the point that a price buys; None where the price was not asked for."""
        return next((point for point in self.points if point.rule == self.prices.get(price)), None)


@dataclass(frozen=True)
class ValidatedGain:
    """What the learned sampler adds to a fixed rule that was chosen on validation problems."""

    rule: str
    gain: ConstantGain


@dataclass(frozen=True)
class PlaybackCompletion:
    """One finished completion: the prompt, what was answered, and the denoiser call that committed each token."""

    prompt: str
    completion: str
    answer: str
    unmask_step: tuple[int, ...]
    logp: tuple[float, ...]
    nfe: int
    is_solved: bool
    entropy_bound: float | None
    clues: int | None = None
    """The number of clues of a Sudoku, whose prompt and completion are grids; else None."""


@dataclass(frozen=True)
class Arm:
    """One model of the run, by its training recipe, with all that is known of it."""

    name: str
    points: tuple[FrontierPoint, ...] = ()
    learned: LearnedSampler | None = None
    area: Estimate | None = None
    aup: Estimate | None = None
    gain: Gain | None = None
    validated_gain: ValidatedGain | None = None
    price_curve: PriceCurve | None = None
    best_constants: Mapping[float, str] = field(default_factory=dict)
    """By price of a call, the fixed rule that validation problems chose."""
    clues: tuple[int, ...] = ()
    playback: tuple[PlaybackCompletion, ...] = ()
    metrics: tuple[Mapping[str, float], ...] = field(default=(), repr=False)
    train_denoiser_calls: int | None = None

    @property
    def is_evaluated(self) -> bool:
        return bool(self.points or self.learned or self.price_curve)


@dataclass(frozen=True)
class ReportedRun:
    """What the files of a run directory hold."""

    name: str
    arms: tuple[Arm, ...]
    task: str | None = None
    split: str | None = None
    seed: int | None = None
    wall_s: float | None = None
    completion_length: int | None = None
    compared: Mapping[str, FrontierDifference] = field(default_factory=dict)
    """By arm, how far the frontier of a demo's any-speed model with its sampler is above that of the arm."""


def read_run(run_dir: Path) -> ReportedRun:
    """Read `summary.json`, `eval/*.json`, `*/metrics.jsonl` and `*/eval.json` of a run directory, whichever are there.

    A `metrics.jsonl` or an `eval.json` directly in it makes the directory itself an arm: it is one training run. Raises
    UserError where there is none of these files, and where one is broken.
    """
    if not run_dir.is_dir():
        raise UserError(f"{run_dir}: no such run directory; give the directory that a run has written.")
    summary = _read_object(run_dir / "summary.json")
    evals = {path.stem: path for path in sorted(run_dir.glob("eval/*.json"))}
    evals |= {path.parent.name: path for path in sorted(run_dir.glob("*/eval.json"))}
    if (own_eval := run_dir / "eval.json").exists():
        evals.setdefault(run_dir.resolve().name, own_eval)
    logs = {path.parent.name: path for path in sorted(run_dir.glob("*/metrics.jsonl"))}
    if (own := run_dir / "metrics.jsonl").exists():
        logs.setdefault(run_dir.resolve().name, own)
    summaries = _build(run_dir / "summary.json", _arms_by_name, summary)
    names = {*summaries, *evals, *logs}
    if not names:
        raise UserError(
            f"{run_dir}: nothing to report (no summary.json, eval.json, eval/*.json or metrics.jsonl in it or below "
            "it); give the directory of a run that has finished at least one training or evaluation."
        )
    arms = []
    wall_s = summary.get("wall_s")
    facts: dict[str, Any] = {"seed": summary.get("seed"), "wall_s": None if wall_s is None else float(wall_s)}
    for name in sorted(names, key=lambda name: (ARMS.index(name) if name in ARMS else len(ARMS), name)):
        arm = _build(run_dir / "summary.json", _arm_of_summary, name, summaries.get(name, {}))
        if name in evals:
            found = _read_object(evals[name])
            arm = _build(evals[name], _with_evaluation, arm, found)
            for key in ("task", "split", "completion_length", "seed"):
                facts[key] = facts.get(key) if facts.get(key) is not None else found.get(key)
        if name in logs:
            arm = replace(arm, metrics=_read_metrics(logs[name]))
        arms.append(arm)
    compared = _build(run_dir / "summary.json", differences_of, summary)
    return ReportedRun(name=run_dir.resolve().name, arms=tuple(arms), compared=compared, **facts)


def arms_of_summary(summary: Mapping[str, Any]) -> tuple[Arm, ...]:
    """Return the arms in the contents of `summary.json`, in their order there."""
    return tuple(_arm_of_summary(name, found) for name, found in summary.get("arms", {}).items())


def _arms_by_name(summary: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: dict(found) for name, found in summary.get("arms", {}).items()}


def _arm_of_summary(name: str, found: Mapping[str, Any]) -> Arm:
    return _with_evaluation(
        Arm(name=name, train_denoiser_calls=found.get("train_denoiser_calls")),
        {**found, "points": found.get("frontier", [])},
    )


def _with_evaluation(arm: Arm, found: Mapping[str, Any]) -> Arm:
    learned = found.get("learned")
    gain, validated = found.get("gain"), found.get("validated_gain")
    return replace(
        arm,
        points=tuple(_point(p) for p in found.get("points", [])) or arm.points,
        learned=LearnedSampler(_point(learned), tuple(learned.get("bounds", ()))) if learned else arm.learned,
        area=_estimate(found, "area") or arm.area,
        aup=_estimate(found, "aup") or arm.aup,
        gain=_gain(gain) if gain else arm.gain,
        validated_gain=_validated_gain(validated) if validated else arm.validated_gain,
        price_curve=_price_curve(found["price_curve"]) if found.get("price_curve") else arm.price_curve,
        best_constants=_best_constants(found) or arm.best_constants,
        clues=tuple(found.get("clues", ())),
        playback=tuple(_completion(c) for c in found.get("playback", [])),
    )


def _point(found: Mapping[str, Any]) -> FrontierPoint:
    rule = str(found.get("rule", "learned sampler"))
    bound = found.get("bound")
    return FrontierPoint(
        rule=rule,
        kind=str(found.get("kind") or re.sub(r"[-\s]*(\d[\d.e-]*|inf)$", "", rule)),
        accuracy=float(found["accuracy"]),
        ci95=_interval(found["ci95"]),
        nfe=float(found["nfe"]),
        n=int(found["n"]),
        bound=None if bound is None else float(bound),
        solved=tuple(map(float, found.get("solved", ()))),
        nfe_rows=tuple(map(float, found.get("nfe_rows", ()))),
    )


def _completion(found: Mapping[str, Any]) -> PlaybackCompletion:
    bound = found.get("entropy_bound")
    return PlaybackCompletion(
        prompt=str(found["prompt"]),
        completion=str(found["completion"]),
        answer=str(found["answer"]),
        unmask_step=tuple(map(int, found["unmask_step"])),
        logp=tuple(map(float, found.get("logp", ()))),
        nfe=int(found["nfe"]),
        is_solved=bool(found["solved"]),
        entropy_bound=None if bound is None else float(bound),
        clues=found.get("clues"),
    )


def _gain(found: Mapping[str, Any]) -> Gain:
    return Gain(
        accuracy=float(found["accuracy"]),
        accuracy_ci95=_interval(found["accuracy_ci95"]),
        nfe=float(found["nfe"]),
        nfe_ci95=_interval(found["nfe_ci95"]),
    )


def _validated_gain(found: Mapping[str, Any]) -> ValidatedGain:
    return ValidatedGain(str(found["rule"]), ConstantGain(**vars(_gain(found))))


def _price_curve(found: Mapping[str, Any]) -> PriceCurve:
    area, gain = (_estimate_of(found[key]) for key in ("area", "area_gain"))
    prices = {float(price["price"]): str(price["rule"]) for price in found["prices"]}
    return PriceCurve(tuple(_point(point) for point in found["points"]), prices, area, gain)


def _best_constants(found: Mapping[str, Any]) -> dict[float, str]:
    chosen = (found.get("validation") or {}).get("best_constants", ())
    return {float(constant["price"]): str(constant["rule"]) for constant in chosen}


def _interval(found: Any) -> Interval:
    low, high = found
    return float(low), float(high)


def _estimate(found: Mapping[str, Any], key: str) -> Estimate | None:
    inner = found.get(key)
    return _estimate_of(inner) if inner else None


def _estimate_of(found: Mapping[str, Any]) -> Estimate:
    return Estimate(float(found["value"]), _interval(found["ci95"]))


def _build(path: Path, build: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `build`. Raises UserError naming `path` where a field is missing or has the wrong shape."""
    try:
        return build(*args, **kwargs)
    except KeyError as error:
        raise UserError(f"{path}: the field {error} is missing; was it written by another version?") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: a field has the wrong shape ({error}); was it written by another version?") from error


def _read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`, an empty one where there is no such file."""
    if not path.exists():
        return {}
    return _parsed(path.read_text(encoding="utf-8"), path, 1)


def _read_metrics(path: Path) -> tuple[Mapping[str, float], ...]:
    """Return the finite numbers of every line. Raises UserError for metrics under names that have changed."""
    lines = path.read_text(encoding="utf-8").split("\n")
    # Every complete line ends in a newline: text after the last one is a line being written, or cut off by a crash.
    rows = [_parsed(line, path, number) for number, line in enumerate(lines[:-1], start=1) if line.strip()]
    for number, row in enumerate(rows, start=1):
        for name in row:
            if new := renamed_metric(name, row):
                raise UserError(
                    f"{path}:{number}: the metric {name!r} is called {new!r} now; convert the file by "
                    f"tools/convert_old_names.py {path}"
                )
    return tuple(
        {key: float(value) for key, value in row.items() if isinstance(value, int | float) and math.isfinite(value)}
        for row in rows
    )


def _parsed(text: str, path: Path, first_line: int) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise UserError(f"{path}:{line}: not JSON ({error.msg}); repair or remove the file and try again.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}:{first_line}: a JSON object is needed here; repair or remove the file and try again.")
    return found
