"""The updates' benchmarks: what sharing saves is counted, and a side that does something else gets no ratio."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.helpers.plain import llada_logits
from torch import Tensor

from diffpo.bench import update_sides, updates
from diffpo.bench.harness import Bench, Case, Measurement, measure
from diffpo.bench.plain_loss import mean_field_logp, two_times_mean_field_logp
from diffpo.bench.shapes import random_denoiser
from diffpo.core.canvas import canvas_at
from diffpo.likelihood import TwoTimesMeanField
from diffpo.models import lm_head as heads

VOCAB, PROMPT, LENGTH, BLOCK = 24, 5, 16, 8
SHAPE: dict[str, Any] = {"d_model": 32, "n_layers": 2, "n_heads": 4, "mlp_hidden_size": 48, "initializer_range": 0.6}


@pytest.fixture(autouse=True)
def small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updates, "random_denoiser", lambda vocabulary: random_denoiser(vocabulary, **SHAPE))


def small(is_two_times: bool, prompts: int = 2, group: int = 4) -> Case:
    return updates.update_case(VOCAB, prompts, group, PROMPT, LENGTH, BLOCK, is_two_times)


def of(case: Case, rounds: int = 0) -> dict[str, Measurement]:
    return {m.name.partition("/")[2]: m for m in measure(Bench("x", "", lambda: case), rounds)}


def by_hand(logits: Tensor, mask_id: int, token: int) -> Tensor:
    """log p of one token at update_sides.TEMPERATURE, the mask token left out."""
    ids = [other for other in range(len(logits)) if other != mask_id]
    return (logits[ids] / update_sides.TEMPERATURE).log_softmax(dim=-1)[ids.index(token)]


def test_the_plain_losses_are_those_of_the_description() -> None:
    denoiser = random_denoiser(VOCAB, **SHAPE)
    weights, config = denoiser.model.state_dict(), denoiser.model.config.to_dict()
    rollout = update_sides.random_batch(VOCAB, 2, 2, PROMPT, LENGTH, BLOCK).rollout
    boundary = torch.tensor([0, 1, 2, 3])
    given = (denoiser.model, denoiser.mask_id, rollout.prompt_ids, rollout.prompt_mask, rollout.completion_ids)
    early = mean_field_logp(*given, update_sides.TEMPERATURE)
    both = two_times_mean_field_logp(*given, rollout.unmask_step, boundary, update_sides.TEMPERATURE)
    for row in range(4):
        for position in range(LENGTH):
            steps = [0, int(boundary[row])] if rollout.unmask_step[row, position] >= boundary[row] else [0, 0]
            for step, found in zip(steps, (early, both), strict=True):
                canvas = canvas_at(rollout, step, denoiser.mask_id)[row].tolist()
                token = int(rollout.completion_ids[row, position])
                expected = by_hand(llada_logits(weights, config, canvas)[PROMPT + position], denoiser.mask_id, token)
                assert float(found[row, position].detach()) == pytest.approx(float(expected), abs=1e-4)


def test_a_groups_shared_forwards_are_counted() -> None:
    assert of(small(False))["tokens"].ratios == (4.0,)
    assert of(small(False, group=8))["tokens"].ratios == (8.0,)
    rollout = update_sides.random_batch(VOCAB, 2, 4, PROMPT, LENGTH, BLOCK).rollout
    boundary = TwoTimesMeanField().draw(rollout, torch.Generator().manual_seed(2))
    own = 2 + int((boundary > 0).sum())  # a fully masked one for each prompt, and that of the boundary
    assert own > 2 and of(small(True))["tokens"].ratios == (16 / own,)
    counts = of(small(False))["tokens"].counts
    assert counts["own"]["tokens"] == 2 * (PROMPT + LENGTH)


def test_the_loss_without_logits_holds_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffpo.models.denoiser.FULL_LOGITS_MAX_VOCAB", 0)
    monkeypatch.setitem(heads.CHUNK, "cpu", 1)
    found = of(updates.loss_case(2000, 6, 1, PROMPT, LENGTH, BLOCK))
    assert found["peak_bytes"].ratios[0] > 3
    assert found["head_rows"].counts["own"]["head_rows"] == pytest.approx(2 * 6 * LENGTH, rel=1e-3)


@pytest.mark.parametrize("is_two_times", [False, True])
def test_both_sides_do_the_same(is_two_times: bool) -> None:
    case = small(is_two_times)
    assert case.difference(case.plain(), case.own()) == ""


@pytest.mark.parametrize("spoil", ["loss", "gradient", "logp"])
def test_a_side_that_does_something_else_gets_no_ratio(spoil: str) -> None:
    case = updates.loss_case(VOCAB, 2, 1, PROMPT, LENGTH, BLOCK)

    def broken() -> Any:
        found = case.own()
        value = getattr(found, spoil)
        return replace(found, **{spoil: value * 1.01})

    (found,) = of(replace(case, own=broken)).values()
    assert "refused" in found.line() and found.record()["identity"] is False


def test_the_peak_of_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = {"body": 100.0, "plain": 1000.0, "own": 150.0}
    monkeypatch.setattr(updates, "peak_of", peaks.__getitem__)
    assert updates.process_ratios() == {"process_peak": 1000 / 150, "process_above_body": 900 / 50}
    peaks["own"] = 90.0  # no difference is believed below the resolution
    assert updates.process_ratios()["process_above_body"] == 900 / 16
