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
from diffpo.models.denoiser_output import DenoiserOutput, mean_hidden
from diffpo.sampling.block_cache import BlockCache
from diffpo.sampling.categorical import call_noise, draw_and_score
from diffpo.sampling.commit_rules import CommitRule
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.rules import HiddenRule, Rule
from diffpo.sampling.shared_canvases import SharedCanvases
from diffpo.sampling.state import SamplerState, fully_masked


@dataclass(frozen=True)
class SampledCall:
    """What a denoiser call said of the rows that took part in it."""

    rows: Int[Tensor, " b"]
    is_candidate: Bool[Tensor, "b L"]
    token: Int[Tensor, "b L"]
    """The token drawn at each candidate."""
    score: Float[Tensor, "b L *S"]
    """The rule's scores of the candidates."""


@dataclass(frozen=True)
class CallOutput:
    """What the denoiser has said of the open positions of b rows."""

    output: DenoiserOutput
    index: Int[Tensor, " M"]
    """The output's row of each of the M positions that were asked for; every row of it occurs."""
    is_candidate: Bool[Tensor, "b L"]
    needs_logits: Bool[Tensor, "b L"]
    """The M positions."""


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
    state = fully_masked(prompt_ids, prompt_mask, denoiser.mask_id, denoiser.stop_ids, decoding, seeds, row_bound)
    if start is not None:
        state.start_from_(start)
    decode_(denoiser, state, decoding, has_bounds=row_bound is not None, observe=observe)
    return state.rollout()


@torch.no_grad()
def decode_(
    denoiser: Denoiser,
    state: SamplerState,
    decoding: Decoding,
    *,
    until: int | None = None,
    has_bounds: bool = False,
    observe: Callable[[SampledCall], None] | None = None,
) -> None:
    """Do the denoiser calls of `sample` on a state, from where it is, until no row is open.

    `until`: only up to this call, where all rows are in flight. `has_bounds`: whether rows have bounds of their own.
    """
    batch = len(state.step)
    capacity = decoding.max_in_flight or batch
    attention_mask = full_attention_mask(state.prompt_mask, decoding.length)
    canvases = (
        SharedCanvases(denoiser, attention_mask)
        if decoding.cache == "none"
        else BlockCache.allocate(denoiser, attention_mask, decoding.cache, decoding.block_length, capacity)
    )
    # Equal canvases have as many committed tokens. Rows that wait for those with fewer come to each at the same call.
    is_level = has_bounds and decoding.cache == "none" and capacity >= batch
    waiting = arrival_order(state.prompt_mask, capacity)
    waiting = waiting[state.is_open(waiting)]
    rows = waiting[:0]
    while len(rows) + len(waiting) > 0 and (until is None or int(state.step.max()) < until):
        new_rows, waiting = waiting.tensor_split([capacity - len(rows)])
        rows = torch.cat([rows, new_rows])
        rows, ahead = state.split_by_progress(rows) if is_level else (rows, rows[:0])

        is_candidate, needs_logits = open_positions(state, rows, decoding)
        output, index = canvases.predict(rows, state.canvas(rows), needs_logits, is_candidate)
        call = CallOutput(output, index, is_candidate, needs_logits)
        rows = torch.cat([ahead, take_call_(state, rows, decoding, call, observe)])


def open_positions(
    state: SamplerState, rows: Int[Tensor, " b"], decoding: Decoding
) -> tuple[Bool[Tensor, "b L"], Bool[Tensor, "b L"]]:
    """Return the positions that the next call may commit, and those whose distributions it needs."""
    is_masked = state.is_masked(rows)
    is_candidate = open_block(is_masked, decoding.block_length)
    if decoding.bound_controller is None:
        return is_candidate, is_candidate
    # It looks at the entropies of a whole new completion.
    return is_candidate, is_candidate | (is_masked & (state.step[rows] == 0)[:, None])


def take_call_(
    state: SamplerState,
    rows: Int[Tensor, " b"],
    decoding: Decoding,
    call: CallOutput,
    observe: Callable[[SampledCall], None] | None = None,
) -> Int[Tensor, " a"]:
    """Commit tokens of these rows by what the denoiser has said of them, and return the rows that are not done.

    Rows before their first call come last. Raises UserError as `sample` does.
    """
    rule, controller, length = decoding.deciding_rule, decoding.bound_controller, decoding.length
    # One random number per position serves all calls: a position is drawn for good once. But a rule that looks at
    # the drawn tokens keeps those that came out well, and what it drew and left must be drawn afresh.
    uniform = state.token_noise[rows]
    if not rule.is_exact and decoding.temperature > 0:
        uniform = call_noise(state.seeds[rows], state.step[rows], length).to(rows.device)
    needs_logits, is_candidate = call.needs_logits, call.is_candidate
    drawn = draw_and_score(call.output, call.index, uniform[needs_logits], decoding.temperature, rule)
    token, logp, score = (on_grid(values, needs_logits) for values in drawn)
    if controller is not None:
        new_rows, index = rows[state.step[rows] == 0], call.index
        hidden = None
        if controller.needs_hidden:
            hidden = mean_hidden(call.output, index[len(index) - len(new_rows) * length :].view(-1, length))
        # With a controller the rule is the entropy bound, whose scores are entropies.
        state.choose_bounds_(new_rows, score[len(rows) - len(new_rows) :], hidden, decoding)

    if observe is not None:
        observe(SampledCall(rows, is_candidate, token, score))
    if decoding.explore and isinstance(rule, CommitRule):
        drawn_set = rule.draw(score, is_candidate, state.set_noise[rows])
        is_commit = state.record_set_(rows, drawn_set, rule.inputs(score))
    else:
        is_commit = rule.select(score, is_candidate, state.row_bound[rows])
    check_commit(rule, is_commit, is_candidate)
    state.commit_(rows, is_commit, token, logp)
    return state.finish_call_(rows)


def on_grid(values: Shaped[Tensor, "M *S"], where: Bool[Tensor, "b L"]) -> Shaped[Tensor, "b L *S"]:
    """Put the M values where `where` is True, in row-major order, and 0 elsewhere."""
    found = values.new_zeros((*where.shape, *values.shape[1:]))
    found[where] = values
    return found


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
