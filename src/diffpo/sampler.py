"""The denoising loop. There is one: rules choose positions, a controller may choose each row's entropy bound."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diffpo.canvas import completion_mask, distinct, full_attention_mask, open_block
from diffpo.types import DenoiseFn, Rollout
from diffpo.unmasking import EntropyBound, Rule, entropy


@runtime_checkable
class BoundPolicy(Protocol):
    """What the sampler needs of a controller."""

    def features(self, entropy: Float[Tensor, "B L"]) -> Float[Tensor, "B F"]: ...

    def choose(
        self, features: Float[Tensor, "B F"], uniform: Float[Tensor, " B"] | None
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Entropy bounds and their log-densities: drawn with the given uniforms, or the mean of each distribution."""
        ...


@torch.no_grad()
def sample(
    denoiser: DenoiseFn,
    prompt_ids: Int[Tensor, "B P"],
    prompt_mask: Bool[Tensor, "B P"],
    *,
    length: int,
    block_length: int,
    rule: Rule,
    temperature: float = 0.0,
    seeds: Int[Tensor, " B"] | None = None,
    controller: BoundPolicy | None = None,
    explore: bool = False,
    stop_ids: tuple[int, ...] = (),
) -> Rollout:
    """Fill `length` masked positions after each prompt, block by block, and record how it was done.

    A row's result depends on its prompt and its seed alone, not on the rest of the batch. `temperature` 0 is greedy.
    With a `controller` each row gets its own entropy bound from the first call's entropies, drawn if `explore`, the
    distribution's mean otherwise. A row is done when no mask is left, or none before its first stop token; what is
    left then is filled with that token as part of the last call, at no probability.

    Raises ValueError where `block_length` does not divide `length`, and where a draw is asked for without seeds.
    """
    if length % block_length:
        raise ValueError(f"block_length {block_length} does not divide the completion length {length}")
    if seeds is None and (temperature > 0 or explore):
        raise ValueError("drawing at a temperature above 0, or exploring bounds, needs one seed per row")
    if controller is not None and not isinstance(rule, EntropyBound):
        raise ValueError(f"a controller chooses entropy bounds, which {rule} does not have")

    batch, device = len(prompt_ids), prompt_ids.device
    attention_mask = full_attention_mask(prompt_mask, length)
    completion = torch.full((batch, length), denoiser.mask_id, device=device)
    unmask_step = torch.zeros_like(completion)
    behaviour_logp = torch.zeros(batch, length, device=device)
    fixed_bound = rule.bound if isinstance(rule, EntropyBound) else float("nan")
    bound = torch.full((batch,), fixed_bound, device=device)
    bound_logp = torch.zeros(batch, device=device)
    features = torch.zeros(batch, 0, device=device)
    noise = (
        row_noise(seeds, length + 1).to(device) if seeds is not None else torch.zeros(batch, length + 1, device=device)
    )
    bound_noise, token_noise = noise[:, 0], noise[:, 1:]

    rows = torch.arange(batch, device=device)
    step = 0
    while len(rows) > 0:
        is_masked = completion[rows] == denoiser.mask_id
        is_candidate = open_block(is_masked, block_length)
        # The controller reads the entropy of the whole completion; everyone else needs the open block alone.
        is_read = is_masked if controller is not None and step == 0 else is_candidate
        canvas = torch.cat([prompt_ids[rows], completion[rows]], dim=1)
        logits = _ask(denoiser, canvas, attention_mask[rows], is_read, is_shared=step == 0)
        if controller is not None and step == 0:
            features = controller.features(entropy(logits).view(batch, length))
            bound, bound_logp = controller.choose(features, bound_noise if explore else None)
            logits = logits[is_candidate[is_read]]

        token, logp = draw_tokens(logits, token_noise[rows][is_candidate], temperature)
        score = torch.zeros(is_candidate.shape, device=device).masked_scatter(is_candidate, rule.score(logits, token))
        is_commit = rule.select(score, is_candidate, bound[rows])
        kept = is_commit[is_candidate]
        at_row, at_position = is_commit.nonzero(as_tuple=True)
        at_row = rows[at_row]
        completion[at_row, at_position] = token[kept]
        behaviour_logp[at_row, at_position] = logp[kept]
        unmask_step[at_row, at_position] = step

        is_open = (completion[rows] == denoiser.mask_id) & completion_mask(completion[rows], stop_ids)
        is_done = ~is_open.any(dim=1)
        _fill_tail(completion, unmask_step, rows[is_done], step, denoiser.mask_id, stop_ids)
        rows = rows[~is_done]
        step += 1

    return Rollout(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        completion_ids=completion,
        unmask_step=unmask_step,
        behaviour_logp=behaviour_logp,
        nfe=unmask_step.amax(dim=1) + 1,
        entropy_bound=bound,
        entropy_bound_logp=bound_logp,
        prompt_features=features,
    )


def _ask(
    denoiser: DenoiseFn,
    canvas: Int[Tensor, "b N"],
    attention_mask: Bool[Tensor, "b N"],
    is_read: Bool[Tensor, "b L"],
    is_shared: bool,
) -> Float[Tensor, "M V"]:
    """Logits at the completion positions to be read. Before the first commit the completions of a prompt share one
    canvas, and the same positions are read in all rows: it is shown once."""
    prompt_length = canvas.shape[1] - is_read.shape[1]
    if not is_shared:
        return denoiser(canvas, attention_mask, torch.nn.functional.pad(is_read, (prompt_length, 0), value=False))
    canvas, attention_mask, place = distinct(canvas, attention_mask)
    at = torch.nn.functional.pad(is_read[: len(canvas)], (prompt_length, 0), value=False)
    logits = denoiser(canvas, attention_mask, at)
    return logits.view(len(canvas), -1, logits.shape[-1])[place].flatten(0, 1)


def row_noise(seeds: Int[Tensor, " B"], count: int) -> Float[Tensor, "B count"]:
    """`count` uniform numbers per row, a function of the row's own seed.

    One number per position serves all steps: a position is drawn for good once, and under an exact rule nothing
    before that has looked at its number.
    """
    generator = torch.Generator()
    return torch.stack([torch.rand(count, generator=generator.manual_seed(seed)) for seed in seeds.tolist()])


def draw_tokens(
    logits: Float[Tensor, "M V"], uniform: Float[Tensor, " M"], temperature: float
) -> tuple[Int[Tensor, " M"], Float[Tensor, " M"]]:
    """One token for each row of logits by inverse CDF, and its log-probability; at temperature 0 the best, 0."""
    if temperature == 0:
        return logits.argmax(dim=-1), torch.zeros(len(logits), device=logits.device)
    logp = (logits / temperature).log_softmax(dim=-1)
    cdf = logp.double().exp().cumsum(dim=-1)
    token = torch.searchsorted(cdf, uniform.double()[:, None] * cdf[:, -1:], right=True).squeeze(-1)
    return token, logp.gather(-1, token[:, None]).squeeze(-1)


def _fill_tail(
    completion: Int[Tensor, "B L"],
    unmask_step: Int[Tensor, "B L"],
    rows: Int[Tensor, " D"],
    step: int,
    mask_id: int,
    stop_ids: tuple[int, ...],
) -> None:
    """Close rows that end early, in place: what is masked behind the first stop token becomes that token."""
    if not stop_ids or len(rows) == 0:
        return
    ids = completion[rows]
    first_stop = completion_mask(ids, stop_ids).sum(dim=1, keepdim=True) - 1
    is_left = ids == mask_id
    completion[rows] = torch.where(is_left, ids.gather(1, first_stop), ids)
    unmask_step[rows] = torch.where(is_left, step, unmask_step[rows])
