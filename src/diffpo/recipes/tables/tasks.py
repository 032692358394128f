"""The `task` table: where problems come from, and what an answer earns."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, PrivateAttr, SerializeAsAny

from diffpo.core.python_function import is_python_name
from diffpo.core.suggestion import suggestion
from diffpo.core.user_code import is_user_code
from diffpo.recipes.custom import Contract, CustomPart, attribute_or_none
from diffpo.recipes.strict import Strict
from diffpo.recipes.tables.fields import Count, Location, Share
from diffpo.tasks import countdown, text, walk
from diffpo.tasks.answer_grader import GraderName
from diffpo.tasks.row_template import RowTemplate

Rewards = str | dict[str, float]
"""The name of a reward, or several with their weights."""


def _check(rewards: Rewards, known: tuple[str, ...]) -> Rewards:
    """Raise ValueError for names that are neither known nor of user code, and for weights that are no weights."""
    names = rewards if isinstance(rewards, dict) else {rewards: 1.0}
    for name, weight in names.items():
        if name not in known and not is_own_reward(name):
            own = "a function of your own, FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION"
            told = f"{' or '.join(map(repr, known))}, or {own}" if known else own
            raise ValueError(f"should be {told}, got {name!r}{suggestion(name, known)}")
        if not 0 < abs(weight) <= MAX_WEIGHT:
            raise ValueError(
                f"gives {name} the weight {weight:g}; give one from {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}, not 0"
            )
    if not names or sum(name in known for name in names) > 1:
        raise ValueError("should name a reward, and of the task's own at most one")
    return rewards


def _own_rewards(rewards: Rewards) -> Rewards:
    return _check(rewards, ())


def _correct_or_own(rewards: Rewards) -> Rewards:
    return _check(rewards, ("correct",))


def _text_rewards(rewards: Rewards) -> Rewards:
    return _check(rewards, get_args(text.Reward))


MAX_WEIGHT = 1e6
REWARD_SECONDS = 300.0
RewardSeconds = Annotated[float, Field(gt=0, le=86_400)]


def is_own_reward(name: str) -> bool:
    """Return whether a reward's name is that of a function of the user's own, in a file or handed over in Python."""
    return is_user_code(name) or is_python_name(name)


class RewardSettings(Strict):
    """What tables share whose reward may be functions of the user's own."""

    _functions: Mapping[str, Callable[..., Any]] = PrivateAttr(default_factory=dict)
    """Functions that were handed over in Python, by the names that `reward` gives them. No file holds them."""

    def with_functions(self, functions: Mapping[str, Callable[..., Any]]) -> "RewardSettings":
        """Return the same table, in which the names of its reward stand for these functions."""
        table = self.model_copy()
        table._functions = dict(functions)
        return table

    @property
    def functions(self) -> Mapping[str, Callable[..., Any]]:
        return self._functions


class GameSettings(RewardSettings):
    """Options that the tasks in characters share."""

    reward: Annotated[Rewards, AfterValidator(_own_rewards)] | None = None
    """A function of your own, file.py:function or package.module:function, or several with their weights,
    { "a.py:right" = 1.0, "a.py:short" = 0.2 }; not set: the task's own reward."""
    reward_seconds: RewardSeconds = REWARD_SECONDS
    """How long a function of your own may take for a batch."""


class SudokuTask(GameSettings):
    """Sudoku puzzles, made up. The one task whose kind may be left out."""

    kind: Literal["sudoku"] = "sudoku"
    size: Literal[4, 6] = 4
    """Cells of a side."""
    min_clues: Count | None = None
    """The fewest clues of a puzzle. Not set: the size's own."""
    max_clues: Count | None = None
    """The most clues of a puzzle. Not set: the size's own."""
    cell_credit: Share = 0.0
    """What a wrong grid that keeps its clues earns, times its share of right cells."""

    @property
    def completion_length(self) -> int:
        return self.size * self.size

    def problems(self) -> Iterable[str]:
        if self.min_clues is not None and self.max_clues is not None and self.min_clues > self.max_clues:
            yield f"min_clues {self.min_clues} is above max_clues {self.max_clues}; swap them"
        for name, clues in (("min_clues", self.min_clues), ("max_clues", self.max_clues)):
            if clues is not None and clues >= self.completion_length:
                yield f"{name} {clues} leaves no empty cell of {self.completion_length}; lower it"


class CountdownTask(GameSettings):
    """Countdown, made up: an expression of given numbers that is worth a target."""

    kind: Literal["countdown"]
    max_number: Annotated[int, Field(ge=countdown.NUMBERS[0], le=countdown.NUMBERS[1])] = 9
    """The largest number given."""
    max_target: Annotated[int, Field(ge=countdown.TARGETS[0], le=countdown.TARGETS[1])] = 99
    """The largest target."""
    operators: countdown.Operators = "+-*/"
    """Operators of the answers to learn from; with them every target can be reached."""
    number_credit: Share = 0.0
    """What an expression of the right numbers earns that is not worth the target."""

    @property
    def completion_length(self) -> int:
        return countdown.longest_answer(self.max_number)


class WalkTask(GameSettings):
    """A labelled walk, made up: each step has few legal successors, which depend on the one before."""

    kind: Literal["walk"]
    successors: Annotated[int, Field(ge=walk.SUCCESSORS[0], le=walk.SUCCESSORS[1])] = 2
    """Legal nodes for each step."""
    length: Annotated[int, Field(ge=walk.LENGTHS[0], le=walk.LENGTHS[1])] = 8
    """Steps of a walk."""
    step_credit: Share = 0.0
    """What a walk that is not legal throughout earns, times its share of legal steps."""

    @property
    def completion_length(self) -> int:
        return self.length


class SourceSettings(Strict):
    """Options that the tasks put in words share."""

    source: Location | None = None
    """A file, a folder with train and test files, or owner/name[@revision][:configuration] of the hub; not set: the
    published one."""
    completion_length: Count = 256
    """Tokens of a completion."""
    max_prompt_tokens: Count | None = None
    """Longer prompts, chat template included, are left out. Not set: the model's positions less the completion."""
    instructions: str | None = None
    """The text before each question; not set: the task's own."""


class TextSettings(SourceSettings, RewardSettings):
    """Options of the tasks put in words whose answers can be graded."""

    validation_source: Location | None = None
    """The same for validation rows; not set: those of `source`, or a share of its train rows."""
    test_source: Location | None = None
    """As `source`, for test rows; not set: those of `source`, or the published ones where that is not set either."""
    few_shot: Annotated[int, Field(ge=0, le=text.MAX_FEW_SHOT)] = 0
    """Train rows that are shown before each question."""
    reward: Annotated[Rewards, AfterValidator(_text_rewards)] = "correct"
    """correct: 1 or 0; d1: d1's recipe with its flaws mended; or file.py:function, package.module:function; or several
    of these with their weights, { correct = 1.0, "a.py:short" = 0.2 }."""
    reward_seconds: RewardSeconds = REWARD_SECONDS
    """How long a function of your own may take for a batch."""


class Gsm8kTask(TextSettings):
    """GSM8K: grade-school mathematics in words."""

    kind: Literal["gsm8k"]


class Math500Task(TextSettings):
    """MATH, tested on MATH-500: competition mathematics in LaTeX."""

    kind: Literal["math500"]


class CountdownD1Task(TextSettings):
    """Countdown in words, as d1 has it."""

    kind: Literal["countdown-d1"]


class SudokuD1Task(TextSettings):
    """d1's split, by puzzle."""

    kind: Literal["sudoku-d1"]


class SudokuSpgTask(TextSettings):
    """SPG's split, by solution grid."""

    kind: Literal["sudoku-spg"]


class TextTaskRecipe(TextSettings):
    """Rows of your own: prompts and answers by the names of their columns."""

    kind: Literal["text"]
    prompt: str = "prompt"
    """The column of the prompts."""
    answer: str = "answer"
    """The column of the answers, by which a grader grades and which SFT learns."""
    template: str | None = None
    """The prompt as a text of several columns, "{question}\\nAnswer:"; not set: what stands in `prompt`."""
    answer_template: str | None = None
    """The answer as a text of several columns; not set: what stands in `answer`."""
    grader: GraderName = "exact"
    """How an answer is compared with that of its row: exact, number, math, regex; none: it is not."""
    pattern: str | None = None
    """With grader = "regex": the answer is its last match in a completion, or the first group of that."""
    reward: Annotated[Rewards, AfterValidator(_correct_or_own)] = "correct"
    """What a completion earns: correct, 1 where the grader says so and otherwise 0; or functions of your own, as in the
    other kinds."""
    solved_at: float = 1.0
    """With grader = "none": a completion counts as solved where its reward is at least this."""
    test_share: Share = 0.1
    """Share of the rows that are for the test, of a source that has no test rows of its own."""
    validation_share: Share = 0.05
    """Share of the rows that are for validation."""

    def unused_columns(self) -> Iterable[tuple[str, str]]:
        """Yield the name of each column that is set and not read, and of the template that stands in its place."""
        for column, template in (("prompt", "template"), ("answer", "answer_template")):
            if getattr(self, template) is not None and getattr(self, column) != column:
                yield column, template

    def problems(self) -> Iterable[str]:
        for name in ("template", "answer_template"):
            if (written := getattr(self, name)) is not None:
                yield from (f"{name}: {told}" for told in RowTemplate(written, name).problems())
        if self.pattern is not None and self.grader == "regex":
            try:
                re.compile(self.pattern)
            except re.error as error:
                yield f"pattern is no regular expression: {error}"
        if (self.pattern is not None) != (self.grader == "regex"):
            yield "pattern and grader = 'regex' go together; give both or neither"
        if self.grader != "none" and self.solved_at != 1.0:
            yield "solved_at counts with grader = 'none' alone: what is right the grader decides; leave it out"
        if self.grader == "none" and isinstance(self.reward, dict) and "correct" in self.reward:
            yield "reward names 'correct', which needs a grader; choose one, or leave it out"
        if self.test_share + self.validation_share >= 1:
            yield "test_share and validation_share leave no train rows; lower them"


class S1kTask(SourceSettings):
    """Reasoning traces to learn from; nothing of it can be graded."""

    kind: Literal["s1k"]


class CustomTask(CustomPart):
    """A class of your own."""

    _contract = Contract(
        "task",
        {"problems": ("split", "count", "seed"), "grade": ("problem", "completion")},
        {"name": str, "alphabet": str, "completion_length": Count},
    )

    @property
    def completion_length(self) -> int:
        length = attribute_or_none(self, "completion_length")
        if not isinstance(length, int):
            raise AttributeError(f"{self.kind} has no completion_length")  # noqa: TRY004  checks that need it are left out
        return length


TaskRecipe = (
    SudokuTask
    | CountdownTask
    | WalkTask
    | Gsm8kTask
    | Math500Task
    | CountdownD1Task
    | SudokuD1Task
    | SudokuSpgTask
    | TextTaskRecipe
    | S1kTask
    | SerializeAsAny[CustomTask]
)


def grading_problems(name: str, task: TaskRecipe) -> Iterable[str]:
    """Yield what is wrong if `name`, which needs grades, is done on this task."""
    if isinstance(task, S1kTask):
        yield (
            f"task.kind 's1k' has answers to learn from and none that can be graded, which {name} needs; "
            "choose another task"
        )
    elif isinstance(task, TextTaskRecipe) and task.grader == "none" and task.reward == "correct":
        yield (
            f"task.grader is 'none' and task.reward names no function of your own, so that nothing is known of an "
            f"answer, which {name} needs; give one of them"
        )


def is_graded(task: TaskRecipe) -> bool:
    """Return whether completions of this task can be graded."""
    return not any(grading_problems("grading", task))
