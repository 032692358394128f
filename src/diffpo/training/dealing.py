"""Which rows of a batch each process draws, so that none has much more to compute than the others."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffpo.core.rollout import Rollout
from diffpo.distributed.collectives import all_gather_columns, raise_on_all_ranks
from diffpo.distributed.process import current_process, rank_slice
from diffpo.models.encoding import encode_prompts
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.loop import decode_
from diffpo.sampling.policy import Policy
from diffpo.sampling.state import fully_masked
from diffpo.tasks.base import Problem


def dealt_evenly(cost: Float[Tensor, " Q"], size: int) -> Int[Tensor, " Q"]:
    """Return an order of Q groups whose equal slices, one for each of `size` processes, have nearly equal costs.

    The groups are sorted by what they are expected to cost and dealt forth and back, so only their ranks matter. Q must
    be a multiple of `size`.
    """
    turn = torch.arange(len(cost))
    lap, place = turn // size, turn % size
    process = torch.where(lap % 2 == 0, place, size - 1 - place)
    return cost.argsort(descending=True, stable=True).cpu()[process.argsort(stable=True)]


def dealt_by_canvas(canvas: Int[Tensor, "b N"], cost: Float[Tensor, " b"], size: int) -> Int[Tensor, " b"]:
    """Return which of `size` processes goes on with each row, so that their costs are nearly equal.

    Rows of one canvas stay together: its call is made once for all of them, and counts once. The dearest canvas comes
    first, and each goes to the process that has the least so far. The costs of equal canvases must be equal.
    """
    distinct, which = canvas.unique(dim=0, return_inverse=True)
    total = cost.new_zeros(len(distinct)).scatter(0, which, cost)
    load, owner = [0.0] * size, torch.zeros(len(distinct), dtype=torch.long)
    for index in total.argsort(descending=True, stable=True).tolist():
        process = min(range(size), key=load.__getitem__)
        owner[index] = process
        load[process] += float(total[index])
    return owner[which]


def can_deal_anew(decoding: Decoding, num_rows: int) -> bool:
    """Return whether rows may go from one process to another between two calls.

    All of a process's `num_rows` rows must be in flight, and no cache may remember them. A batch of one row for each
    process cannot be levelled.
    """
    are_in_flight = decoding.max_in_flight is None or decoding.max_in_flight >= num_rows
    return current_process().world_size > 1 and num_rows > 1 and decoding.cache == "none" and are_in_flight


def draw_dealt_anew(
    policy: Policy,
    problems: Sequence[Problem],
    decoding: Decoding,
    seeds: Int[Tensor, " B"],
    group_size: int,
    row_bound: Float[Tensor, " B"] | None = None,
) -> tuple[Rollout, list[int]]:
    """Draw completions of the problems; return those of this process's slice, and the tokens that it computed.

    What a completion takes shows while it is decoded. So after calls 1, 2, 4, 8, ... all processes learn how far all
    rows are, and those that go on are dealt anew by the masks that are left. A completion depends on its prompt and its
    seed alone, whoever goes on with it. Tokens are counted between two deals, where processes wait for each other. All
    must call this together.
    """
    process, own = current_process(), rank_slice(len(problems), group_size)
    every = torch.arange(len(problems), device=policy.device)
    with raise_on_all_ranks():
        prompt_ids, prompt_mask = encode_prompts(policy.tokenizer, [problem.conversation for problem in problems])
        prompts = prompt_ids[own].to(policy.device), prompt_mask[own].to(policy.device)
        denoiser, bounds = policy.denoiser, None if row_bound is None else row_bound[own]
        state = fully_masked(*prompts, denoiser.mask_id, denoiser.stop_ids, decoding, seeds[own], bounds)
    home = every // len(every[own])  # where a row is when it is done: slices are equal
    rows, until, spent = every[own], 1, list[int]()
    while True:
        before = policy.denoiser.usage.tokens
        with raise_on_all_ranks():
            decode_(policy.denoiser, state, decoding, until=until)
        spent.append(policy.denoiser.usage.tokens - before)
        found = all_gather_columns(state.columns() | {"row": rows})
        order = found.pop("row").argsort()
        state = state.with_columns({name: column[order] for name, column in found.items()})
        is_open = state.is_open(every)
        if not bool(is_open.any()):
            return state.kept(every[own]).rollout(), spent
        owner, left = home.clone(), state.is_masked(every[is_open]).sum(dim=1).float()
        canvas = state.canvas(every[is_open])
        owner[is_open] = dealt_by_canvas(canvas.cpu(), left.cpu(), process.world_size).to(owner)
        rows = every[owner == process.rank]
        state, until = state.kept(rows), 2 * until


def idle_share(tokens: Sequence[Sequence[int]]) -> float:
    """Return the share of their time in which processes wait for each other, by the tokens that each has computed.

    `tokens` are those of each process, from one time at which all wait to the next.
    """
    longest = sum(max(between) for between in zip(*tokens, strict=True))
    return 1 - sum(map(sum, tokens)) / (len(tokens) * longest) if longest else 0.0
