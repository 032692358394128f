"""The record that a sampler returns, and that likelihood, objective and evaluation take.

Axes: B rows, P prompt, L completion, N = P + L, V vocabulary, R canvases, C calls.
"""

from dataclasses import dataclass, fields

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Rollout:
    """Finished completions, with all that is needed to replay how they were drawn.

    A committed token is never taken back, so (completion_ids, unmask_step) is the whole trajectory; with a commit
    policy, which draws what a call commits, is_drawn belongs to it, too.
    """

    prompt_ids: Int[Tensor, "B P"]
    prompt_mask: Bool[Tensor, "B P"]
    """False on the padding, which is on the left."""
    completion_ids: Int[Tensor, "B L"]
    unmask_step: Int[Tensor, "B L"]
    """0-based index of the denoiser call that fixed the token."""
    is_answer: Bool[Tensor, "B L"]
    """Whether the token is part of the answer: up to and including the first stop token."""
    is_drawn: Bool[Tensor, "B L"]
    """Whether a call drew the token. Some behind the first stop token were drawn, too; the masks that were left there
    were filled without a draw."""
    behaviour_logp: Float[Tensor, "B L"]
    """Log-probability (nats) under the distribution that the token was drawn from, with its temperature; 0: greedy."""
    nfe: Int[Tensor, " B"]
    """Number of denoiser calls of the row: its last unmask_step + 1."""
    entropy_bound: Float[Tensor, " B"]
    """The bound of the entropy-bound rule; nan under other rules."""
    entropy_bound_logp: Float[Tensor, " B"]
    """Log-density of log(entropy_bound) under the controller; 0 where the bound was not drawn."""
    prompt_features: Float[Tensor, "B F"]
    """The controller's input; F = 0 without a controller."""
    commit_logp: Float[Tensor, "B C"]
    """Log-probability (nats) of the set of positions that each call committed, where a commit policy drew it; C = L, 0
    where the row has no such call. C = 0 where no sets are drawn."""
    commit_inputs: Float[Tensor, "B C L S"]
    """What the commit policy looked at: S numbers for each candidate of each call, zeros elsewhere."""

    def __len__(self) -> int:
        return len(self.nfe)

    def rows(self, index: slice | Tensor) -> "Rollout":
        """Return the record of some of its rows."""
        return Rollout(**{f.name: getattr(self, f.name)[index] for f in fields(self)})
