"""The benchmarks: what is counted is counted exactly, and a side that does something else gets no ratio."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.plain import llada_logits
from torch import Tensor

from diffpo.bench import harness, identity, plain, rollouts
from diffpo.bench.harness import Bench, Case, Goal, Measurement, measure
from diffpo.bench.meter import Meter
from diffpo.bench.rollouts import cache_case, masked_rows, rollout_case
from diffpo.bench.run import BENCHES, chosen, run_bench
from diffpo.bench.shapes import body_flops, random_denoiser, random_prompts
from diffpo.cli.main import main
from diffpo.core.errors import UserError
from diffpo.core.rollout import Rollout
from diffpo.models.kv_cache import Window
from diffpo.sampling.categorical import row_noise
from diffpo.sampling.rules import ConfidenceThreshold, EntropyBound, LowConfidence, Rule

VOCAB, BLOCK, LENGTH = 24, 4, 8
SHAPE: dict[str, Any] = {"d_model": 32, "n_layers": 2, "n_heads": 4, "mlp_hidden_size": 48, "initializer_range": 0.6}
KEEPS: list[tuple[plain.Keep, Rule]] = [
    (plain.top_k(1), LowConfidence(1)),
    (plain.top_k(3), LowConfidence(3)),
    (plain.threshold(0.3), ConfidenceThreshold(0.3)),
    (plain.entropy_bound(1.5), EntropyBound(1.5)),
]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts, "BLOCK", BLOCK)


def small_case(keep: plain.Keep, rule: Rule, temperature: float = 0.0, **options: Any) -> Case:
    denoiser = random_denoiser(VOCAB, **SHAPE)
    return rollout_case(denoiser, random_prompts(VOCAB, [6, 6, 6]), LENGTH, keep, rule, temperature, **options)


def of(case: Case, rounds: int = 0, **goals: Goal) -> dict[str, Measurement]:
    return {m.name.partition("/")[2]: m for m in measure(Bench("x", "", lambda: case, goals), rounds)}


# -------------------------------------------------------------------------------------------------------------- counts


def test_the_plain_reference_projects_every_row_and_the_sampler_what_it_needs() -> None:
    found = of(small_case(plain.top_k(1), LowConfidence(1)))["tokens"].counts
    calls, canvas = LENGTH, 6 + LENGTH
    assert found["plain"]["tokens"] == found["plain"]["head_rows"] == 3 * calls * canvas
    assert found["own"]["tokens"] == 3 * calls * canvas
    assert found["own"]["head_rows"] == 3 * 2 * (4 + 3 + 2 + 1)
    assert found["plain"]["calls"] == found["own"]["calls"] == calls


def test_rows_that_are_done_cost_nothing() -> None:
    case = small_case(plain.threshold(0.9), ConfidenceThreshold(0.9))
    nfe = case.own().nfe
    found = of(case)["tokens"].counts
    assert len(set(nfe.tolist())) > 1
    assert found["own"]["tokens"] == int(nfe.sum()) * (6 + LENGTH)
    assert found["plain"]["tokens"] == 3 * found["plain"]["calls"] * (6 + LENGTH)
    assert found["plain"]["calls"] >= found["own"]["calls"] == int(nfe.max())


def test_continuous_batching_shows_what_each_answer_needs_and_no_more() -> None:
    denoiser = random_denoiser(VOCAB, tuple(range(4)), **SHAPE)
    prompts = random_prompts(VOCAB, [6] * 12)
    case = rollout_case(denoiser, prompts, LENGTH, plain.top_k(2), LowConfidence(2), max_in_flight=3)
    found = of(case)["tokens"].counts
    nfe = case.own().nfe.tolist()
    assert len(set(nfe)) > 1
    assert found["own"]["tokens"] == sum(nfe) * (6 + LENGTH)
    free = [0, 0, 0]
    for calls in nfe:  # an answer starts where a row is free first
        free[free.index(min(free))] += calls
    assert found["own"]["calls"] == max(free)


@torch.no_grad()
def test_the_meter_counts_by_the_operators() -> None:
    model = random_denoiser(VOCAB, **SHAPE).model
    head = model.get_output_embeddings().weight
    with Meter(model) as meter:
        model(torch.zeros(2, 5, dtype=torch.long))
    assert (meter.tokens, meter.head_rows) == (10, 10)
    with Meter(model) as meter:
        torch.nn.functional.linear(torch.ones(6, 32), head[:12])
        head[12:] @ torch.ones(32, 6)
        torch.ones(6, 32) @ torch.ones(32, VOCAB)
    assert meter.head_rows == 6, "parts of the head count as parts, other matrices not"


def test_the_meter_sees_the_most_that_was_alive() -> None:
    model = random_denoiser(VOCAB, **SHAPE).model
    outside = torch.ones(1000)
    with Meter(model) as meter:
        a = torch.ones(1000)
        b = a + outside
        del a
        b.add_(1)
        c = b.view(10, 100) * 2
        del b, c
    assert meter.peak_bytes == 2 * 4000


def test_the_floor_by_hand() -> None:
    config = random_denoiser(VOCAB, **SHAPE).model.config
    matrices = 4 * 32 * 32 + 3 * 32 * 48
    assert body_flops(config, 3, 14) == 2 * 3 * (14 * 2 * matrices + 2 * 14 * 14 * 2 * 32)
    assert masked_rows(torch.tensor([0, 1, 1, 2, 3, 3, 3, 3])) == (4 + 3 + 1) + 4


def test_a_cache_is_counted_and_compared_where_it_must_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    case = cache_case(random_denoiser(VOCAB, **SHAPE), random_prompts(VOCAB, [6, 4]), LENGTH, 2, "dual")
    found = of(case)
    counts, canvas = found["tokens"].counts, 6 + LENGTH
    assert counts["plain"]["tokens"] == 4 * 2 * canvas
    assert counts["own"]["tokens"] == 2 * (2 * canvas + 2 * BLOCK)
    assert 0 <= counts["agreement"] < 1
    assert 0 < counts["mismatch_mean"] < counts["mismatch_p95"] <= counts["mismatch_p99"]
    update = Window.update
    monkeypatch.setattr(Window, "update", lambda self, layer, k, v: update(self, layer, k.roll(1, dims=2), v))
    (refused,) = measure(Bench("x", "", lambda: case), 0)
    assert "tokens differ" in refused.difference


# ------------------------------------------------------------------------------------------------------------ identity


@pytest.mark.parametrize("prompt_lengths", [[6, 6, 6], [2, 6, 4]])
@torch.no_grad()
def test_the_plain_network_is_that_of_the_description(prompt_lengths: list[int]) -> None:
    model = random_denoiser(VOCAB, **SHAPE, n_kv_heads=2).model
    ids, visible = random_prompts(VOCAB, prompt_lengths)
    found = plain.logits_of(model, ids, visible)
    for row, length in enumerate(prompt_lengths):
        expected = llada_logits(model.state_dict(), model.config.to_dict(), ids[row, -length:].tolist())
        torch.testing.assert_close(found[row, -length:], expected.float(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("keep", "rule"), KEEPS, ids=[str(rule) for _, rule in KEEPS])
def test_the_sampler_and_the_plain_one_give_the_same_tokens(keep: plain.Keep, rule: Rule) -> None:
    case = small_case(keep, rule)
    tokens = case.plain()
    assert case.difference(tokens, case.own()) == ""
    assert len(set(tokens.flatten().tolist())) > 4
    tokens[1, 2] += 1
    assert "row 1 at position 2" in case.difference(tokens, case.own())


def test_gumbels_noise_draws_from_the_distribution() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    generator = torch.Generator().manual_seed(0)
    drawn = plain.gumbel(logits.expand(20_000, 4), 0.7, generator).argmax(dim=-1)
    assert identity.distribution_difference(logits[None], drawn[:, None], 0.7) == ""
    assert identity.distribution_difference(logits[None], drawn[:, None], 1.0) != ""


def test_chi_square_by_hand() -> None:
    # (12 - 10)^2 / 10 + (8 - 10)^2 / 10 = 0.8 with one degree of freedom: p = erfc(sqrt(0.4)).
    assert identity.chi_square_p([12, 8], [10.0, 10.0]) == pytest.approx(0.3711, abs=1e-4)
    assert identity.chi_square_p([20, 1], [20.0, 0.0]) == 0


def test_gaps_are_relative_to_the_largest_value() -> None:
    expected = torch.tensor([0.0, 100.0])
    assert identity.gap_difference("gradient", expected, expected + 0.009, 1e-4) == ""
    assert "gradient differs by 1.1e-04" in identity.gap_difference("gradient", expected, expected + 0.011, 1e-4)


def wrong_token(rollout: Rollout) -> Rollout:
    ids = rollout.completion_ids.clone()
    ids[0, 0] = (ids[0, 0] + 1) % (VOCAB - 1)
    return replace(rollout, completion_ids=ids)


def test_a_side_that_does_something_else_gets_no_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    case = small_case(plain.top_k(1), LowConfidence(1))
    broken = replace(case, own=lambda: wrong_token(case.own()))
    monkeypatch.setattr(harness, "_timed", None)  # it must not even be timed
    (found,) = measure(Bench("x", "", lambda: broken, {"cpu": Goal(1.0)}), 5)
    assert found.line().startswith("x") and "refused: 1 of 24 tokens differ" in found.line()
    record = found.record()
    assert record["identity"] is False and record["goal"] == 1.0
    assert record["ratio_median"] is record["ratio_min"] is record["ratio_max"] is None


@pytest.mark.parametrize("spoil", [lambda u: u * 0.9, lambda u: u**2], ids=["cut", "bent"])
def test_draws_that_do_not_follow_the_distribution_get_no_ratio(
    spoil: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = small_case(plain.top_k(1), LowConfidence(1), temperature=1.0)
    assert "refused" not in of(case)["tokens"].line()
    monkeypatch.setattr(rollouts, "DRAWS", 2048)
    monkeypatch.setattr("diffpo.sampling.categorical.row_noise", lambda seeds, count: spoil(row_noise(seeds, count)))
    (found,) = of(case).values()
    assert "do not follow the plain distribution" in found.line()


# ------------------------------------------------------------------------------------------------------------- records


def test_ratios_are_plain_over_own_of_each_round(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    model = random_denoiser(VOCAB, **SHAPE).model
    case = Case(model, lambda: order.append("A"), lambda: order.append("B"), lambda *_: "", lambda _: 10.0)
    clock = iter([(8.0, 9.0), (2.0, 1.0), (3.0, 3.0), (1.0, 1.0), (5.0, 5.0), (1.0, 5.0)])

    def seconds(run: Callable[[], Any]) -> tuple[float, float]:
        run()
        return next(clock)

    monkeypatch.setattr(harness, "seconds", seconds)
    monkeypatch.setattr(harness, "matmul_rate", lambda: 20.0)
    found = of(case, 3, cpu=Goal(4.1), floor=Goal(2.5, "at most"))
    assert "".join(order) == "AB" + "ABABAB"
    assert found["cpu"].ratios == (4.0, 3.0, 5.0) and found["wall"].ratios == (9.0, 3.0, 1.0)
    assert found["floor"].ratios == (4.0, 2.0, 2.0)
    assert (found["cpu"].is_met, found["floor"].is_met, found["wall"].is_met) == (False, True, None)
    assert "4.00  (3.00 to 5.00)" in found["cpu"].line() and found["cpu"].line().endswith("MISSED")


def test_the_records_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Bench("small", "one", lambda: small_case(plain.top_k(1), LowConfidence(1)), {"cpu": Goal(0.01)})
    monkeypatch.setattr("diffpo.bench.run.BENCHES", (small,))
    monkeypatch.setattr("diffpo.bench.run.chosen", lambda names: [small])
    file = tmp_path / "bench.json"
    run_bench((), 2, file, lambda _: None)
    records = {record["name"]: record for record in json.loads(file.read_text())}
    keys = {"name", "ratio_median", "ratio_min", "ratio_max", "rounds", "identity", "goal", "goal_is", "counts"}
    assert all(record.keys() == keys for record in records.values())
    cpu = records["small/cpu"]
    assert (cpu["rounds"], cpu["identity"], cpu["goal"], cpu["goal_is"]) == (2, True, 0.01, "at least")
    assert cpu["ratio_min"] <= cpu["ratio_median"] <= cpu["ratio_max"]
    assert {"small/cpu", "small/wall", "small/floor", "small/tokens", "small/head_rows"} <= records.keys()


def test_benches_are_chosen_by_what_their_names_begin_with() -> None:
    assert {bench.name for bench in chosen(["rollout-v512"])} == {"rollout-v512-t0", "rollout-v512-t1"}
    assert chosen([]) == list(BENCHES)
    with pytest.raises(
        UserError, match=r"no benchmark is called rolout; did you mean 'rollout'\?; diffpo bench --list"
    ):
        chosen(["rollout", "rolout"])
    assert len({bench.name for bench in BENCHES}) == len(BENCHES)


def test_the_verb(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as left:
        main(["bench", "--list"])
    assert left.value.code == 0 and "threshold-batch8" in capsys.readouterr().out
    case = small_case(plain.top_k(1), LowConfidence(1))
    broken = Bench("bad", "", lambda: replace(case, own=lambda: wrong_token(case.own())))
    monkeypatch.setattr("diffpo.bench.run.chosen", lambda names: [broken])
    with pytest.raises(SystemExit) as left:
        main(["bench", "--rounds", "0", "--json", str(tmp_path / "b.json")])
    assert left.value.code == 1 and "refused" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        main(["bench", "--rounds", "0", "--json", str(tmp_path / "b.json" / "b.json")])
    assert left.value.code == 2
