r"""A decoding rule of your own: commit every position whose best token leads clearly over the second best.

    diffpo sft sudoku4-base --out runs/base  # once for all examples
    diffpo eval runs/base 'rules=[{kind="examples/custom_rule.py:Margin", threshold=0.5}]'
    diffpo rl tiny-d1 --out runs/margin base=runs/base 'budget={steps=20}' \
        'rollout.rule={kind="examples/custom_rule.py:Margin"}'

The fields of the class are the keys of its table, with their types and defaults.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from diffpo.sampling.rules import best


@dataclass(frozen=True)
class Margin:
    """Commit the positions whose two largest probabilities are at least `threshold` apart, or else the best one."""

    threshold: float = 0.5
    is_exact: ClassVar[bool] = True
    """It looks at the logits alone, never at the drawn token, so rollouts keep their exact log-probabilities."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; give a number from 0 to 1")

    def score(self, logits: Tensor, drawn: Tensor) -> Tensor:
        """Return the margin at each position: [..., V] -> [...]."""
        largest = logits.softmax(dim=-1).topk(2, dim=-1).values
        return largest[..., 0] - largest[..., 1]

    def select(self, score: Tensor, is_candidate: Tensor, row_bound: Tensor | None = None) -> Tensor:
        """Return which of the candidates [B, L] to commit: at least one in every row that has any."""
        return (is_candidate & (score >= self.threshold)) | best(score, is_candidate, 1)
