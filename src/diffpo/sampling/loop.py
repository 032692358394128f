"""The denoising loop. There is one: rules choose positions, a controller may choose each row's entropy bound."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diffpo.core.canvas import (
    completion_mask,
    first_occurrence,
    flat_index,
    full_attention_mask,
    open_block,
    unique_canvases,
)
from diffpo.core.options import CacheKind
from diffpo.core.rollout import Rollout
from diffpo.models.denoiser_output import Denoiser, DenoiserOutput, predict
from diffpo.sampling.block_cache import new_block_cache
from diffpo.sampling.categorical import read, round_down_to_float32, row_noise
from diffpo.sampling.rules import EntropyBound, Rule


@runtime_checkable
class BoundController(Protocol):
    """What the sampler needs of a controller."""

    def features(self, entropy: Float[Tensor, "B L"]) -> Float[Tensor, "B F"]: ...

    def choose(
        self, features: Float[Tensor, "B F"], uniform: Float[Tensor, " B"] | None
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Entropy bounds and their log-densities: drawn with the given uniforms, or the mean of each distribution."""
        ...


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    prompt_ids: Int[Tensor, "B P"],
    prompt_mask: Bool[Tensor, "B P"],
    *,
    length: int,
    block_length: int,
    rule: Rule,
    temperature: float = 0.0,
    seeds: Int[Tensor, " B"] | None = None,
    controller: BoundController | None = None,
    explore: bool = False,
    stop_ids: tuple[int, ...] = (),
    max_in_flight: int | None = None,
    cache: CacheKind = "none",
) -> Rollout:
    """Fill `length` masked positions after each prompt, block by block, and record how it was done.

    A row's result depends on its prompt and its seed alone, not on the rest of the batch. `temperature` 0 is greedy.
    With a `controller` each row gets its own entropy bound from the first call's entropies, drawn if `explore`, the
    distribution's mean otherwise. A row is done when no mask is left, or none before its first stop token; what is
    left then is filled with that token as part of the last call, at no probability. At most `max_in_flight` rows are in
    flight, all without it: one that is done leaves, and the next one that waits takes its place. With a `cache` the
    first call of a block is a whole one, and the others run some of the positions (diffpo/block_cache.py).

    Raises ValueError where `block_length` does not divide `length`, or leaves a cache one block, and where a draw is
    asked for without seeds; UserError for a model that keeps no keys and values.
    """
    if length % block_length:
        raise ValueError(f"block_length {block_length} does not divide the completion length {length}")
    if seeds is None and (temperature > 0 or explore):
        raise ValueError("drawing at a temperature above 0, or exploring bounds, needs one seed per row")
    if controller is not None and not isinstance(rule, EntropyBound):
        raise ValueError(f"a controller chooses entropy bounds, which {rule} does not have")
    if max_in_flight is not None and max_in_flight < 1:
        raise ValueError(f"{max_in_flight} slots hold no row")

    batch, device = len(prompt_ids), prompt_ids.device
    attention_mask = full_attention_mask(prompt_mask, length)
    completion = torch.full((batch, length), denoiser.mask_id, device=device)
    unmask_step = torch.zeros_like(completion)
    behaviour_logp = torch.zeros(batch, length, device=device)
    fixed_bound = rule.bound if isinstance(rule, EntropyBound) else float("nan")
    bound = torch.full((batch,), fixed_bound, device=device)
    bound_logp = torch.zeros(batch, device=device)
    features = torch.zeros(batch, 0, device=device)
    noise = torch.zeros(batch, length + 1, dtype=torch.float64) if seeds is None else row_noise(seeds, length + 1)
    bound_noise, token_noise = round_down_to_float32(noise[:, 0]).to(device), noise[:, 1:].to(device)

    step = torch.zeros(batch, dtype=torch.long, device=device)
    kept = new_block_cache(denoiser, cache, attention_mask, block_length, length, max_in_flight or batch)
    waiting = queue(prompt_mask, max_in_flight)
    rows = waiting[:0]
    while len(rows) + len(waiting) > 0:
        fresh, waiting = waiting.tensor_split([(max_in_flight or batch) - len(rows)])
        rows = torch.cat([rows, fresh])
        is_masked = completion[rows] == denoiser.mask_id
        is_candidate = open_block(is_masked, block_length)
        # The controller reads the entropy of a whole new completion; everyone else needs the open block alone.
        is_read = is_candidate if controller is None else is_candidate | (is_masked & (step[rows] == 0)[:, None])
        canvas = torch.cat([prompt_ids[rows], completion[rows]], dim=1)
        if kept is None:
            prediction, place = _ask(denoiser, canvas, attention_mask[rows], is_read)
        else:
            prediction, place = kept.ask(rows, canvas, is_read, is_candidate)
        found = read(prediction, place, token_noise[rows][is_read], temperature, rule)
        token, logp, score = (values.new_zeros(is_read.shape).masked_scatter(is_read, values) for values in found)
        if controller is not None and len(fresh) > 0:
            seen = controller.features(score[len(rows) - len(fresh) :])
            features = features if features.shape[1] else seen.new_zeros(batch, seen.shape[1])
            features[fresh] = seen
            bound[fresh], bound_logp[fresh] = controller.choose(seen, bound_noise[fresh] if explore else None)

        is_commit = rule.select(score, is_candidate, bound[rows])
        at_row, at_position = is_commit.nonzero(as_tuple=True)
        at_row = rows[at_row]
        completion[at_row, at_position] = token[is_commit]
        behaviour_logp[at_row, at_position] = logp[is_commit]
        unmask_step[at_row, at_position] = step[at_row]

        is_open = (completion[rows] == denoiser.mask_id) & completion_mask(completion[rows], stop_ids)
        is_done = ~is_open.any(dim=1)
        _fill_tail(completion, unmask_step, rows[is_done], step, denoiser.mask_id, stop_ids)
        step[rows] += 1
        rows = rows[~is_done]

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


def queue(prompt_mask: Bool[Tensor, "B P"], max_in_flight: int | None) -> Int[Tensor, " B"]:
    """The order in which rows come in: as given if all do at once, else long prompts first, so that little is padded
    and no long one is left for the end."""
    rows = torch.arange(len(prompt_mask), device=prompt_mask.device)
    if max_in_flight is None or max_in_flight >= len(rows):
        return rows
    return prompt_mask.sum(dim=1).argsort(descending=True, stable=True)


def _ask(
    denoiser: Denoiser,
    canvas: Int[Tensor, "b N"],
    attention_mask: Bool[Tensor, "b N"],
    is_read: Bool[Tensor, "b L"],
) -> tuple[DenoiserOutput, Int[Tensor, " M"]]:
    """A prediction, and its place for each completion position to be read.

    Equal canvases are shown once: completions of a prompt start from the same one, and stay on it for as long as they
    draw the same tokens. What is read follows from the canvas. Padding that all rows have is not shown.
    """
    canvas, attention_mask, which = unique_canvases(canvas, attention_mask)
    padding = int(attention_mask.any(dim=0).long().argmax())
    is_shown = is_read[first_occurrence(which)]
    at = torch.nn.functional.pad(is_shown, (canvas.shape[1] - is_shown.shape[1], 0), value=False)
    prediction = predict(denoiser, canvas[:, padding:], attention_mask[:, padding:], at[:, padding:])
    return prediction, flat_index(is_shown)[which][is_read]


def _fill_tail(
    completion: Int[Tensor, "B L"],
    unmask_step: Int[Tensor, "B L"],
    rows: Int[Tensor, " D"],
    step: Int[Tensor, " B"],
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
    unmask_step[rows] = torch.where(is_left, step[rows, None], unmask_step[rows])
