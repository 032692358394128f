"""Draw tokens from a denoiser's output, with their log-probabilities and a rule's scores, a few rows at a time."""

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from diffpo.core.errors import NonFiniteLogitsError, UserError
from diffpo.models.denoiser_output import DenoiserOutput
from diffpo.sampling.rules import HiddenRule, Rule

SEGMENT = 256
"""Tokens of a segment: a draw first finds its segment of the vocabulary, then its token within the segment."""
HEAD_CHUNK = {"cpu": 2**22, "cuda": 2**28}
"""Logits that the output head computes at a time: enough rows for a product at full speed, in a few megabytes."""
DRAW_CHUNK = {"cpu": 2**19, "cuda": 2**26}
"""Logits that are drawn from at a time, in several passes over them: as many as a CPU's cache holds
(docs/performance.md)."""


def row_noise(seeds: Int[Tensor, " B"], count: int) -> Float64[Tensor, "B count"]:
    """Return `count` uniform numbers in [0, 1) per row, with 48 bits, that depend on the row's own seed alone.

    One number per position serves all calls: a position is drawn for good once, and no exact rule has used its number
    before. A float32 has 24 bits, which is too coarse for 126464 tokens.
    """
    generator = torch.Generator()

    def row(seed: int) -> Tensor:
        generator.manual_seed(seed)
        high, low = (torch.rand(count, generator=generator).double() for _ in range(2))
        return high + low * 2**-24

    return torch.stack([row(seed) for seed in seeds.tolist()])


def call_noise(seeds: Int[Tensor, " B"], step: Int[Tensor, " B"], count: int) -> Float64[Tensor, "B count"]:
    """Return `row_noise` of its own for each of a row's denoiser calls.

    For rules that look at the drawn tokens: a token that was not kept has been looked at, and its number used.
    """
    pairs = zip(seeds.tolist(), step.tolist(), strict=True)
    return row_noise(torch.tensor([(seed * 6364136223846793005 + call + 1) % 2**63 for seed, call in pairs]), count)


def round_down_to_float32(uniform: Float64[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Return the largest float32 that is not above each number; the nearest one could be 1."""
    return (uniform * 2**24).floor().float() * 2**-24


def draw_tokens(
    logits: Float[Tensor, "M V"], uniform: Float[Tensor, " M"], temperature: float
) -> tuple[Int[Tensor, " M"], Float[Tensor, " M"]]:
    """Draw one token for each row of logits by inverse CDF, and return it with its log-probability in nats.

    At temperature 0 the token is the likeliest one and the log-probability is 0. Sums are taken in float64, for the
    reason for which other samplers make Gumbel noise in float64; one uniform number per row is enough.
    """
    if temperature == 0:
        return logits.argmax(dim=-1), torch.zeros(len(logits), device=logits.device)
    logp = (logits if temperature == 1 else logits / temperature).log_softmax(dim=-1)
    near, start, uniform = _segment(logp, uniform.double())
    cdf = near.double().exp().cumsum(dim=-1)
    # Where log-probabilities are no numbers the search ends behind the last token; `check_finite` tells of them.
    within = torch.searchsorted(cdf, uniform[:, None] * cdf[:, -1:], right=True).squeeze(-1)
    token = (start + within).clamp(max=logits.shape[-1] - 1)
    return token, logp.gather(-1, token[:, None]).squeeze(-1)


def _segment(
    logp: Float[Tensor, "M V"], uniform: Float64[Tensor, " M"]
) -> tuple[Float[Tensor, "M s"], Int[Tensor, " M"], Float64[Tensor, " M"]]:
    """Find the segment of each row that its uniform number falls into.

    Returns the segment's log-probabilities, its first token, and the number rescaled to the segment.
    """
    size = logp.shape[-1]
    if size <= SEGMENT:
        return logp, torch.zeros(len(logp), dtype=torch.long, device=logp.device), uniform
    if size % SEGMENT:
        logp = torch.nn.functional.pad(logp, (0, -size % SEGMENT), value=-torch.inf)
    segments = logp.unflatten(-1, (-1, SEGMENT))
    mass = logp.exp().view_as(segments).sum(dim=-1, dtype=torch.float64)
    above = mass.cumsum(dim=-1)
    target = uniform[:, None] * above[:, -1:]
    index = torch.searchsorted(above, target, right=True).clamp(max=above.shape[-1] - 1)
    own = mass.gather(-1, index)
    within = ((target - above.gather(-1, index) + own) / own).clamp(min=0, max=1 - 2**-48)
    return segments[torch.arange(len(logp)), index[:, 0]], index[:, 0] * SEGMENT, within[:, 0]


def draw_and_score(
    output: DenoiserOutput,
    index: Int[Tensor, " T"],
    uniform: Float64[Tensor, " T"],
    temperature: float,
    rule: Rule | HiddenRule,
) -> tuple[Int[Tensor, " T"], Float[Tensor, " T"], Float[Tensor, "T *S"]]:
    """Draw T tokens from the rows `index` of an output; return tokens, log-probabilities and the rule's scores.

    Every row of the output must occur in `index`. Rows that occur several times, as at the first call of a group, cost
    the output head one product. Raises UserError for a rule that looks at hidden states of a denoiser that gives none,
    and NonFiniteLogitsError where a token cannot be drawn.
    """
    device, size = _device_kind(index), len(output)
    rows_per_product = max(1, HEAD_CHUNK[device] // output.num_tokens)
    rows_per_draw = max(1, DRAW_CHUNK[device] // output.num_tokens)
    is_shared = len(index) != size
    order = index.argsort(stable=True)
    sizes = torch.bincount(index // rows_per_product, minlength=-(-size // rows_per_product)).tolist()
    found = []
    is_finite: list[Bool[Tensor, " d"]] = []
    for first, draws in zip(range(0, size, rows_per_product), order.split(sizes), strict=True):
        some = output
        if rows_per_product < size:
            some = output.rows(torch.arange(first, min(first + rows_per_product, size), device=index.device))
        logits = some.logits
        for draw in draws.split(rows_per_draw):
            row = index[draw]
            own = logits[row - first] if is_shared else logits[int(row[0]) - first :][: len(draw)]
            token, logp = draw_tokens(own, uniform[draw], temperature)
            is_finite.append(logp.isfinite() & own.gather(-1, token[:, None]).squeeze(-1).isfinite())
            if isinstance(rule, HiddenRule):
                found.append((token, logp, rule.hidden_score(own, token, hidden_states(output, rule)[row])))
            else:
                found.append((token, logp, rule.score(own, token)))
    check_finite(torch.cat(is_finite))
    token, logp, score = (torch.cat(parts)[order.argsort()] for parts in zip(*found, strict=True))
    return token, logp, score


def check_finite(is_finite: Bool[Tensor, " T"]) -> None:
    """Raise NonFiniteLogitsError unless all T tokens could be drawn.

    A NaN or positive infinity among the logits of a position shows in the token that is drawn there: at temperature 0
    it is the likeliest one, and above 0 it makes every log-probability NaN.
    """
    if not bool(is_finite.all()):
        raise NonFiniteLogitsError(
            f"the model's logits are not finite numbers at {int((~is_finite).sum())} of {len(is_finite)} positions of "
            "a denoiser call: its weights are damaged, or too large for its dtype (try dtype=float32)"
        )


def hidden_states(output: DenoiserOutput, rule: HiddenRule) -> Float[Tensor, "M D"]:
    """Return the hidden states of an output. Raises UserError where there are none."""
    if output.hidden is None:
        raise UserError(f"the denoiser gives no hidden states, which the rule {type(rule).__name__} looks at")
    return output.hidden


def _device_kind(tensor: Tensor) -> str:
    return "cpu" if tensor.device.type == "cpu" else "cuda"
