"""The commit policy, a learned sampler: at every call, the probability of each masked position of being committed.

Two of the field are this one network on different inputs: Apple's unmasking policy (arXiv 2512.09106) looks at the
confidences of the denoiser, dUltra's planner (arXiv 2512.21446) at its last hidden states.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import layer_norm, scaled_dot_product_attention

from diffpo.core.options import CommitPolicyKind
from diffpo.models.layers import rotary_factors, rotate

HEADS = 2
ROTARY_BASE = 10000.0


class CommitPolicy(nn.Module):
    """One transformer block over the completion, conditioned on what is masked and how much, and a logit.

    What a position gives is its confidence, the largest probability of its distribution (`kind` confidence-policy), or
    its hidden state (planner), standardised by itself; only the candidates of the call give any. The block's
    normalisations are scaled and shifted, and its branches scaled, by whether the position is a candidate and by the
    share of positions that are none (as in DiT). The scaling starts at none, and the logits around that of
    `initial_probability`. No gradient reaches the denoiser.

    `width` must be a multiple of 4: two heads of even width, which rotary positions need.
    """

    def __init__(
        self, kind: CommitPolicyKind, num_inputs: int = 1, width: int = 64, initial_probability: float = 0.12
    ) -> None:
        super().__init__()
        self.kind, self.num_inputs, self.width = kind, num_inputs, width
        self.read = nn.Linear(num_inputs, width)
        self.is_open = nn.Embedding(2, width)
        self.progress = nn.Sequential(nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width))
        self.condition = nn.Linear(width, 6 * width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.qkv, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.last = nn.Linear(width, 1)
        nn.init.zeros_(self.condition.weight)
        nn.init.zeros_(self.condition.bias)
        nn.init.constant_(self.last.bias, float(torch.tensor(initial_probability).logit()))

    def forward(self, inputs: Float[Tensor, "B L S"], is_candidate: Bool[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        """Return the logit of each position's probability; those of positions that are no candidates mean nothing.

        `inputs` has the S numbers of each candidate, and zeros elsewhere.
        """
        if self.kind == "planner":
            inputs = layer_norm(inputs, inputs.shape[-1:])
        x = self.read(inputs)
        scale1, shift1, gain1, scale2, shift2, gain2 = self.condition(self._conditions(is_candidate)).chunk(6, dim=-1)
        x = x + (1 + gain1) * self._attend(self.norms[0](x) * (1 + scale1) + shift1)
        x = x + (1 + gain2) * self.feed_forward(self.norms[1](x) * (1 + scale2) + shift2)
        logit: Tensor = self.last(self.norms[2](x)).squeeze(-1)
        return logit

    def _conditions(self, is_candidate: Bool[Tensor, "B L"]) -> Float[Tensor, "B L W"]:
        committed = 1 - is_candidate.float().mean(dim=1, keepdim=True)
        # With period 1, as theirs, the sinusoids of a share are its cosine and its sine.
        time = self.progress(torch.stack([committed.cos(), committed.sin()], dim=-1))
        found: Tensor = self.is_open(is_candidate.long()) + time
        return found

    def _attend(self, x: Float[Tensor, "B L W"]) -> Float[Tensor, "B L W"]:
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        rotation = rotary_factors(torch.arange(x.shape[1], device=x.device), self.width // HEADS, ROTARY_BASE)
        mixed: Tensor = self.mix(
            scaled_dot_product_attention(rotate(q, rotation), rotate(k, rotation), v).transpose(1, 2).flatten(-2)
        )
        return mixed
