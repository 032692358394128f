"""Labelled walks: a table to learn by heart, and many right answers to every prompt.

A hidden table gives every node, for every label, the nodes that may follow. A prompt names a start and the labels of
the steps, and any legal walk is right. What a step may be depends on the step before it, so that a sampler which
commits several nodes in one call pays for it, and a likelihood that scores them apart is wrong.
"""

from dataclasses import dataclass
from functools import cache
from random import Random

from diffpo.core.errors import UserError
from diffpo.tasks.base import Grade, Problem, Split
from diffpo.tasks.splits import check_split, draw_distinct, split_by_hash

NODES = "abcdefghijklmnop"
LABELS = "0123"

SUCCESSORS = (1, 8)  # the fewest and the most; drawing permutations that never agree takes ever longer
LENGTHS = (4, 32)  # below 4 steps there are too few prompts to split

Table = dict[tuple[str, str], str]
"""(node, label) -> the nodes that may follow."""


@cache
def table(successors: int) -> Table:
    """The hidden table, always the same: for each label, `successors` random permutations of which no two agree.

    A permutation never merges walks, so that the nodes far down a walk are as undecided as the first ones. The table
    for fewer successors is part of that for more.
    """
    columns = {label: _permutations(successors, Random(f"walk/table/{label}")) for label in LABELS}
    return {
        (node, label): "".join(permutation[place] for permutation in columns[label])
        for place, node in enumerate(NODES)
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
    """The split that a prompt belongs to, whatever the seed."""
    return split_by_hash(prompt)


@dataclass(frozen=True)
class Walk:
    """Walks of `length` labelled steps with `successors` legal nodes for each, so `successors ** length` right answers.

    Prompt: start node, labels, "="; completion: the nodes that follow. `step_credit`: what the share of legal steps is
    multiplied by to reward a walk that is not legal throughout. Raises UserError for values out of range.
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
        """`count` uniformly drawn prompts of a split, distinct while there are enough, each with one right answer.

        The answer is uniform among all right ones, and another seed may draw another for the same prompt. A smaller
        count gives the beginning of the same list.
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
        legal from where the walk is, by whatever way it got there. Status `unparseable`: not exactly `length` nodes;
        `grader_failed`: the problem's prompt is none of this task. Never raises.
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
