"""The benchmarks of updates: losses and their gradients against the plain ones."""

from collections.abc import Mapping

import torch

from diffpo.bench.harness import Bench, Case, Goal
from diffpo.bench.memory import peak_of
from diffpo.bench.meter import Number
from diffpo.bench.shapes import BLOCK, COMPLETION, PROMPT, body_flops, head_flops, random_denoiser
from diffpo.bench.update_sides import (
    LOSS_SHAPE,
    FixedDraw,
    difference,
    freeze_head_,
    own_loss,
    own_update,
    plain_side,
    random_batch,
)
from diffpo.likelihood import MeanField, TwoTimesMeanField

RESOLUTION = 16.0
"""MiB by which the peaks of two processes that do the same may differ: a smaller difference counts as this."""


def loss_case(
    vocabulary: int, prompts: int, group: int, prompt_length: int, length: int, block: int, has_peaks: bool = False
) -> Case:
    """Return a case of the loss; with `has_peaks` the peaks of whole processes are compared, too."""
    denoiser = freeze_head_(random_denoiser(vocabulary))
    batch = random_batch(vocabulary, prompts, group, prompt_length, length, block)
    config, rows = denoiser.model.config, len(batch.rollout)
    flops = 3 * body_flops(config, rows, prompt_length + length) + 2 * head_flops(config, rows * length)
    return Case(
        denoiser.model,
        lambda: plain_side(denoiser, batch),
        lambda: own_loss(denoiser, batch),
        difference,
        lambda _: flops,
        lambda _result, _counts: process_ratios() if has_peaks else {},
    )


def process_ratios() -> Mapping[str, Number]:
    """Return the ratios of plain to own of the process's peak, and of its part above that of the blocks alone."""
    body, plain, own = (peak_of(side) for side in ("body", "plain", "own"))
    return {"process_peak": plain / own, "process_above_body": (plain - body) / max(own - body, RESOLUTION)}


def update_case(
    vocabulary: int, prompts: int, group: int, prompt_length: int, length: int, block: int, is_two_times: bool
) -> Case:
    """Return a case of a whole update, with the mean-field or the 2-MF estimator."""
    denoiser = freeze_head_(random_denoiser(vocabulary))
    batch = random_batch(vocabulary, prompts, group, prompt_length, length, block)
    if is_two_times:
        boundary = TwoTimesMeanField().draw(batch.rollout, torch.Generator().manual_seed(2))
        estimator = FixedDraw(TwoTimesMeanField(), boundary)
        plain = lambda: plain_side(denoiser, batch, boundary)  # noqa: E731
    else:
        estimator = FixedDraw(MeanField(prompt_mask_rate=0.0), torch.zeros_like(batch.rollout.prompt_mask))
        plain = lambda: plain_side(denoiser, batch)  # noqa: E731
    return Case(denoiser.model, plain, lambda: own_update(denoiser, batch, estimator), difference)


UPDATES: tuple[Bench, ...] = (
    Bench(
        "loss-v126464",
        "V 126464, batch 8, mean-field loss and backward, frozen head; above_body: without what the blocks take",
        lambda: loss_case(*LOSS_SHAPE, has_peaks=True),
        {"cpu": Goal(1.5), "process_peak": Goal(6.0), "process_above_body": Goal(12.0)},
    ),
    Bench(
        "update-mean-field-g8",
        "V 512, 2 prompts of 8 completions, no prompt masking; plain: a forward for each completion",
        lambda: update_case(512, 2, 8, PROMPT, COMPLETION, BLOCK, is_two_times=False),
        {"cpu": Goal(6.8)},
    ),
    Bench(
        "update-2mf-g8",
        "V 512, 2 prompts of 8 completions; plain: two forwards for each completion",
        lambda: update_case(512, 2, 8, PROMPT, COMPLETION, BLOCK, is_two_times=True),
        {"cpu": Goal(1.7)},
    ),
)
