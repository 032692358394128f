"""The `optimizer` and `lora` tables: how a model's weights are changed, and which."""

from typing import Annotated, Literal, Protocol, runtime_checkable

from pydantic import Field

from diffpo.recipes.strict import Strict
from diffpo.recipes.tables.fields import Count, NonNegative, Positive


class AdamRecipe(Strict):
    """AdamW."""

    lr: Positive
    """Learning rate."""
    beta2: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """How slowly the running mean of squared gradients moves; that of gradients has 0.9."""
    weight_decay: NonNegative = 0.0
    """What every update takes from each weight, times the learning rate."""
    grad_clip: Positive = 1.0
    """Longer gradients are scaled to this norm."""
    warmup: Annotated[int, Field(ge=0, le=2**53)] = 0
    """Updates over which the learning rate rises from 0."""
    decay: Literal["none", "linear"] = "none"
    """linear: the rate falls to 0 as the budget is spent, in each stage of a joint run by itself."""


class PolicyOptimizerRecipe(AdamRecipe):
    """How the model's weights are changed."""

    kind: Literal["adamw", "muon"] = "adamw"
    """muon: orthogonalised updates, at ten times `lr`, for the blocks' matrices or an adapter's; AdamW for the rest."""


class LoraRecipe(Strict):
    """Train a low-rank adapter on all matrices of the blocks instead of the model itself; needs peft."""

    rank: Count = 128
    """Rank of what is added to each matrix."""
    alpha: Count = 64
    """What the adapter adds is scaled by alpha / rank."""
    base_bits: Literal[4] | None = None
    """4: keep the model under the adapter in 4 bits, a third of the memory of bfloat16; needs bitsandbytes."""


@runtime_checkable
class HasLora(Protocol):
    """A recipe with a `lora` table."""

    @property
    def lora(self) -> LoraRecipe | None: ...


def base_bits(recipe: HasLora) -> Literal[4] | None:
    """Return the bits of the model under the adapter, if it is quantised."""
    return recipe.lora.base_bits if recipe.lora is not None else None
