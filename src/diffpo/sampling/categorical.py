"""From a prediction to drawn tokens, their log-probabilities and a rule's scores, a few rows of logits at a time."""

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from diffpo.models.denoiser_output import DenoiserOutput, HiddenStates, Logits
from diffpo.sampling.rules import Rule

STRETCH = 256
"""Tokens among which the last step of a draw looks; the step before looks among stretches."""
HEAD_CHUNK = {"cpu": 2**22, "cuda": 2**28}
"""Logits that the output head makes at a time: enough rows for a product at full speed, and few megabytes."""
READ_CHUNK = {"cpu": 2**19, "cuda": 2**26}
"""Logits that are looked at together, several times over: what a CPU's cache holds (docs/performance.md)."""


def row_noise(seeds: Int[Tensor, " B"], count: int) -> Float64[Tensor, "B count"]:
    """`count` uniform numbers below 1 per row, a function of the row's own seed, to 48 bits.

    One number per position serves all steps: a position is drawn for good once, and under an exact rule nothing
    before that has looked at its number. A float32 has 24 bits, which is too coarse for 126464 tokens.
    """
    generator = torch.Generator()

    def row(seed: int) -> Tensor:
        generator.manual_seed(seed)
        round_down_to_float32, fine = (torch.rand(count, generator=generator).double() for _ in range(2))
        return round_down_to_float32 + fine * 2**-24

    return torch.stack([row(seed) for seed in seeds.tolist()])


def round_down_to_float32(uniform: Float64[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """The float32 below a number of `row_noise`: not the nearest, which may be 1."""
    return (uniform * 2**24).floor().float() * 2**-24


def draw_tokens(
    logits: Float[Tensor, "M V"], uniform: Float[Tensor, " M"], temperature: float
) -> tuple[Int[Tensor, " M"], Float[Tensor, " M"]]:
    """One token for each row of logits by inverse CDF, and its log-probability; at temperature 0 the best, 0.

    Sums are in float64, which is what Gumbel noise is made in float64 for, and there is one number per row.
    """
    if temperature == 0:
        return logits.argmax(dim=-1), torch.zeros(len(logits), device=logits.device)
    logp = (logits if temperature == 1 else logits / temperature).log_softmax(dim=-1)
    near, start, uniform = _stretch(logp, uniform.double())
    cdf = near.double().exp().cumsum(dim=-1)
    token = start + torch.searchsorted(cdf, uniform[:, None] * cdf[:, -1:], right=True).squeeze(-1)
    return token, logp.gather(-1, token[:, None]).squeeze(-1)


def _stretch(
    logp: Float[Tensor, "M V"], uniform: Float64[Tensor, " M"]
) -> tuple[Float[Tensor, "M s"], Int[Tensor, " M"], Float64[Tensor, " M"]]:
    """The part of each row that its number falls into: log-probabilities, where it begins, the number within it."""
    size = logp.shape[-1]
    if size <= STRETCH:
        return logp, torch.zeros(len(logp), dtype=torch.long, device=logp.device), uniform
    if size % STRETCH:
        logp = torch.nn.functional.pad(logp, (0, -size % STRETCH), value=-torch.inf)
    stretches = logp.unflatten(-1, (-1, STRETCH))
    mass = logp.exp().view_as(stretches).sum(dim=-1, dtype=torch.float64)
    above = mass.cumsum(dim=-1)
    target = uniform[:, None] * above[:, -1:]
    index = torch.searchsorted(above, target, right=True)
    own = mass.gather(-1, index)
    within = ((target - above.gather(-1, index) + own) / own).clamp(min=0, max=1 - 2**-48)
    return stretches[torch.arange(len(logp)), index[:, 0]], index[:, 0] * STRETCH, within[:, 0]


def read(
    prediction: DenoiserOutput,
    place: Int[Tensor, " M"],
    uniform: Float64[Tensor, " M"],
    temperature: float,
    rule: Rule,
) -> tuple[Int[Tensor, " M"], Float[Tensor, " M"], Float[Tensor, " M"]]:
    """Token, log-probability and the rule's score for M readings of a prediction's places, each with its number.

    Every place is read. Several readings of one, which the first call of a group has, cost the output head one row.
    """
    width, size = _shape(prediction)
    at_head, at_once = (max(1, chunk[_kind(place)] // width) for chunk in (HEAD_CHUNK, READ_CHUNK))
    is_shared = len(place) != size
    order = place.argsort(stable=True)
    sizes = torch.bincount(place // at_head, minlength=-(-size // at_head)).tolist()
    found = []
    for first, readings in zip(range(0, size, at_head), order.split(sizes), strict=True):
        some = (
            prediction
            if at_head >= size
            else prediction.rows(torch.arange(first, min(first + at_head, size), device=place.device))
        )
        logits = some.logits
        for index in readings.split(at_once):
            own = logits[place[index] - first] if is_shared else logits[int(place[index[0]]) - first :][: len(index)]
            token, logp = draw_tokens(own, uniform[index], temperature)
            found.append((token, logp, rule.score(own, token)))
    token, logp, score = (torch.cat(parts)[order.argsort()] for parts in zip(*found, strict=True))
    return token, logp, score


def _shape(prediction: DenoiserOutput) -> tuple[int, int]:
    """Vocabulary and number of places."""
    if isinstance(prediction, HiddenStates):
        return prediction.head.size, len(prediction.hidden)
    assert isinstance(prediction, Logits)
    return prediction.logits.shape[1], len(prediction.logits)


def _kind(tensor: Tensor) -> str:
    return "cpu" if tensor.device.type == "cpu" else "cuda"
