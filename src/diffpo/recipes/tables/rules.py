"""The tables of rules: `rollout.rule`, and `rules` of an evaluation."""

from typing import Literal

from pydantic import SerializeAsAny

from diffpo.recipes.custom import Contract, CustomPart
from diffpo.recipes.strict import Strict
from diffpo.recipes.tables.fields import Count, NonNegative, Share


class EntropyBoundRule(Strict):
    kind: Literal["entropy-bound"] = "entropy-bound"
    bound: NonNegative = 0.1
    subtract_max: bool = True


class CappedSumRule(Strict):
    kind: Literal["capped-sum"] = "capped-sum"
    bound: NonNegative = 0.3
    cap: NonNegative = 0.1


class ConfidenceRule(Strict):
    kind: Literal["confidence"] = "confidence"
    threshold: Share = 0.9


class MarginRule(Strict):
    kind: Literal["margin"] = "margin"
    threshold: Share = 0.8


class LeftmostRule(Strict):
    kind: Literal["leftmost"] = "leftmost"
    k: Count = 1


class TopKRule(Strict):
    kind: Literal["top-k"] = "top-k"
    k: Count = 1


class LowConfidenceRule(Strict):
    kind: Literal["low-confidence"] = "low-confidence"
    k: Count = 1


class CustomRule(CustomPart):
    """A class of your own. One that draws rollouts of RL must be exact."""

    _contract = Contract(
        "rule",
        {"score": ("logits", "drawn"), "select": ("score", "is_candidate", "row_bound")},
        {"is_exact": bool},
    )


RuleRecipe = (
    EntropyBoundRule
    | CappedSumRule
    | ConfidenceRule
    | MarginRule
    | LeftmostRule
    | TopKRule
    | LowConfidenceRule
    | SerializeAsAny[CustomRule]
)
