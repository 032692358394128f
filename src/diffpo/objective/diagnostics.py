"""Metrics of importance weights and of group weights; a mean over no token is left out."""

from collections.abc import Mapping

from jaxtyping import Bool, Float
from torch import Tensor

from diffpo.objective.base import Credit
from diffpo.objective.dmpo import effective_share
from diffpo.statistics.samples import effective_sample_size

QUARTERS = 4
NEAR_ONE, FAR_BELOW = 0.8, 0.5
PUSHES_DOWN = (
    "importance weights are near 1 on wrong answers ({importance_weight_wrong:.2f}) and far below on right ones "
    "({importance_weight_right:.2f}), so updates mostly push down; without a KL term such runs have collapsed: raise "
    "objective.kl_coef, set objective.importance_on = 'positive', or use an estimator with more canvases"
)


def token_weight_metrics(
    weight: Float[Tensor, " n"],
    is_capped: Bool[Tensor, " n"],
    is_floored: Bool[Tensor, " n"],
    is_right: Bool[Tensor, " n"],
    progress: Float[Tensor, " n"],
) -> dict[str, float]:
    """Summarise the importance weights of a batch's n tokens.

    Gives their effective share and their means on right and on wrong answers. For each quarter of the rollout's calls,
    by the call that committed the token (`progress`, from 0 to below 1), it gives the effective share and the share of
    tokens at the cap.
    """
    name = "importance_weight"
    metrics = {f"{name}_ess": _effective(weight), f"{name}_floored": float(is_floored.float().mean())}
    metrics |= _means(name, weight, is_right)
    quarter = (QUARTERS * progress).long()
    for index in range(QUARTERS):
        is_in = quarter == index
        if is_in.any():
            metrics[f"{name}_ess_{index + 1}"] = _effective(weight[is_in])
            metrics[f"{name}_capped_{index + 1}"] = float(is_capped[is_in].float().mean())
    return metrics


def group_weight_metrics(credit: Credit, is_right: Bool[Tensor, "Q G"]) -> dict[str, float]:
    """Summarise the weights within groups, scaled to mean 1: effective share, means on right and on wrong answers."""
    if credit.weight is None:
        return {}
    metrics = {"group_weight_ess": float(effective_share(credit.weight).mean())}
    metrics |= _means("group_weight", (credit.weight.shape[1] * credit.weight).flatten(), is_right.flatten())
    if credit.proximal is not None:
        metrics["proximal"] = float(credit.proximal.mean())
    return metrics


def pushes_down(metrics: Mapping[str, float]) -> bool:
    """Return whether weights are near 1 on failures and far below on successes, the sign of a run that will
    collapse."""
    return (
        metrics.get("importance_weight_wrong", 0.0) > NEAR_ONE
        and metrics.get("importance_weight_right", 1.0) < FAR_BELOW
    )


def _effective(weight: Float[Tensor, " n"]) -> float:
    return effective_sample_size(weight.cpu().numpy()) / len(weight)


def _means(name: str, weight: Float[Tensor, " n"], is_right: Bool[Tensor, " n"]) -> dict[str, float]:
    sides = {f"{name}_right": weight[is_right], f"{name}_wrong": weight[~is_right]}
    return {side: float(values.mean()) for side, values in sides.items() if len(values)}
