"""The files of a run as frozen records. What is not there is None or empty; a broken file is a UserError."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from diffpo.core.errors import UserError
from diffpo.report.differences import differences_of, estimate
from diffpo.report.fields import (
    MOST_CALLS,
    interval,
    items,
    member,
    number,
    numbers,
    objects,
    optional_number,
    required,
    whole,
    words,
)
from diffpo.report.metrics import parse_object, read_metrics
from diffpo.statistics.comparison import FrontierDifference
from diffpo.statistics.constant import ConstantGain
from diffpo.statistics.gain import Gain
from diffpo.statistics.intervals import Estimate, Interval

ARMS = ("base", "d1", "diffpo", "any-speed", "sampler")
"""The arms of a demo run, in the order of the story; others follow by name."""
FEWEST_CALLS = 0.01
"""For a problem, on average; its logarithm is drawn."""

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
    tokens: tuple[str, ...] = ()
    """What each token adds to the text; nothing where a record has it not."""
    special: tuple[int, ...] = ()
    """The indices of those tokens that are no text: end of text, padding."""
    rule: str | None = None
    """The rule that decoded it, by the name that its point has."""
    difficulty: str | None = None
    """Of the problem, in words."""


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
    seed: int | str | None = None
    wall_s: float | None = None
    completion_length: int | str | None = None
    compared: Mapping[str, FrontierDifference] = field(default_factory=dict)
    """By arm, how far the frontier of a demo's any-speed model with its sampler is above that of the arm."""


def read_run(run_dir: Path) -> ReportedRun:
    """Read `summary.json`, `eval/*.json`, `*/metrics.jsonl` and `*/eval.json` of a run directory, whichever are there.

    A `metrics.jsonl` or an `eval.json` directly in it makes the directory itself an arm: it is one training run. Raises
    UserError where there is none of these files, and where one is broken.
    """
    if not run_dir.is_dir():
        raise UserError(f"{run_dir}: no such run directory; give the directory that a run has written.")
    with _explain_read_errors(run_dir):
        return _read_run(run_dir)


def _read_run(run_dir: Path) -> ReportedRun:
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
    facts: dict[str, Any] = {"seed": _shown(summary.get("seed"))}
    facts["wall_s"] = _build(run_dir / "summary.json", optional_number, summary, "wall_s")
    for name in sorted(names, key=lambda name: (ARMS.index(name) if name in ARMS else len(ARMS), name)):
        arm = _build(run_dir / "summary.json", _arm_of_summary, name, summaries.get(name, {}))
        if name in evals:
            found = _read_object(evals[name])
            arm = _build(evals[name], _with_evaluation, arm, found)
            for key in ("task", "split", "completion_length", "seed"):
                facts[key] = facts.get(key) if facts.get(key) is not None else _shown(found.get(key))
        if name in logs:
            arm = replace(arm, metrics=read_metrics(logs[name]))
        arms.append(arm)
    compared = _build(run_dir / "summary.json", differences_of, summary)
    facts |= {key: None if facts.get(key) is None else str(facts[key]) for key in ("task", "split")}
    return ReportedRun(name=run_dir.resolve().name, arms=tuple(arms), compared=compared, **facts)


def arms_of_summary(summary: Mapping[str, Any]) -> tuple[Arm, ...]:
    """Return the arms in the contents of `summary.json`, in their order there."""
    return tuple(_arm_of_summary(name, found) for name, found in _arms_by_name(summary).items())


def _arms_by_name(summary: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    arms = member(summary, "arms")
    return {name: dict(member(arms, name)) for name in arms}


def _arm_of_summary(name: str, found: Mapping[str, Any]) -> Arm:
    calls = whole(found, "train_denoiser_calls") if found.get("train_denoiser_calls") is not None else None
    return _with_evaluation(Arm(name=name, train_denoiser_calls=calls), {**found, "points": items(found, "frontier")})


def _with_evaluation(arm: Arm, found: Mapping[str, Any]) -> Arm:
    learned, gain, validated = (member(found, name) for name in ("learned", "gain", "validated_gain"))
    curve = member(found, "price_curve")
    return replace(
        arm,
        points=tuple(map(_point, objects(found, "points"))) or arm.points,
        learned=LearnedSampler(_point(learned), numbers(learned, "bounds")) if learned else arm.learned,
        area=_estimate(found, "area") or arm.area,
        aup=_estimate(found, "aup") or arm.aup,
        gain=_gain(gain) if gain else arm.gain,
        validated_gain=ValidatedGain(words(validated, "rule"), ConstantGain(**vars(_gain(validated))))
        if validated
        else arm.validated_gain,
        price_curve=_price_curve(curve) if curve else arm.price_curve,
        best_constants=_rules_by_price(member(found, "validation"), "best_constants") or arm.best_constants,
        clues=tuple(map(int, numbers(found, "clues", 0, MOST_CALLS))),
        playback=tuple(map(_completion, objects(found, "playback"))),
    )


def _point(found: Mapping[str, Any]) -> FrontierPoint:
    rule = str(found.get("rule", "learned sampler"))
    return FrontierPoint(
        rule=rule,
        kind=str(found.get("kind") or re.sub(r"[-\s]*(\d[\d.e-]*|inf)$", "", rule)),
        accuracy=number(found, "accuracy"),
        ci95=interval(found, "ci95"),
        nfe=number(found, "nfe", FEWEST_CALLS, MOST_CALLS),
        n=whole(found, "n"),
        bound=optional_number(found, "bound"),
        solved=numbers(found, "solved"),
        nfe_rows=numbers(found, "nfe_rows"),
    )


def _completion(found: Mapping[str, Any]) -> PlaybackCompletion:
    return PlaybackCompletion(
        prompt=words(found, "prompt"),
        completion=words(found, "completion"),
        answer=words(found, "answer"),
        unmask_step=tuple(map(int, numbers(found, "unmask_step", 0, MOST_CALLS))),
        logp=numbers(found, "logp"),
        nfe=whole(found, "nfe"),
        is_solved=bool(found["solved"]),
        entropy_bound=optional_number(found, "entropy_bound"),
        clues=None if found.get("clues") is None else whole(found, "clues"),
        tokens=tuple(words({"tokens": token}, "tokens") for token in items(found, "tokens")),
        special=tuple(map(int, numbers(found, "special", 0, MOST_CALLS))),
        rule=None if found.get("rule") is None else words(found, "rule"),
        difficulty=None if found.get("difficulty") is None else words(found, "difficulty"),
    )


def _gain(found: Mapping[str, Any]) -> Gain:
    return Gain(
        accuracy=number(found, "accuracy"),
        accuracy_ci95=interval(found, "accuracy_ci95"),
        nfe=number(found, "nfe"),
        nfe_ci95=interval(found, "nfe_ci95"),
    )


def _price_curve(found: Mapping[str, Any]) -> PriceCurve:
    area, gain = (estimate(required(found, key)) for key in ("area", "area_gain"))
    return PriceCurve(tuple(map(_point, objects(found, "points"))), _rules_by_price(found, "prices"), area, gain)


def _rules_by_price(found: Mapping[str, Any], name: str) -> dict[float, str]:
    return {number(price, "price"): words(price, "rule") for price in objects(found, name)}


def _estimate(found: Mapping[str, Any], key: str) -> Estimate | None:
    inner = member(found, key)
    return estimate(inner) if inner else None


def _build(path: Path, build: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `build`. Raises UserError naming `path` where a field is missing or has the wrong shape."""
    try:
        return build(*args, **kwargs)
    except KeyError as error:
        raise UserError(f"{path}: the field {error} is missing; was it written by another version?") from error
    except ValueError as error:
        raise UserError(f"{path}: a field has the wrong shape ({error}); was it written by another version?") from error


def _read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`, an empty one where there is no such file."""
    return parse_object(path.read_bytes(), path, 1) if path.exists() else {}


def _shown(value: Any) -> int | str | None:
    """Return a fact for the page, whatever it is."""
    return value if value is None or isinstance(value, int) else f"{value!s:.60}"


@contextmanager
def _explain_read_errors(run_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot read {error.filename or run_dir} ({error.strerror or error}); mend it") from error
