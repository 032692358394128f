"""The tables of rules: `rollout.rule`, and `rules` of an evaluation."""

from typing import Literal

from pydantic import SerializeAsAny

from diffpo.recipes.custom import Contract, CustomPart
from diffpo.recipes.strict import Strict
from diffpo.recipes.tables.fields import Count, NonNegative, Share


class EntropyBoundRule(Strict):
    """The EB sampler: commit the surest tokens while the sum of their entropies is within a bound."""

    kind: Literal["entropy-bound"] = "entropy-bound"
    bound: NonNegative = 0.1
    """In nats; 0 commits one token a call, a larger one more."""
    subtract_max: bool = True
    """Leave the largest entropy out of the sum, as published; false is slower and safer."""


class CappedSumRule(Strict):
    """The plain sum of entropies within a bound, of tokens that are sure by themselves."""

    kind: Literal["capped-sum"] = "capped-sum"
    bound: NonNegative = 0.3
    """Of the sum, in nats."""
    cap: NonNegative = 0.1
    """Entropy, in nats, above which a token is committed only where it is the surest."""


class ConfidenceRule(Strict):
    """Fast-dLLM's: commit every token whose largest probability reaches a threshold, or the surest."""

    kind: Literal["confidence"] = "confidence"
    threshold: Share = 0.9
    """The probability."""


class MarginRule(Strict):
    """Commit every token whose two likeliest values are far enough apart, or the surest."""

    kind: Literal["margin"] = "margin"
    threshold: Share = 0.8
    """The difference of their probabilities."""


class LeftmostRule(Strict):
    """Commit the leftmost tokens: decoding from left to right."""

    kind: Literal["leftmost"] = "leftmost"
    k: Count = 1
    """Tokens of a call."""


class TopKRule(Strict):
    """Commit the surest tokens, by their largest probability."""

    kind: Literal["top-k"] = "top-k"
    k: Count = 1
    """Tokens of a call."""


class LowConfidenceRule(Strict):
    """LLaDA's: commit the drawn tokens that are likeliest. For evaluation alone: its rollouts have no exact
    probability."""

    kind: Literal["low-confidence"] = "low-confidence"
    k: Count = 1
    """Tokens of a call."""


class CustomRule(CustomPart):
    """A class of your own. One that draws rollouts of RL must be exact."""

    _contract = Contract(
        "rule",
        {"score": ("logits", "drawn"), "select": ("score", "is_candidate", "row_bound")},
        {"is_exact": bool},
    )


BuiltInRuleRecipe = (
    EntropyBoundRule | CappedSumRule | ConfidenceRule | MarginRule | LeftmostRule | TopKRule | LowConfidenceRule
)
"""The rules that run no code of a user's."""
RuleRecipe = BuiltInRuleRecipe | SerializeAsAny[CustomRule]
