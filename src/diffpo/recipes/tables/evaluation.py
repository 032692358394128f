"""The recipe of an evaluation: `diffpo eval`."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from diffpo.core.options import CacheKind
from diffpo.recipes.tables.device import DeviceSettings
from diffpo.recipes.tables.fields import Count, NonNegative
from diffpo.recipes.tables.rollout import cache_problems, kernel_problems
from diffpo.recipes.tables.rules import RuleRecipe
from diffpo.recipes.tables.tasks import TaskRecipe, grading_problems


class EvalRecipe(DeviceSettings):
    """Greedy decoding of the same problems under every rule, and under the controller where the model has one."""

    seed: int = 0
    model: str
    task: TaskRecipe | None = None
    """None: the task the model was trained on."""
    split: Literal["train", "validation", "test"] = "test"
    count: Annotated[int, Field(ge=2)] = 500
    batch: Count = 256
    max_in_flight: Count | None = None
    """Completions of a batch in flight at a time; one that is done makes room for the next. None: all at once."""
    block_length: Count | None = None
    cache: CacheKind = "none"
    """As `rollout.cache` in RL: quicker, and only approximately the model's own answers."""
    bounds: tuple[NonNegative, ...] = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)
    rules: tuple[RuleRecipe, ...] = ()
    """Rules besides the entropy bounds."""

    def problems(self) -> Iterable[str]:
        if self.task is not None:
            yield from grading_problems("evaluation", self.task)
            yield from cache_problems("", self.cache, self.block_length, self.task)
        yield from kernel_problems("", self.cache, self.attention)
