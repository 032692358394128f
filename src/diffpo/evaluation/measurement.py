"""What an evaluation found, as Python has it: the record that `diffpo eval` writes, and its figures by their names."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from diffpo.evaluation.loop import Outcome
from diffpo.evaluation.playback import standing_outcome
from diffpo.evaluation.points import point_with_rows
from diffpo.evaluation.record import Evaluation, as_record, table
from diffpo.models.tokenizer import decode_text
from diffpo.sampling.policy import Policy

Interval = tuple[float, float]
"""A 95 % interval over problems; those of one cluster count as one (docs/decisions/0022)."""


@dataclass(frozen=True)
class Point:
    """One rule, or the learned sampler, on all problems."""

    rule: str
    """Its name: `entropy bound 0.1`, `learned`, ..."""
    kind: str
    bound: float | None
    """The entropy bound, where the rule is one."""
    accuracy: float
    """Share of the problems that were solved."""
    ci95: Interval
    nfe: float
    """Mean number of denoiser calls of a problem."""
    nfe_ci95: Interval
    n: int
    """Problems."""
    unparseable: int
    grader_failed: int
    solved: tuple[int, ...]
    """1 or 0 for each problem."""
    nfe_rows: tuple[int, ...]
    """Denoiser calls of each problem."""


@dataclass(frozen=True)
class Answered:
    """One problem, and how it was answered."""

    id: str
    prompt: str
    answer: str
    """That of the data; "" where there is none."""
    completion: str
    reward: float
    solved: bool
    nfe: int


@dataclass(frozen=True, repr=False)
class Measurement:
    """A model on a task. Its own figures are those of `main`, the rule that stands for the model.

    `str()` is the table that `diffpo eval` prints.
    """

    record: Mapping[str, Any]
    """What `diffpo eval` writes, which `diffpo report` reads."""
    main: Point
    """The rule whose figures a report prints first (`standing_outcome`): the learned sampler where there is one."""
    rows: tuple[Answered, ...]
    """Each problem under `main`."""

    @cached_property
    def points(self) -> tuple[Point, ...]:
        """Every rule."""
        return tuple(_point(point) for point in self.record["points"])

    @cached_property
    def learned(self) -> Point | None:
        """The learned sampler, where the model has one."""
        return _point(self.record["learned"]) if self.record["learned"] else None

    @property
    def accuracy(self) -> float:
        return self.main.accuracy

    @property
    def ci95(self) -> Interval:
        """95 % interval of the accuracy."""
        return self.main.ci95

    @property
    def nfe(self) -> float:
        """Mean number of denoiser calls."""
        return self.main.nfe

    @property
    def nfe_ci95(self) -> Interval:
        return self.main.nfe_ci95

    @property
    def n(self) -> int:
        """Problems that were measured."""
        return self.main.n

    def __str__(self) -> str:
        return table(dict(self.record))

    def __repr__(self) -> str:
        low, high = self.ci95
        return (
            f"<{self.record['arm']} on {self.record['task']}: accuracy {self.accuracy:.3f} [{low:.3f}, {high:.3f}], "
            f"NFE {self.nfe:.2f}, n {self.n}, by {self.main.rule}>"
        )


def measurement_of(evaluation: Evaluation, policy: Policy, about: Mapping[str, Any]) -> Measurement:
    """Return the record of an evaluation, with what it is `about` before it, and the rows of its main decoding."""
    record = {**about, **as_record(evaluation, policy)}
    test = evaluation.test
    outcome = standing_outcome(test, record["validation"], record["price_curve"])
    main = _point(point_with_rows(outcome, evaluation.rules.get(outcome.name), test.clusters))
    return Measurement(record, main, tuple(_answered(evaluation, outcome, policy)))


def _answered(evaluation: Evaluation, outcome: Outcome, policy: Policy) -> list[Answered]:
    completions = outcome.rollout.completion_ids.tolist()
    return [
        Answered(
            problem.id,
            problem.prompt,
            problem.answer,
            decode_text(policy.tokenizer, ids, policy.denoiser.stop_ids),
            grade.reward,
            grade.is_solved,
            int(nfe),
        )
        for problem, ids, grade, nfe in zip(
            evaluation.test.problems, completions, outcome.grades, outcome.nfe.tolist(), strict=True
        )
    ]


def _point(record: Mapping[str, Any]) -> Point:
    values: dict[str, Any] = {field.name: record[field.name] for field in fields(Point)}
    found: Any = {name: tuple(value) if isinstance(value, list | tuple) else value for name, value in values.items()}
    return Point(**found)
