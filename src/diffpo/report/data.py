"""What is known of models that are reported, as frozen records. What is not there is None or empty."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Shaped

from diffpo.statistics.comparison import FrontierDifference
from diffpo.statistics.constant import ConstantGain
from diffpo.statistics.gain import Gain
from diffpo.statistics.intervals import Estimate, Interval


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
    nfe_ci95: Interval | None = None


@dataclass(frozen=True)
class Rows:
    """The rules that an arm is compared by, problem by problem, for each of s seeds."""

    clusters: tuple[str, ...]
    solved: Shaped[np.ndarray, "n s k"]
    """1 or 0."""
    nfe: Shaped[np.ndarray, "n s k"]
    """Denoiser calls."""


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
    """A model, or one way to train with a model for each of several seeds, and all that is known of it."""

    name: str
    """As readers see it; no other arm of the report has it."""
    points: tuple[FrontierPoint, ...] = ()
    learned: LearnedSampler | None = None
    area: Estimate | None = None
    aup: Estimate | None = None
    aup_best: float | None = None
    """The best accuracy of all arms that AUP is relative to; None where it is as the record has it."""
    gain: Gain | None = None
    validated_gain: ValidatedGain | None = None
    price_curve: PriceCurve | None = None
    best_constants: Mapping[float, str] = field(default_factory=dict)
    """By price of a call, the fixed rule that validation problems chose."""
    clues: tuple[int, ...] = ()
    playback: tuple[PlaybackCompletion, ...] = ()
    metrics: tuple[Mapping[str, float], ...] = field(default=(), repr=False)
    train_denoiser_calls: int | None = None
    seeds: tuple[int, ...] = ()
    """Of training, as far as they are known."""
    place: int = 0
    """In the palette, counted from 0."""
    task: str | None = None
    split: str | None = None
    problem_seed: int | str | None = None
    """Of the evaluation, by which its problems were drawn."""
    completion_length: int | None = None
    rows: Rows | None = field(default=None, repr=False, compare=False)
    """None where the rows behind the figures were not recorded."""

    @property
    def num_problems(self) -> int:
        """How many problems it was evaluated on, at most."""
        learned = (self.learned.point,) if self.learned else ()
        curve = self.price_curve.points if self.price_curve else ()
        return max((point.n for point in (*self.points, *learned, *curve)), default=0)

    @property
    def main_kind(self) -> str:
        """The kind of rule that the arm's line joins: entropy bounds where there are any, else that of the first."""
        kinds = [point.kind for point in self.points]
        return next((kind for kind in kinds if kind.replace("-", " ").startswith("entropy bound")), (*kinds, "")[0])

    @property
    def is_evaluated(self) -> bool:
        return bool(self.points or self.learned or self.price_curve)


@dataclass(frozen=True)
class ReportedRun:
    """The arms of one report, all of one task."""

    name: str
    arms: tuple[Arm, ...]
    task: str | None = None
    split: str | None = None
    seed: int | str | None = None
    wall_s: float | None = None
    completion_length: int | str | None = None
    main: str | None = None
    """The arm whose frontier is compared with the others, and which the page is about."""
    compared: Mapping[str, FrontierDifference] = field(default_factory=dict)
    """By arm, how far the frontier of `main` is above that of the arm."""
    notes: tuple[str, ...] = ()
    """Sentences that a reader must know before comparing: what is missing, and what cannot be compared."""


def placed(arms: Mapping[str, Arm]) -> tuple[Arm, ...]:
    """Return arms under their names, with places in the palette in their order."""
    return tuple(replace(arm, name=name, place=place) for place, (name, arm) in enumerate(arms.items()))
