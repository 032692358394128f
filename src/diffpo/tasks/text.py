"""Tasks put in words, from data sets: a prompt asks for reasoning and an answer, and a grader parses the answer.

A `TaskFamily` holds all in which GSM8K, MATH, Countdown and Sudoku differ. Loading rows, dividing them into splits and
writing prompts is the same for all of them, in training and in evaluation.
"""

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Literal, NamedTuple, get_args

from diffpo.core.conversation import Turn
from diffpo.core.errors import UserError
from diffpo.grading.answer import until_stop
from diffpo.tasks.base import Grade, Problem, Split
from diffpo.tasks.datasets import Row, read_rows, splits_of, version_stamp
from diffpo.tasks.splits import check_split, split_by_hash

Reward = Literal["correct", "d1"]
MAX_FEW_SHOT = 16
MAX_CHARACTERS = 1000
"""Kinds of characters in rows of the user's own that a tiny model has tokens for."""

_EXAMPLES_SEED = "few-shot"
_OTHER_SIGNS = (
    "\u2018\u2019\u201c\u201d\u2013\u2014\u2026\u00a0\u00a3\u20ac\u00a2\u00b0\u00d7\u00f7\u2212"
    "\u00bc\u00bd\u00be\u00e9\u00f1"
)

Grader = Callable[[Problem, str], Grade]
Division = Callable[[Sequence[str]], Mapping[str, Split]]
"""From the keys of all rows, in their order and with repeats, to the split of each key."""


class Sources(NamedTuple):
    """The data of train rows, and of those splits that have their own."""

    train: str | None
    validation: str | None
    test: str | None

    @property
    def stamps(self) -> tuple[str, ...]:
        """Texts that change when the files do."""
        return tuple(version_stamp(source) for source in self)


class NoRowsError(UserError):
    """A split for which a source has no rows left."""


@dataclass(frozen=True)
class Question:
    """A row of a data set, as its family parses it."""

    text: str
    answer: str
    """A completion that deserves the full reward, with its reasoning where the data have it; "" if none is known."""
    key: str
    """Questions with the same key are in the same split."""
    cluster: str
    """Questions with the same cluster are not independent of each other."""
    facts: Mapping[str, int | float | str]
    turns: tuple[Turn, ...] = ()
    """The conversation, where the question is one; `text` is then all of it."""


def divide_by_hash(keys: Sequence[str]) -> Mapping[str, Split]:
    """Divide keys by their SHA-256, so that a question stays in its split whatever else is in the data."""
    return {key: split_by_hash(ascii(key)) for key in set(keys)}


@dataclass(frozen=True)
class TaskFamily:
    """All that is special to one kind of task put in words."""

    name: str
    instructions: str
    parse_row: Callable[[Row], Question | None]
    """Returns None for a row that is not for this task."""
    grade: Grader
    """Grades correctness alone."""
    grade_d1: Grader
    """Grades by the reward of d1, in which form counts too."""
    source: str | None = None
    """Data set of the hub for train rows, and for all others that it has."""
    test_source: str | None = None
    """Data set of the hub for test rows; None: they come from `source`."""
    divide: Division = divide_by_hash
    splits: frozenset[Split] = frozenset(get_args(Split))
    """Splits that a source is asked for; others are made of its train rows, whatever else the source has."""
    test_sample: int | None = None
    """With more test rows than this, only the so many that d1 evaluates are used."""
    has_own_characters: bool = False
    """Whether a tiny model's characters are those of the data, and not those that the published data sets use."""


@dataclass(frozen=True)
class TextTask:
    """A family of tasks with its data, its prompt and its reward.

    `source`, `validation_source` and `test_source` name the data of train, validation and test rows, as `read_rows`
    takes them; without any, they are the family's. A split that has no source of its own, and that `source` lacks, is
    made of its train rows, by the family's division. Train and validation rows that share their key with a test row are
    left out, and train rows that do so with a row of a validation source. `few_shot` train rows with their answers go
    before each question, the same for all. `instructions` replace the family's.
    """

    family: TaskFamily
    source: str | None = None
    test_source: str | None = None
    few_shot: int = 0
    reward: Reward = "correct"
    completion_length: int = 256
    instructions: str | None = None
    validation_source: str | None = None

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
        """ASCII and the other signs that the published data sets use.

        It does not depend on the data: `isinstance(task, Task)` evaluates it, and must not read files.
        """
        return "".join(sorted({*string.printable, *_OTHER_SIGNS}))

    def problems(self, split: Split, count: int, seed: int) -> list[Problem]:
        """Return `count` problems of a split in random order; a smaller count gives the beginning of the same list.

        Train problems repeat once all have been given. The other splits end there, since to measure a row twice tells
        nothing new. Raises UserError where the data cannot be read, are not for this task, or lack a column.
        """
        check_split(self.name, split)
        questions = self.questions(split)
        rng = Random(f"{self.name}/{split}/{seed}")
        size = len(questions)
        drawn: list[int] = []
        while len(drawn) < count and not (drawn and split != "train"):
            drawn += _shuffled_indices(size, min(size, count - len(drawn)), rng)
        examples = self._examples()
        return [self._problem(questions[index], split, index, examples) for index in drawn]

    @property
    def sources(self) -> Sources:
        """The data of the splits."""
        if self.source is None:
            return Sources(self.family.source, self.validation_source, self.test_source or self.family.test_source)
        return Sources(self.source, self.validation_source, self.test_source)

    def questions(self, split: Split) -> tuple[Question, ...]:
        """Return all questions of a split, in the order of the data."""
        return _questions(self.family, self.sources, split, self.sources.stamps)

    def grade(self, problem: Problem, completion: str) -> Grade:
        """Grade by the chosen reward; never raises. `grader_failed`: the problem is not one of this task."""
        grader = self.family.grade if self.reward == "correct" else self.family.grade_d1
        return grader(problem, completion)

    @property
    def _instructions(self) -> str:
        return self.family.instructions if self.instructions is None else self.instructions

    def characters(self) -> str:
        """Return the characters that a tiny model has tokens for: of rows of the user's own, those in all splits.

        Raises UserError where the rows have too many kinds, or cannot be read.
        """
        if not self.family.has_own_characters:
            return self.alphabet
        around = "Question: \nAnswer:" if self.few_shot else ""
        around += f"{self._instructions}\n" if self._instructions else ""
        found = sorted(_characters(self.family, self.sources, self.sources.stamps).union(around))
        if len(found) > MAX_CHARACTERS:
            raise UserError(
                f"{self.name}: the data have {len(found)} kinds of characters, and a tiny model's tokenizer at most "
                f"{MAX_CHARACTERS}; clean the data, or start from a published model (base)"
            )
        return "".join(found)

    def _examples(self) -> list[Question]:
        """Return one example more than a prompt shows, since a train question must not be an example for itself."""
        if not self.few_shot:
            return []
        questions = [question for question in self.questions("train") if question.answer]
        if len(questions) <= self.few_shot:
            raise UserError(
                f"{self.name}: {len(questions)} train rows are too few to show {self.few_shot}; lower few_shot."
            )
        rng = Random(f"{self.name}/{_EXAMPLES_SEED}")
        return [questions[index] for index in _shuffled_indices(len(questions), self.few_shot + 1, rng)]

    def _problem(self, question: Question, split: Split, index: int, examples: Sequence[Question]) -> Problem:
        if question.turns and (self._instructions or examples):
            raise UserError(
                f"{self.name}: task.instructions and task.few_shot go before a text, and prompts are "
                "conversations here; leave them out, or put them into the system's turn"
            )
        chosen = [example for example in examples if example.key != question.key][: self.few_shot]
        parts = [self._instructions.strip()]
        parts += (f"Question: {example.text}\nAnswer:\n{example.answer}" for example in chosen)
        parts.append(f"Question: {question.text}\nAnswer:" if chosen else question.text)
        return Problem(
            id=f"{self.name}-{split}-{index}",
            prompt="\n\n".join(part for part in parts if part),
            answer=question.answer,
            cluster=question.cluster,
            facts=question.facts,
            turns=question.turns,
        )


def format_answer(reasoning: str, answer: str) -> str:
    """Return a completion in the form that the instructions ask for."""
    thought = f"<reasoning>\n{reasoning.strip()}\n</reasoning>\n" if reasoning.strip() else ""
    return f"{thought}<answer>\n{answer}\n</answer>"


def scalar_columns(row: Row) -> dict[str, int | float | str]:
    """Return the columns of a row that are numbers or texts, for rewards to use."""
    return {name: value for name, value in row.columns.items() if isinstance(value, int | float | str)}


def solved_grade(parts: Mapping[str, float]) -> Grade:
    """Return a grade whose reward is 1 for a right answer, else 0."""
    return Grade(parts["solved"], parts)


_TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")


def tag_share(completion: str) -> float:
    """Return the share of the four tags that occur exactly once; the first one may have been part of the prompt."""
    completion = until_stop(completion)
    present = [completion.count(tag) == 1 for tag in _TAGS[1:]]
    return (sum(present) + (completion.count(_TAGS[0]) <= 1 and present[0])) / len(_TAGS)


def is_well_formed(completion: str) -> bool:
    """Return whether the tags occur once each and in order, with nothing but white space after the last one."""
    completion = until_stop(completion)
    starts = [completion.find(tag) for tag in _TAGS[1:]]
    in_order = starts == sorted(starts) and min(starts) >= 0
    return in_order and tag_share(completion) == 1.0 and completion.rstrip().endswith(_TAGS[-1])


@lru_cache(maxsize=16)
def _questions(family: TaskFamily, sources: Sources, split: Split, stamps: tuple[str, ...]) -> tuple[Question, ...]:
    """Return all questions of a split. `stamps` change when the files do, so that the cache does not serve old rows."""
    source = sources.train
    if split == "validation" and sources.validation is not None:
        held_out = _keys(family, sources, "test", stamps)
        return tuple(q for q in _read_questions(family, sources.validation, split) if q.key not in held_out)
    if split == "test" and sources.test is not None:
        found = _read_questions(family, sources.test, "test")
        if family.test_sample is not None and len(found) > family.test_sample:
            found = [found[index] for index in d1_sample(len(found), family.test_sample)]
        return tuple(found)
    if source is None:
        tests = "" if family.has_own_characters else " and d1's test file as task.test_source"
        raise UserError(f"{family.name}: no data; give a file or a folder as task.source{tests}")
    own = splits_of(source) & family.splits
    if split in own and split != "train":
        return tuple(_read_questions(family, source, split))
    found = _read_questions(family, source, "train")
    division = family.divide([question.key for question in found])
    given = {"validation": sources.validation, "test": sources.test}
    made = {name for name, own_source in given.items() if own_source is None and name not in own}
    splits = {key: own_split if own_split in made else "train" for key, own_split in division.items()}
    found = [question for question in found if splits[question.key] == split]
    if "test" not in made:
        test_keys = _keys(family, sources, "test", stamps)
        found = [question for question in found if question.key not in test_keys]
    if sources.validation is not None and split == "train":
        held_out = frozenset(question.key for question in _read_questions(family, sources.validation, "validation"))
        found = [question for question in found if question.key not in held_out]
    if not found:
        raise NoRowsError(
            f"{family.name}: {source} has no rows for the {split} split; give more, or a folder with {split}.jsonl"
        )
    return tuple(found)


def _keys(family: TaskFamily, sources: Sources, split: Split, stamps: tuple[str, ...]) -> frozenset[str]:
    """Return the keys of a split; none where it has no rows."""
    if sources.train is None and getattr(sources, split) is None:
        return frozenset()
    try:
        return frozenset(question.key for question in _questions(family, sources, split, stamps))
    except NoRowsError:
        return frozenset()


@lru_cache(maxsize=4)
def _characters(family: TaskFamily, sources: Sources, stamps: tuple[str, ...]) -> frozenset[str]:
    """Return the characters of all splits that have rows."""
    found = set[str]()
    has_own = {"validation": sources.validation is not None, "test": sources.test is not None}
    splits: tuple[Split, ...] = get_args(Split)
    for split in splits:
        if sources.train is None and not has_own.get(split):
            continue
        try:
            questions = _questions(family, sources, split, stamps)
        except NoRowsError:
            continue
        found.update(*(question.text + question.answer for question in questions))
    return frozenset(found)


def _read_questions(family: TaskFamily, source: str, split: Split) -> list[Question]:
    rows = read_rows(source, split)
    found = [question for row in rows if (question := family.parse_row(row)) is not None]
    if not found:
        raise UserError(
            f"{family.name}: none of the {len(rows)} rows of {source} is for this task; give another source"
        )
    return found


def d1_sample(size: int, count: int) -> list[int]:
    """Return the indices of the test rows that d1 evaluates: numpy's legacy generator with seed 42, in its order."""
    import numpy as np

    chosen: list[int] = np.random.RandomState(42).choice(size, count, replace=False).tolist()
    return chosen


def _shuffled_indices(size: int, count: int, rng: Random) -> list[int]:
    """Return the first `count` numbers of a random order of `range(size)`, at a cost that depends on `count` alone.

    A smaller count gives the beginning of the same order.
    """
    moved: dict[int, int] = {}
    order = []
    for index in range(count):
        other = rng.randrange(index, size)
        order.append(moved.get(other, other))
        moved[other] = moved.get(index, index)
    return order
