"""Tasks put in words, from data sets: a prompt asks for reasoning and an answer, a grader reads the answer.

What GSM8K, MATH, Countdown and Sudoku differ in is a `Family`; where rows come from, how they are divided and what is
asked is the same for all of them, in training and in evaluation.
"""

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Literal, get_args

from diffpo.core.errors import UserError
from diffpo.grading.answer import until_stop
from diffpo.tasks.base import Grade, Problem, Split
from diffpo.tasks.datasets import Row, read_rows, splits_of, stamp
from diffpo.tasks.splits import check_split, split_by_hash

Reward = Literal["correct", "d1"]
MAX_FEW_SHOT = 16

_EXAMPLES_SEED = "few-shot"
_OTHER_SIGNS = (
    "\u2018\u2019\u201c\u201d\u2013\u2014\u2026\u00a0\u00a3\u20ac\u00a2\u00b0\u00d7\u00f7\u2212"
    "\u00bc\u00bd\u00be\u00e9\u00f1"
)

Grader = Callable[[Problem, str], Grade]
Division = Callable[[Sequence[str]], Mapping[str, Split]]
"""The keys of all rows, as often and in the order that they come -> the split of each."""


@dataclass(frozen=True)
class Question:
    """A row as its family reads it.

    `answer` is a completion that deserves the full reward, reasoning included where the data have it. Questions with
    one `key` are never in two splits; those with one `cluster` are not independent of each other.
    """

    text: str
    answer: str
    key: str
    cluster: str
    facts: Mapping[str, int | float | str]


def divide_by_hash(keys: Sequence[str]) -> Mapping[str, Split]:
    """Each key by its SHA-256, so that a question stays in its split whatever else is in the data."""
    return {key: split_by_hash(ascii(key)) for key in set(keys)}


@dataclass(frozen=True)
class Family:
    """What a task put in words is made of. `read` gives None for a row that is not for this task.

    `splits`: those that a source is asked for; any other is made of its train rows, whatever else the source has.
    `source`, `test_source`: data sets of the hub for train and test; no `test_source`: the source's own test split.
    `test_sample`: of more test rows, the so many that d1 evaluates.
    """

    name: str
    instructions: str
    read: Callable[[Row], Question | None]
    correct: Grader
    d1: Grader
    source: str | None = None
    test_source: str | None = None
    divide: Division = divide_by_hash
    splits: frozenset[Split] = frozenset(get_args(Split))
    test_sample: int | None = None


@dataclass(frozen=True)
class TextTask:
    """A family with its data, its prompt and its reward.

    `source`: where train rows come from, `test_source`: where test rows do, as `data.read_rows` takes them; the
    family's data sets where neither is given. A source that lacks a split has it made of its own rows, by the family's
    division. Train and validation rows that share their key with a test row are left out. `few_shot` train rows go
    before each question, the same for all. `instructions` replaces the family's.
    """

    family: Family
    source: str | None = None
    test_source: str | None = None
    few_shot: int = 0
    reward: Reward = "correct"
    completion_length: int = 256
    instructions: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.few_shot <= MAX_FEW_SHOT:
            raise UserError(f"{self.name}: few_shot is {self.few_shot}; give a number from 0 to {MAX_FEW_SHOT}.")
        if self.completion_length < 1:
            raise UserError(f"{self.name}: completion_length is {self.completion_length}; give at least 1.")
        if self.reward not in get_args(Reward):
            raise UserError(f"{self.name}: reward is {self.reward!r}; give one of {', '.join(get_args(Reward))}.")

    @property
    def name(self) -> str:
        return self.family.name

    @property
    def alphabet(self) -> str:
        """ASCII and the signs that these data sets use besides; a tiny model's tokenizer names any other that it meets.

        It does not depend on the data: `isinstance(task, Task)` looks at it, and must not read files.
        """
        return "".join(sorted({*string.printable, *_OTHER_SIGNS}))

    def problems(self, split: Split, count: int, seed: int) -> list[Problem]:
        """`count` questions of a split in random order; fewer are the beginning of the same list.

        Train questions repeat once all have been given. The other splits end there: measuring a row twice says
        nothing more. Raises UserError where the data cannot be read, are not this task's, or lack a column.
        """
        check_split(self.name, split)
        questions = self.questions(split)
        rng = Random(f"{self.name}/{split}/{seed}")
        size = len(questions)
        drawn: list[int] = []
        while len(drawn) < count and not (drawn and split != "train"):
            drawn += _shuffled(size, min(size, count - len(drawn)), rng)
        examples = self._examples()
        return [self._problem(questions[index], split, index, examples) for index in drawn]

    @property
    def sources(self) -> tuple[str | None, str | None]:
        """Where train rows come from, and where test rows do if elsewhere."""
        if self.source is None:
            return self.family.source, self.test_source or self.family.test_source
        return self.source, self.test_source

    def questions(self, split: Split) -> tuple[Question, ...]:
        """All questions of a split, in the order of the data."""
        source, test_source = self.sources
        return _questions(self.family, source, test_source, split, (stamp(source), stamp(test_source)))

    def grade(self, problem: Problem, completion: str) -> Grade:
        """By the chosen reward; never raises. Status `grader_failed`: the problem is none of this task."""
        grader = self.family.correct if self.reward == "correct" else self.family.d1
        return grader(problem, completion)

    @property
    def _instructions(self) -> str:
        return self.family.instructions if self.instructions is None else self.instructions

    def _examples(self) -> list[Question]:
        """One more than are shown: a train question is no example for itself."""
        if not self.few_shot:
            return []
        questions = [question for question in self.questions("train") if question.answer]
        if len(questions) <= self.few_shot:
            raise UserError(
                f"{self.name}: {len(questions)} train rows are too few to show {self.few_shot}; lower few_shot."
            )
        rng = Random(f"{self.name}/{_EXAMPLES_SEED}")
        return [questions[index] for index in _shuffled(len(questions), self.few_shot + 1, rng)]

    def _problem(self, question: Question, split: Split, index: int, examples: Sequence[Question]) -> Problem:
        shown = [example for example in examples if example.key != question.key][: self.few_shot]
        parts = [self._instructions.strip()]
        parts += (f"Question: {example.text}\nAnswer:\n{example.answer}" for example in shown)
        parts.append(f"Question: {question.text}\nAnswer:" if shown else question.text)
        return Problem(
            id=f"{self.name}-{split}-{index}",
            prompt="\n\n".join(part for part in parts if part),
            answer=question.answer,
            cluster=question.cluster,
            facts=question.facts,
        )


def worked_answer(reasoning: str, answer: str) -> str:
    """A completion as the instructions ask for."""
    thought = f"<reasoning>\n{reasoning.strip()}\n</reasoning>\n" if reasoning.strip() else ""
    return f"{thought}<answer>\n{answer}\n</answer>"


def plain_facts(row: Row) -> dict[str, int | float | str]:
    """The columns of a row that a reward may ask for: numbers and texts."""
    return {name: value for name, value in row.columns.items() if isinstance(value, int | float | str)}


def solved_grade(parts: Mapping[str, float], reward: float | None = None) -> Grade:
    """`reward` is by default that of correctness."""
    return Grade(parts["solved"] if reward is None else reward, parts)


_TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")


def tag_share(completion: str) -> float:
    """The share of the four tags that are there exactly once; the opening one may have been part of the prompt."""
    completion = until_stop(completion)
    present = [completion.count(tag) == 1 for tag in _TAGS[1:]]
    return (sum(present) + (completion.count(_TAGS[0]) <= 1 and present[0])) / len(_TAGS)


def is_well_formed(completion: str) -> bool:
    """Reasoning, then an answer, each tag once and in order, and nothing after it but white space."""
    completion = until_stop(completion)
    places = [completion.find(tag) for tag in _TAGS[1:]]
    in_order = places == sorted(places) and min(places) >= 0
    return in_order and tag_share(completion) == 1.0 and completion.rstrip().endswith(_TAGS[-1])


@lru_cache(maxsize=16)
def _questions(
    family: Family, source: str | None, test_source: str | None, split: Split, stamps: tuple[str, str]
) -> tuple[Question, ...]:
    """`stamps` change when the files do."""
    if split == "test" and test_source is not None:
        found = _read(family, test_source, "test")
        if family.test_sample is not None and len(found) > family.test_sample:
            found = [found[index] for index in d1_sample(len(found), family.test_sample)]
        return tuple(found)
    if source is None:
        raise UserError(
            f"{family.name}: no data; give a file or a folder as task.source and d1's test file as task.test_source"
        )
    own = splits_of(source) & family.splits
    if split in own and split != "train":
        return tuple(_read(family, source, split))
    found = _read(family, source, "train")
    division = family.divide([question.key for question in found])
    made = {"validation", "test"} - own - ({"test"} if test_source is not None else set())
    places = {key: place if place in made else "train" for key, place in division.items()}
    found = [question for question in found if places[question.key] == split]
    if "test" not in made:
        unseen = {question.key for question in _questions(family, source, test_source, "test", stamps)}
        found = [question for question in found if question.key not in unseen]
    if not found:
        raise UserError(
            f"{family.name}: {source} has no rows for the {split} split; give more, or a folder with {split}.jsonl"
        )
    return tuple(found)


def _read(family: Family, source: str, split: Split) -> list[Question]:
    rows = read_rows(source, split)
    found = [question for row in rows if (question := family.read(row)) is not None]
    if not found:
        raise UserError(
            f"{family.name}: none of the {len(rows)} rows of {source} is for this task; give another source"
        )
    return found


def d1_sample(size: int, count: int) -> list[int]:
    """Which rows of a test file d1 evaluates: numpy's legacy generator with seed 42, in its order."""
    import numpy as np

    chosen: list[int] = np.random.RandomState(42).choice(size, count, replace=False).tolist()
    return chosen


def _shuffled(size: int, count: int, rng: Random) -> list[int]:
    """The first `count` of a random order of `range(size)`; the cost is in `count`, and fewer are its beginning."""
    moved: dict[int, int] = {}
    order = []
    for place in range(count):
        other = rng.randrange(place, size)
        order.append(moved.get(other, other))
        moved[other] = moved.get(place, place)
    return order
