"""The benchmarks of rollouts: the sampler against the plain one, and with a cache against without."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from diffpo.bench import plain
from diffpo.bench.harness import Bench, Case, Goal
from diffpo.bench.identity import distribution_difference, token_difference
from diffpo.bench.meter import Number
from diffpo.bench.shapes import BLOCK, COMPLETION, PROMPT, body_flops, head_flops, random_denoiser, random_prompts
from diffpo.core.canvas import completion_mask, full_attention_mask
from diffpo.core.options import CacheKind
from diffpo.core.rollout import Rollout
from diffpo.likelihood.mismatch import distance, uncached_logp
from diffpo.models.denoiser import ModelDenoiser
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.loop import sample
from diffpo.sampling.rules import ConfidenceThreshold, EntropyBound, LowConfidence, Rule, TopK

CANVAS = PROMPT + COMPLETION
DRAWS = 64
"""Rows of one call whose tokens are tested against the distribution."""


def rollout_case(
    denoiser: ModelDenoiser,
    prompts: tuple[Tensor, Tensor],
    length: int,
    keep: plain.Keep,
    rule: Rule,
    temperature: float = 0.0,
    **options: Any,
) -> Case:
    """Return a case with the same prompts, rule and temperature on both sides.

    Every call of the plain side has all rows. `options` are further fields of the own side's `Decoding`.
    """
    reference = plain.PlainSampler(
        denoiser.model, denoiser.mask_id, length, BLOCK, keep, temperature, isinstance(rule, EntropyBound)
    )
    seeds = torch.arange(len(prompts[0]))

    def own(temperature: float = temperature) -> Rollout:
        return sample(denoiser, *prompts, Decoding(rule, length, BLOCK, temperature, **options), seeds)

    def difference(expected: Tensor, found: Rollout) -> str:
        if temperature == 0:
            counts = completion_mask(found.completion_ids, denoiser.stop_ids)
            return token_difference(expected, found.completion_ids, counts)
        greedy = plain.PlainSampler(denoiser.model, denoiser.mask_id, length, BLOCK, keep)(*prompts)
        return difference_of_draws(denoiser, prompts, temperature) or token_difference(greedy, own(0.0).completion_ids)

    def flops(rollout: Rollout) -> float:
        work = 0.0
        visible = full_attention_mask(prompts[1], length).sum(dim=1)
        for row in range(len(rollout)):
            calls = int(rollout.nfe[row])
            work += calls * body_flops(denoiser.model.config, 1, int(visible[row]))
            work += head_flops(denoiser.model.config, masked_rows(rollout.unmask_step[row]))
        return work

    return Case(denoiser.model, lambda: reference(*prompts), own, difference, flops)


def masked_rows(unmask_step: Tensor) -> int:
    """Return how many hidden states of one row the rule needed: at each call, those masked in the current block."""
    rows = 0
    for block in unmask_step.view(-1, BLOCK):
        first, last = int(block.min()), int(block.max())
        rows += sum(int((block >= step).sum()) for step in range(first, last + 1))
    return rows


@torch.no_grad()
def difference_of_draws(denoiser: ModelDenoiser, prompts: tuple[Tensor, Tensor], temperature: float) -> str:
    """Draw a whole block in one call, in many rows, and test the draws against the plain reference's logits."""
    ids, visible = (part[:1] for part in prompts)
    decoding = Decoding(LowConfidence(BLOCK), BLOCK, BLOCK, temperature)
    seeds = torch.arange(DRAWS) + 1000
    rollout = sample(denoiser, ids.expand(DRAWS, -1), visible.expand(DRAWS, -1), decoding, seeds)
    canvas = torch.nn.functional.pad(ids, (0, BLOCK), value=denoiser.mask_id)
    logits = plain.logits_of(denoiser.model, canvas, full_attention_mask(visible, BLOCK))[0, -BLOCK:]
    logits[:, denoiser.mask_id] = -torch.inf
    return distribution_difference(logits, rollout.completion_ids, temperature)


# ---------------------------------------------------------------------------------------------------------- the benches


def _fixed(vocabulary: int, temperature: float, per_call: int, goals: dict[str, Goal]) -> Bench:
    """Commit a fixed number of tokens a call, in the last block: a call costs the same in any block."""

    def prepare() -> Case:
        denoiser = random_denoiser(vocabulary)
        prompts = random_prompts(vocabulary, [CANVAS - BLOCK])
        return rollout_case(denoiser, prompts, BLOCK, plain.top_k(per_call), LowConfidence(per_call), temperature)

    name = f"rollout-v{vocabulary}-t{temperature:g}"
    what = f"V {vocabulary}, temperature {temperature:g}, {per_call} token(s) a call, the last 32 of {CANVAS} tokens"
    return Bench(name, what, prepare, goals)


def _threshold() -> Bench:
    def prepare() -> Case:
        denoiser = random_denoiser(512)
        prompts = random_prompts(512, [CANVAS - 2 * BLOCK] * 8)
        value = 0.2
        return rollout_case(denoiser, prompts, 2 * BLOCK, plain.threshold(value), ConfidenceThreshold(value))

    what = "V 512, confidence threshold 0.2, batch 8, the last 2 blocks; plain: all rows wait for the slowest"
    return Bench("threshold-batch8", what, prepare, {"tokens": Goal(1.4), "cpu": Goal(1.5)})


def _entropy() -> Bench:
    def prepare() -> Case:
        denoiser = random_denoiser(512)
        prompts = random_prompts(512, [CANVAS - BLOCK] * 4)
        return rollout_case(denoiser, prompts, BLOCK, plain.entropy_bound(2.0), EntropyBound(2.0))

    return Bench("entropy-batch4", "V 512, entropy bound 2, batch 4, the last block", prepare)


def _mixed() -> Bench:
    def prepare() -> Case:
        denoiser = random_denoiser(512)
        prompts = random_prompts(512, [30, 44, 58, 72, 86, 100, 114, 128])
        return rollout_case(denoiser, prompts, COMPLETION, plain.top_k(BLOCK), LowConfidence(BLOCK))

    return Bench("mixed-prompts", "V 512, 8 prompts of 30 to 128 tokens, completion 256, 32 tokens a call", prepare)


def _early() -> Bench:
    def prepare() -> Case:
        denoiser = random_denoiser(512, stop_ids=tuple(range(8)))
        prompts = random_prompts(512, [PROMPT] * 8)
        return rollout_case(denoiser, prompts, COMPLETION, plain.top_k(8), LowConfidence(8))

    return Bench("early-end", "V 512, batch 8, 8 ids of 512 end an answer, 8 tokens a call", prepare)


def _continuous() -> Bench:
    max_in_flight, answers = 16, 256

    def prepare() -> Case:
        denoiser = random_denoiser(512, tuple(range(8)), d_model=64, n_layers=2, mlp_hidden_size=192)
        lengths = torch.randint(30, PROMPT + 1, (answers,), generator=torch.Generator().manual_seed(1)).tolist()
        prompts = random_prompts(512, lengths)
        case = rollout_case(
            denoiser, prompts, COMPLETION, plain.top_k(16), LowConfidence(16), max_in_flight=max_in_flight
        )

        def batches() -> Tensor:
            parts = zip(*(part.split(max_in_flight) for part in prompts), strict=True)
            reference = plain.PlainSampler(denoiser.model, denoiser.mask_id, COMPLETION, BLOCK, plain.top_k(16))
            return torch.cat([reference(*part) for part in parts])

        def counted(rollout: Rollout, counts: Mapping[str, Number]) -> dict[str, Number]:
            useful = int((rollout.nfe * (prompts[1].sum(dim=1) + COMPLETION)).sum())
            return {
                "over_useful": counts["tokens"] / useful,
                "in_flight": max_in_flight * counts["calls"] / int(rollout.nfe.sum()),
            }

        return replace(case, plain=batches, counted=counted)

    what = (
        "256 answers of mixed length, 16 in flight, d 64 x 2 layers, 16 tokens a call; plain: batches of 16 to the end"
    )
    return Bench("continuous", what, prepare, {"over_useful": Goal(1.1, "at most"), "in_flight": Goal(1.1, "at most")})


def cache_case(
    denoiser: ModelDenoiser, prompts: tuple[Tensor, Tensor], length: int, per_call: int, kind: CacheKind
) -> Case:
    """Return a case of the sampler without a cache (plain) and with one (own).

    They must do the same where every call is the first of its block. How far they differ elsewhere is counted.
    """

    def drawn(per_call: int, kind: CacheKind, temperature: float = 0.0) -> Rollout:
        seeds = torch.arange(len(prompts[0]))
        return sample(denoiser, *prompts, Decoding(TopK(per_call), length, BLOCK, temperature, cache=kind), seeds)

    def difference(_expected: Rollout, _found: Rollout) -> str:
        return token_difference(drawn(BLOCK, "none").completion_ids, drawn(BLOCK, kind).completion_ids)

    def counted(rollout: Rollout, _counts: Mapping[str, Number]) -> dict[str, Number]:
        at_one = drawn(per_call, kind, temperature=1.0)
        every = torch.ones_like(at_one.completion_ids, dtype=torch.bool)
        far = distance(uncached_logp(denoiser, at_one, 1.0), at_one.behaviour_logp, every)
        same = (rollout.completion_ids == drawn(per_call, "none").completion_ids).double().mean()
        return {"agreement": float(same), "mismatch_mean": far.mean, "mismatch_p95": far.p95, "mismatch_p99": far.p99}

    return Case(
        denoiser.model, lambda: drawn(per_call, "none"), lambda: drawn(per_call, kind), difference, counted=counted
    )


def _cache(kind: CacheKind, goals: dict[str, Goal]) -> Bench:
    def prepare() -> Case:
        return cache_case(random_denoiser(1024), random_prompts(1024, [PROMPT] * 4), COMPLETION, BLOCK // 8, kind)

    what = f"V 1024, batch 4, 8 calls a block; plain: the same sampler without the {kind} cache"
    return Bench(f"rollout-cache-{kind}", what, prepare, goals)


def _floor(most: float) -> dict[str, Goal]:
    return {"floor": Goal(most, "at most")}


ROLLOUTS: tuple[Bench, ...] = (
    _fixed(512, 0.0, 1, _floor(1.25)),
    _fixed(512, 1.0, 1, _floor(1.25)),
    _fixed(1024, 0.0, 1, _floor(1.25) | {"cpu": Goal(1.2)}),
    _fixed(1024, 1.0, 1, _floor(1.25) | {"cpu": Goal(1.3)}),
    _fixed(126464, 0.0, 4, _floor(2.0) | {"cpu": Goal(6.0)}),
    _fixed(126464, 1.0, 4, _floor(2.0) | {"cpu": Goal(20.0)}),
    _threshold(),
    _entropy(),
    _mixed(),
    _early(),
    _continuous(),
    _cache("dual", {"cpu": Goal(3.0)}),
    _cache("prefix", {}),
)
