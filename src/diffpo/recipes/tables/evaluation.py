"""The recipe of an evaluation: `diffpo eval`."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from diffpo.core.options import DENSE_BOUNDS, CacheKind
from diffpo.recipes.tables.device import DeviceSettings
from diffpo.recipes.tables.fields import Bounds, Count, Location, NonNegative, Seed
from diffpo.recipes.tables.rollout import cache_problems, kernel_problems
from diffpo.recipes.tables.rules import RuleRecipe
from diffpo.recipes.tables.tasks import CountdownTask, SudokuTask, TaskRecipe, WalkTask, grading_problems


class EvalRecipe(DeviceSettings):
    """Greedy decoding of the same problems under every rule, and under the controller where the model has one."""

    seed: Seed = 0
    """Chooses the problems of a task that makes them up."""
    model: Location
    """What is evaluated: a run, a folder, or ORG/NAME[@REVISION]."""
    task: TaskRecipe | None = None
    """Where problems come from. Not set: the task the model was trained on."""
    split: Literal["train", "validation", "test"] = "test"
    """Which problems are answered."""
    count: Annotated[int, Field(ge=2, le=2**20)] = 500
    """How many problems are answered; of a data set all, where it has fewer."""
    batch: Count = 256
    """Completions decoded at a time, in each process."""
    max_in_flight: Count | None = None
    """Completions of a batch in flight at a time; one that is done makes room for the next. Not set: all at once."""
    block_length: Count | None = None
    """Tokens of a block; blocks are decoded from left to right. Not set: one block, the whole completion."""
    cache: CacheKind = "none"
    """As `rollout.cache` in RL: quicker, and only approximately the model's own answers."""
    bounds: Bounds = DENSE_BOUNDS
    """The fixed entropy bounds, in nats, that the model decodes with one after the other: its frontier."""
    price: NonNegative | None = None
    """What one call per token costs in accuracy: the model's sampler decodes by the rule that is best at it, beside all
    rules that it would use at some price, which are measured anyway."""
    rules: tuple[RuleRecipe, ...] = ()
    """Rules besides the entropy bounds."""
    validation_count: Annotated[int, Field(ge=0, le=2**20)] | None = None
    """Validation problems, answered under the same rules, that choose the constant which a learned sampler has to beat.
    Not set: 400 for the made-up tasks, which cost little, and none for others."""

    def num_validation(self, task: TaskRecipe | None) -> int:
        """Return how many validation problems choose a constant: none where figures are of that split themselves.

        None: a task in memory.
        """
        if self.split == "validation":
            return 0
        if self.validation_count is not None:
            return self.validation_count
        return 400 if isinstance(task, SudokuTask | CountdownTask | WalkTask) else 0

    def problems(self) -> Iterable[str]:
        if self.split == "validation" and self.validation_count:
            yield "validation_count: split = 'validation' reports the problems that would choose one; leave it out"
        if not self.bounds and not self.rules:
            yield "bounds and rules are both empty, so there is nothing to decode by; give one of either"
        if self.task is not None:
            yield from grading_problems("evaluation", self.task)
            yield from cache_problems("", self.cache, self.block_length, self.task)
        yield from kernel_problems("", self.cache, self.attention)
