"""Problems, grades, and the protocol of a task, which supplies the ones and gives the others. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from diffpo.core.conversation import Prompt, Turn
from diffpo.core.user_code import describe, line_of, traceback_of

Split = Literal["train", "validation", "test"]
Status = Literal["ok", "unparseable", "grader_failed"]


@dataclass(frozen=True)
class Problem:
    """One question with an answer."""

    id: str
    prompt: str
    """The user's message, which a chat template frames; of a conversation all of it, as text."""
    answer: str
    """A text that earns the full reward, and that SFT learns."""
    cluster: str
    """The name of what makes problems dependent (the solution grid of a Sudoku): intervals speak of other clusters."""
    facts: Mapping[str, int | float | str] = field(default_factory=dict)
    """Further values by name (the number of clues, ...), for rewards and reports."""
    turns: tuple[Turn, ...] = ()
    """The conversation that a chat template frames, where the prompt is one."""

    @property
    def conversation(self) -> Prompt:
        """What a model is given: the conversation, or the prompt."""
        return self.turns or self.prompt


@dataclass(frozen=True)
class Grade:
    """The reward of a completion, and how it came about."""

    reward: float
    parts: Mapping[str, float]
    """What was looked at, by name; `solved` is 1 where the completion is right."""
    status: Status = "ok"
    """`unparseable` is the model's fault, and its reward is 0; `grader_failed` is the grader's, and is reported."""
    failure: str = ""
    """Where the grader failed, why: told once in a run."""

    @property
    def is_solved(self) -> bool:
        """Whether the completion is right."""
        return self.parts.get("solved", 0.0) == 1.0


@runtime_checkable
class Task(Protocol):
    """A source of problems and their grader."""

    @property
    def name(self) -> str:
        """The task's name in reports and in the ids of problems."""
        ...

    @property
    def alphabet(self) -> str:
        """Every character that a prompt or an answer can contain, for the character tokenizer of a tiny model."""
        ...

    @property
    def completion_length(self) -> int:
        """Number of tokens of a completion."""
        ...

    def problems(self, split: Split, count: int, seed: int) -> list[Problem]:
        """Return `count` problems; the same ones for the same arguments, and none of a split that shares its solution
        with one of another split."""
        ...

    def grade(self, problem: Problem, completion: str) -> Grade:
        """Grade a completion. It must not raise, whatever the completion."""
        ...


@dataclass(frozen=True)
class Drawn:
    """How a completion was drawn, for rewards that ask for it. Axis L: its tokens, the first stop token included."""

    completion_ids: tuple[int, ...]
    unmask_step: tuple[int, ...]
    """0-based index of the denoiser call that fixed the token."""
    nfe: int
    """Denoiser calls of the whole completion."""

    @staticmethod
    def of_text(text: str) -> "Drawn":
        """Return a stand-in for a text that no model drew: its bytes as ids, one a call."""
        ids = tuple(text.encode(errors="replace"))
        return Drawn(ids, tuple(range(len(ids))), max(1, len(ids)))


@runtime_checkable
class BatchGrader(Protocol):
    """A task that grades many completions at once, as rewards that ask a model or a service do."""

    def grade_all(
        self, problems: Sequence[Problem], completions: Sequence[str], drawn: Sequence[Drawn] | None = None
    ) -> list[Grade]:
        """Return the grade of each completion of the problem at its place, which was `drawn` so. It must not raise."""
        ...


@runtime_checkable
class HasCharacters(Protocol):
    """A task whose characters are those of its data, which must be read for them."""

    def characters(self) -> str:
        """Return every character that a prompt or an answer can contain."""
        ...


def characters_of(task: Task) -> str:
    """Return the characters of a tiny model's tokenizer: those of the task's data, or else its alphabet.

    Raises UserError where data must be read and cannot be.
    """
    return task.characters() if isinstance(task, HasCharacters) else task.alphabet


def failure_on(what: str, error: BaseException, problem: Problem, completion: str) -> str:
    """Return a grade's `failure` where the user's code raised: which code, its line, the row, the completion.

    The traceback is on the lines after the first.
    """
    return f"{what} raises {describe(error)} {place_of(problem, completion)}{line_of(error)}\n{traceback_of(error)}"


def place_of(problem: Problem, completion: str) -> str:
    """Return where a grader failed, as a grade's `failure` says it."""
    return f"on problem {problem.id!r}, completion {completion[:200]!r}"


def grade_all(
    task: Task, problems: Sequence[Problem], completions: Sequence[str], drawn: Sequence[Drawn] | None = None
) -> list[Grade]:
    """Return the grade of each completion: at once where the task can, otherwise one by one."""
    if isinstance(task, BatchGrader):
        return task.grade_all(problems, completions, drawn)
    return [task.grade(problem, completion) for problem, completion in zip(problems, completions, strict=True)]


@dataclass(frozen=True)
class TaskWrapper:
    """What a task around another one passes on: name, alphabet, characters, length. Problems and grades are its own."""

    task: Task

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def alphabet(self) -> str:
        return self.task.alphabet

    @property
    def completion_length(self) -> int:
        return self.task.completion_length

    def characters(self) -> str:
        return characters_of(self.task)
