"""The denoising loop. There is one: rules choose positions, a controller may choose each row's entropy bound, and a
commit policy may draw the positions of each call."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from diffpo.core.canvas import full_attention_mask, open_block
from diffpo.core.errors import UserError
from diffpo.core.rollout import Rollout
from diffpo.models.denoiser import Denoiser
from diffpo.models.denoiser_output import mean_hidden
from diffpo.sampling.block_cache import BlockCache
from diffpo.sampling.categorical import call_noise, draw_and_score, round_down_to_float32, row_noise
from diffpo.sampling.commit_rules import CommitRule
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.risk_rules import CommitRisk
from diffpo.sampling.rules import EntropyBound, HiddenRule, Rule
from diffpo.sampling.shared_canvases import SharedCanvases
from diffpo.sampling.state import fully_masked


@dataclass(frozen=True)
class SampledCall:
    """What a denoiser call said of the rows that took part in it."""

    rows: Int[Tensor, " b"]
    is_candidate: Bool[Tensor, "b L"]
    token: Int[Tensor, "b L"]
    """The token drawn at each candidate."""
    score: Float[Tensor, "b L *S"]
    """The rule's scores of the candidates."""


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    prompt_ids: Int[Tensor, "B P"],
    prompt_mask: Bool[Tensor, "B P"],
    decoding: Decoding,
    seeds: Int[Tensor, " B"] | None = None,
    row_bound: Float[Tensor, " B"] | None = None,
    start: Int[Tensor, "B L"] | None = None,
    observe: Callable[[SampledCall], None] | None = None,
) -> Rollout:
    """Fill `decoding.length` masked positions after each prompt, block by block, and record how it was done.

    `prompt_mask` is False on the padding, which is on the left. A row's result depends on its prompt and its seed
    alone, not on the rest of the batch. A row is done when no mask is left before its first stop token; what is masked
    behind that token is filled with it as part of the last call, at log-probability 0.

    `row_bound` gives each row a bound of its own in place of the rule's, which must be `EntropyBound` or `CommitRisk`:
    the same prompts under many bounds are decoded together. Unless a cache or a limit of rows in flight is in the way,
    rows wait for those with fewer committed tokens then, and the denoiser sees every canvas of the batch once.

    `start`: completions to go on from; every row has a mask before its first stop token. None: all is masked. `observe`
    is called at each denoiser call, before tokens are committed.

    Raises ValueError where something is drawn and there are no seeds, where bounds are given for a rule that has none,
    or beside a controller, and for a start that is done; UserError for a rule that commits nothing or what is no
    candidate, and where a cache is asked for that the denoiser does not have.
    """
    if seeds is None and decoding.needs_seeds:
        raise ValueError("drawing at a temperature above 0, or exploring bounds, needs one seed per row")
    state = fully_masked(prompt_ids, prompt_mask, denoiser.mask_id, denoiser.stop_ids, decoding)
    if row_bound is not None:
        check_takes_bounds(decoding)
        state.row_bound = row_bound.to(state.row_bound)
    if start is not None:
        state.start_from_(start)
    rule, controller = decoding.deciding_rule, decoding.bound_controller
    batch, length, device = len(prompt_ids), decoding.length, prompt_ids.device
    count = 1 + length * (2 if decoding.draws_sets else 1)
    noise = torch.zeros(batch, count, dtype=torch.float64) if seeds is None else row_noise(seeds, count)
    bound_noise, token_noise = round_down_to_float32(noise[:, 0]).to(device), noise[:, 1 : length + 1].to(device)
    if decoding.draws_sets:
        state.set_noise = noise[:, length + 1 :].to(device)

    capacity = decoding.max_in_flight or batch
    attention_mask = full_attention_mask(prompt_mask, length)
    canvases = (
        SharedCanvases(denoiser, attention_mask)
        if decoding.cache == "none"
        else BlockCache.allocate(denoiser, attention_mask, decoding.cache, decoding.block_length, capacity)
    )
    # Equal canvases have as many committed tokens. Rows that wait for those with fewer come to each at the same call.
    is_level = row_bound is not None and decoding.cache == "none" and capacity >= batch
    waiting = arrival_order(prompt_mask, capacity)
    rows = waiting[:0]
    while len(rows) + len(waiting) > 0:
        new_rows, waiting = waiting.tensor_split([capacity - len(rows)])
        rows = torch.cat([rows, new_rows])
        rows, ahead = state.split_by_progress(rows) if is_level else (rows, rows[:0])

        is_masked = state.is_masked(rows)
        is_candidate = open_block(is_masked, decoding.block_length)
        needs_logits = is_candidate
        if controller is not None:  # it looks at the entropies of a whole new completion
            needs_logits = is_candidate | (is_masked & (state.step[rows] == 0)[:, None])
        canvas = state.canvas(rows)
        output, index = canvases.predict(rows, canvas, needs_logits, is_candidate)

        # One random number per position serves all calls: a position is drawn for good once. But a rule that looks at
        # the drawn tokens keeps those that came out well, and what it drew and left must be drawn afresh.
        uniform = token_noise[rows]
        if seeds is not None and not rule.is_exact and decoding.temperature > 0:
            uniform = call_noise(seeds[rows.to(seeds.device)], state.step[rows], length).to(device)
        drawn = draw_and_score(output, index, uniform[needs_logits], decoding.temperature, rule)
        token, logp, score = (on_grid(values, needs_logits) for values in drawn)
        if controller is not None:
            hidden = None
            if controller.needs_hidden:
                hidden = mean_hidden(output, index[len(index) - len(new_rows) * length :].view(-1, length))
            # With a controller the rule is the entropy bound, whose scores are entropies.
            state.choose_bounds_(new_rows, score[len(rows) - len(new_rows) :], hidden, decoding, bound_noise)

        if observe is not None:
            observe(SampledCall(rows, is_candidate, token, score))
        if decoding.explore and isinstance(rule, CommitRule):
            drawn_set = rule.draw(score, is_candidate, state.set_noise[rows])
            is_commit = state.record_set_(rows, drawn_set, rule.inputs(score))
        else:
            is_commit = rule.select(score, is_candidate, state.row_bound[rows])
        check_commit(rule, is_commit, is_candidate)
        state.commit_(rows, is_commit, token, logp)
        rows = torch.cat([ahead, state.finish_call_(rows)])
    return state.rollout()


def on_grid(values: Shaped[Tensor, "M *S"], where: Bool[Tensor, "b L"]) -> Shaped[Tensor, "b L *S"]:
    """Put the M values where `where` is True, in row-major order, and 0 elsewhere."""
    found = values.new_zeros((*where.shape, *values.shape[1:]))
    found[where] = values
    return found


def check_takes_bounds(decoding: Decoding) -> None:
    """Raise ValueError where bounds of rows cannot take the place of the rule's."""
    reason = None if isinstance(decoding.rule, EntropyBound | CommitRisk) else f"{decoding.rule} has none"
    if decoding.controller is not None:
        reason = "a controller chooses them, too"
    if reason:
        raise ValueError(f"bounds are given for rows, but {reason}")


def check_commit(rule: Rule | HiddenRule, is_commit: Bool[Tensor, "b L"], is_candidate: Bool[Tensor, "b L"]) -> None:
    """Raise UserError for a rule that commits nothing in a row, which would never end, or what is no candidate."""
    if not bool(is_commit.any(dim=1).all()):
        raise UserError(
            f"the rule {rule} commits no position of a row that has masked ones; let it commit at least one"
        )
    if bool((is_commit & ~is_candidate).any()):
        raise UserError(f"the rule {rule} commits a position that is no candidate; let it choose among `is_candidate`")


def arrival_order(prompt_mask: Bool[Tensor, "B P"], capacity: int) -> Int[Tensor, " B"]:
    """Return the rows in the order in which they are decoded.

    Where not all fit at once, long prompts come first: little is padded then, and no long one is left for the end.
    """
    if capacity >= len(prompt_mask):
        return torch.arange(len(prompt_mask), device=prompt_mask.device)
    return prompt_mask.sum(dim=1).argsort(descending=True, stable=True)
