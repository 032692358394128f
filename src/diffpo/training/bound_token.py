"""The entropy bound as one more token of its completion, in the policy's loss: DiFFPO's threshold token."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diffpo.core.rollout import Rollout
from diffpo.objective.base import TokenLogp
from diffpo.sampling.controller import Controller


@dataclass(frozen=True)
class Tokens:
    """What an objective is given of the tokens of some completions."""

    logp: TokenLogp
    old_logp: TokenLogp
    behaviour_logp: TokenLogp
    is_scored: Bool[Tensor, "B L"]


def with_bound(tokens: Tokens, controller: Controller | None, rollout: Rollout) -> Tokens:
    """Return the tokens with the drawn entropy bound as the last one; as they are, without a controller.

    It was drawn by the controller itself, so that its importance weight is 1 before the first step.
    """
    if controller is None:
        return tokens
    logp = controller.logp(rollout.prompt_features, rollout.entropy_bound)
    drawn = rollout.entropy_bound_logp
    return Tokens(
        logp=one_more(tokens.logp, logp),
        old_logp=one_more(tokens.old_logp, drawn),
        behaviour_logp=one_more(tokens.behaviour_logp, drawn),
        is_scored=one_more(tokens.is_scored, torch.ones_like(drawn, dtype=torch.bool)),
    )


def one_more(values: Tensor, last: Float[Tensor, " B"] | Bool[Tensor, " B"]) -> Tensor:
    """Return [B, L + 1]: each row's values and one more."""
    return torch.cat([values, last[:, None]], dim=1)
