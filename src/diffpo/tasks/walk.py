"""Labelled walks: a table to learn by heart, and many right answers to every prompt.

A hidden table gives every node, for every label, the nodes that may follow. A prompt names a start and the labels of
the steps, and any legal walk is right. Which steps are legal depends on the step before, so that a sampler that commits
several nodes in one call makes mistakes, and a likelihood that scores them independently is wrong.
"""

from dataclasses import dataclass
from functools import cache
from random import Random

from diffpo.core.errors import UserError
from diffpo.tasks.base import Grade, Problem, Split
from diffpo.tasks.splits import check_split, draw_distinct, split_by_hash

NODES = "abcdefghijklmnop"
LABELS = "0123"

SUCCESSORS = (1, 8)  # fewest and most; it takes ever longer to draw more permutations of which no two agree
LENGTHS = (4, 32)  # below 4 steps there are too few prompts to split

Table = dict[tuple[str, str], str]
"""From (node, label) to the nodes that may follow, as a text."""


@cache
def table(successors: int) -> Table:
    """Return the hidden table, which is always the same.

    For each label it has `successors` random permutations of the nodes, of which no two agree anywhere. Permutations
    never merge walks, so that the nodes far along a walk are as undecided as the first ones. The table for fewer
    successors is part of that for more.
    """
    columns = {label: _permutations(successors, Random(f"walk/table/{label}")) for label in LABELS}
    return {
        (node, label): "".join(permutation[index] for permutation in columns[label])
        for index, node in enumerate(NODES)
        for label in LABELS
    }


def _permutations(count: int, rng: Random) -> list[str]:
    found: list[str] = []
    while len(found) < count:
        candidate = "".join(rng.sample(NODES, len(NODES)))
        if all(mine != theirs for other in found for mine, theirs in zip(candidate, other, strict=True)):
            found.append(candidate)
    return found


def split_of(prompt: str) -> Split:
    """Return the split of a prompt, which depends on no seed."""
    return split_by_hash(prompt)


@dataclass(frozen=True)
class Walk:
    """The task of walking `length` labelled steps with `successors` legal nodes each, in `successors ** length` ways.

    The prompt is the start node, the labels and "="; the completion is the nodes that follow. A walk with illegal steps
    earns `step_credit` times its share of legal ones. Raises UserError for values out of range.
    """

    successors: int = 2
    length: int = 8
    step_credit: float = 0.0

    def __post_init__(self) -> None:
        for field, value, (low, high) in (
            ("successors", self.successors, SUCCESSORS),
            ("length", self.length, LENGTHS),
            ("step_credit", self.step_credit, (0, 1)),
        ):
            if not low <= value <= high:
                raise UserError(f"walk: {field} is {value}; give a number from {low} to {high}.")

    @property
    def name(self) -> str:
        return f"walk{self.successors}x{self.length}"

    @property
    def alphabet(self) -> str:
        return NODES + LABELS + "="

    @property
    def completion_length(self) -> int:
        return self.length

    def problems(self, split: Split, count: int, seed: int) -> list[Problem]:
        """Return `count` uniformly drawn prompts of a split, distinct while there are enough, each with a right answer.

        The answer is drawn uniformly among all right ones, and another seed may draw another one for the same prompt.
        A smaller count gives the beginning of the same list.
        """
        check_split(self.name, split)
        rng = Random(f"{self.name}/{split}/{seed}")
        return draw_distinct(lambda: self._draw(split, rng), count)

    def _draw(self, split: Split, rng: Random) -> Problem:
        while True:
            prompt = rng.choice(NODES) + "".join(rng.choices(LABELS, k=self.length)) + "="
            if split_of(prompt) == split:
                break
        nodes = prompt[0]
        for label in prompt[1:-1]:
            nodes += rng.choice(table(self.successors)[nodes[-1], label])
        return Problem(id=f"{self.name}-{split}-{prompt}", prompt=prompt, answer=nodes[1:], cluster=prompt)

    def grade(self, problem: Problem, completion: str) -> Grade:
        """Solved means that every step is legal, also if the walk is not the listed answer: reward 1.

        Otherwise a walk earns `step_credit * steps`. Parts: `solved`, 0 or 1, and `steps`, the share of steps that are
        legal after the node before them, however the walk came there. Status `unparseable`: not exactly `length` nodes;
        `grader_failed`: the problem's prompt is not one of this task. Never raises.
        """
        start, labels = problem.prompt[:1], problem.prompt[1:-1]
        is_prompt = problem.prompt.endswith("=") and len(labels) == self.length and set(labels) <= set(LABELS)
        if not (is_prompt and start in NODES):
            return Grade(0.0, {"solved": 0.0, "steps": 0.0}, "grader_failed")
        if len(completion) != self.length or not set(completion) <= set(NODES):
            return Grade(0.0, {"solved": 0.0, "steps": 0.0}, "unparseable")
        legal = table(self.successors)
        walk = start + completion
        steps = sum(
            there in legal[here, label] for here, label, there in zip(walk, labels, completion, strict=False)
        ) / len(labels)
        return Grade(1.0 if steps == 1 else self.step_credit * steps, {"solved": float(steps == 1), "steps": steps})
