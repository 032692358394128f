"""What a task is made of: problems, grades, and the protocol that joins them. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

Split = Literal["train", "validation", "test"]
Status = Literal["ok", "unparseable", "grader_failed"]


@dataclass(frozen=True)
class Problem:
    """One question. `prompt` is all that the user says, which a chat template makes its one message; `answer` is a text
    that earns the full reward, which SFT learns.

    `facts` are columns that travel beside it (number of clues, ...) to rewards and reports.

    `cluster` names what makes problems dependent (the solution grid of a Sudoku): intervals resample clusters.
    """

    id: str
    prompt: str
    answer: str
    cluster: str
    facts: Mapping[str, int | float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Grade:
    """What a completion earned. `unparseable` is the model's fault and pays 0; `grader_failed` is ours: reported."""

    reward: float
    parts: Mapping[str, float]
    status: Status = "ok"

    @property
    def is_solved(self) -> bool:
        return self.parts.get("solved", 0.0) == 1.0


@runtime_checkable
class Task(Protocol):
    """A source of problems and their grader. The same arguments give the same problems; splits share no solution."""

    @property
    def name(self) -> str: ...

    @property
    def alphabet(self) -> str:
        """Every character that a prompt or an answer can hold: the tiny model's character tokenizer is made of it."""
        ...

    @property
    def completion_length(self) -> int:
        """Tokens of the canvas that the sampler fills."""
        ...

    def problems(self, split: Split, count: int, seed: int) -> list[Problem]: ...

    def grade(self, problem: Problem, completion: str) -> Grade:
        """Never raises, whatever the completion."""
        ...
