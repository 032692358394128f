"""The denoising loop against enumeration: what it records is the law of what it does."""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tests.helpers.oracle import (
    Chooser,
    TableDenoiser,
    capped_sum,
    chi_square_p,
    confidence_threshold,
    entropy_bound,
    keys_of,
    leftmost,
    log_softmax,
    margin,
    rollout_of,
    tiny_llada,
    top_k,
    trajectories,
)
from tests.helpers.sampling import sample_with
from torch import Tensor

from diffpo.core.canvas import canvas_at, completion_mask, full_attention_mask
from diffpo.core.errors import UserError
from diffpo.core.rollout import Rollout
from diffpo.models.denoiser import Denoiser
from diffpo.models.denoiser_output import Logits
from diffpo.sampling import categorical
from diffpo.sampling.categorical import draw_and_score, draw_tokens, round_down_to_float32, row_noise
from diffpo.sampling.controller import Controller, entropy_features
from diffpo.sampling.rules import (
    CappedSum,
    ConfidenceThreshold,
    EntropyBound,
    Leftmost,
    LowConfidence,
    Margin,
    Rule,
    TopK,
    best,
    entropy,
)

PROMPT = 3
TABLE = TableDenoiser(width=5, scale=1.5)
EXACT_RULES: list[tuple[Rule, Chooser]] = [
    (EntropyBound(0.0), entropy_bound(0.0)),
    (EntropyBound(0.6), entropy_bound(0.6)),
    (EntropyBound(1.2), entropy_bound(1.2)),
    (EntropyBound(math.inf), entropy_bound(math.inf)),
    (EntropyBound(1.2, subtract_max=False), entropy_bound(1.2, subtract_max=False)),
    (CappedSum(1.2, 0.6), capped_sum(1.2, 0.6)),
    (ConfidenceThreshold(0.7), confidence_threshold(0.7)),
    (Margin(0.6), margin(0.6)),
    (Leftmost(1), leftmost(1)),
    (Leftmost(3), leftmost(3)),
    (TopK(1), top_k(1)),
    (TopK(3), top_k(3)),
]
RULE_NAMES = [str(rule) for rule, _ in EXACT_RULES]


def draw(rule: Rule, rows: int, denoiser: Denoiser = TABLE, *, first_seed: int = 0, **options: Any) -> Rollout:
    """Completions of length 4 of the one-token prompt, temperature 1 unless told."""
    prompt = torch.full((rows, 1), PROMPT)
    settings: dict[str, Any] = {"length": 4, "block_length": 4, "temperature": 1.0} | options
    seeds = torch.arange(first_seed, first_seed + rows)
    return sample_with(denoiser, prompt, torch.ones_like(prompt, dtype=torch.bool), rule=rule, seeds=seeds, **settings)


# --------------------------------------------------------------------------------------------------- (a) enumeration


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(("block_length", "stop_ids"), [(4, ()), (2, ()), (4, (2,)), (2, (2,))])
@pytest.mark.parametrize(("rule", "choose"), EXACT_RULES, ids=RULE_NAMES)
def test_recorded_logp_is_the_law_of_the_trajectory(
    rule: Rule, choose: Chooser, block_length: int, stop_ids: tuple[int, ...], temperature: float
) -> None:
    known = trajectories(TABLE, [PROMPT], 4, block_length, choose, temperature, stop_ids)
    assert sum(t.probability for t in known.values()) == pytest.approx(1, abs=1e-9)

    rollout = draw(rule, 1500, block_length=block_length, temperature=temperature, stop_ids=stop_ids)
    keys = keys_of(rollout)
    expected = torch.tensor([known[key].token_logp for key in keys])
    torch.testing.assert_close(rollout.behaviour_logp, expected, atol=1e-5, rtol=1e-5)
    assert rollout.is_drawn.tolist() == [list(known[key].is_drawn) for key in keys]
    probability = {key: trajectory.probability for key, trajectory in known.items()}
    assert chi_square_p(Counter(keys), probability) > 1e-3


@pytest.mark.parametrize("block_length", [4, 2])
@pytest.mark.parametrize("rule", [rule for rule, _ in EXACT_RULES], ids=str)
def test_greedy_takes_the_best_token_at_no_probability(rule: Rule, block_length: int) -> None:
    rollout = draw(rule, 3, temperature=0.0, block_length=block_length)
    (likely,) = set(keys_of(rollout))
    canvas = [PROMPT, *[TABLE.mask_id] * 4]
    for step in range(int(rollout.nfe[0])):
        committed = [i for i in range(4) if likely[1][i] == step]
        for i in committed:
            logp = TABLE.logp(canvas, 1 + i)
            assert likely[0][i] == logp.index(max(logp))
        for i in committed:
            canvas[1 + i] = likely[0][i]
    assert not rollout.behaviour_logp.any()


def test_all_positions_and_seeds_draw_independently() -> None:
    noise = row_noise(torch.arange(4000), 3)
    assert torch.corrcoef(noise.T).fill_diagonal_(0).abs().max() < 0.06
    assert torch.corrcoef(torch.stack([noise[1:, 0], noise[:-1, 0]]))[0, 1].abs() < 0.06
    assert torch.equal(noise[5:6], row_noise(torch.tensor([5]), 3))


def test_tokens_are_drawn_by_inverse_cdf() -> None:
    # Probabilities .2, 0, .5, .3 (the mask has none): the CDF steps at .2, .7 and 1.
    logits = torch.tensor([[0.2, 0.0, 0.5, 0.3]]).log().clamp(min=-1e30)
    uniform = torch.tensor([0.0, 0.19, 0.21, 0.69, 0.71, 1 - 2**-24])
    token, logp = draw_tokens(logits.expand(6, 4), uniform, 1.0)
    assert token.tolist() == [0, 0, 2, 2, 3, 3]
    torch.testing.assert_close(logp.exp(), torch.tensor([0.2, 0.2, 0.5, 0.5, 0.3, 0.3]))
    token, _ = draw_tokens(logits.roll(-1, dims=1), torch.tensor([0.0]), 1.0)
    assert token.tolist() == [1]  # not the first, which has no probability, even for the smallest number
    # At temperature 1/2 probabilities are squared: .04 .25 .09 over .38.
    _, logp = draw_tokens(logits, torch.tensor([0.5]), 0.5)
    assert float(logp.exp()) == pytest.approx(0.25 / 0.38)


@pytest.mark.parametrize("vocab", [256, 300, 1024])
def test_drawing_from_a_large_vocabulary_is_one_search_of_the_whole_cdf(vocab: int) -> None:
    generator = torch.Generator().manual_seed(vocab)
    logits = 3 * torch.randn(400, vocab, generator=generator)
    logits[:, 17] = torch.finfo(torch.float32).min / 2
    logits[:40, 256:] -= 100  # everything in the first stretch
    logits[40:80, :256] -= 100  # nothing there
    uniform = torch.rand(400, dtype=torch.float64, generator=generator)
    uniform[::7], uniform[1::7] = 0.0, 1 - 2**-48
    token, logp = draw_tokens(logits, uniform, 0.8)
    law = (logits.double() / 0.8).softmax(dim=-1)
    own, after = (values.gather(1, token[:, None]).squeeze(1) for values in (law, law.cumsum(-1)))
    assert bool((after - own - 1e-6 <= uniform).all()) and bool((uniform <= after + 1e-6).all())
    assert bool((own > 0).all())
    torch.testing.assert_close(logp, own.log().float(), atol=1e-4, rtol=1e-4)


def test_noise_is_finer_than_a_float32_and_below_one() -> None:
    noise = row_noise(torch.arange(200), 50)
    assert bool((noise < 1).all()) and bool((noise >= 0).all())
    bits = (noise * 2**48) % 2**24
    assert float((bits == 0).double().mean()) < 0.01
    assert torch.equal(bits.round(), bits)
    down = round_down_to_float32(noise)
    assert bool((down.double() <= noise).all()) and bool((noise - down.double() < 2**-24).all())


@pytest.mark.parametrize("is_shared", [True, False])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_reading_in_pieces_changes_nothing(
    temperature: float, is_shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    prediction = Logits(torch.randn(50, 9, generator=generator))
    place = torch.randperm(50, generator=generator)
    if is_shared:
        place = torch.cat([place, place[:20], place[10:]])
    uniform = torch.rand(len(place), dtype=torch.float64, generator=generator)
    whole = draw_and_score(prediction, place, uniform, temperature, EntropyBound())
    monkeypatch.setattr(categorical, "HEAD_CHUNK", {"cpu": 9 * 7})
    monkeypatch.setattr(categorical, "DRAW_CHUNK", {"cpu": 9 * 3})
    for found, expected in zip(
        draw_and_score(prediction, place, uniform, temperature, EntropyBound()), whole, strict=True
    ):
        assert torch.equal(found, expected)
    for row in range(len(place)):
        logits = prediction.logits[place[row]][None]
        token, logp = draw_tokens(logits, uniform[row : row + 1], temperature)
        assert (whole[0][row], whole[1][row], whole[2][row]) == (token, logp, entropy(logits))


# --------------------------------------------------------------------------------------- (b) the rule that is not exact


def test_low_confidence_above_temperature_zero_does_not_record_its_law() -> None:
    rows = 4000
    rollout = draw(LowConfidence(1), rows)
    observed = Counter(keys_of(rollout))
    claimed = dict(zip(keys_of(rollout), rollout.behaviour_logp.sum(dim=1).exp().tolist(), strict=True))
    assert sum(claimed.values()) > 1.5  # the "probabilities" of disjoint events
    worst = max(abs(observed[key] / rows - p) / math.sqrt(p * (1 - p) / rows) for key, p in claimed.items())
    assert worst > 20  # standard errors
    assert not LowConfidence.is_exact


def low_confidence_law(canvas: tuple[int, ...]) -> dict[tuple[int, ...], float]:
    """LLaDA's law of what is written after the prompt: at each call all masked tokens are drawn anew, and of these the
    one that is most probable stays, the first of equal ones."""
    masked = [at for at, token in enumerate(canvas) if token == TABLE.mask_id]
    if not masked:
        return {canvas[1:]: 1.0}
    p = {at: [math.exp(logp) for logp in TABLE.logp(canvas, at)] for at in masked}
    law: defaultdict[tuple[int, ...], float] = defaultdict(float)
    for at in masked:
        for token in TABLE.tokens:
            stays = p[at][token]
            for other in masked:
                if other != at:
                    wins = [q <= p[at][token] if other > at else q < p[at][token] for q in p[other]]
                    stays *= sum(q for q, is_less in zip(p[other], wins, strict=True) if is_less)
            filled = (*canvas[:at], token, *canvas[at + 1 :])
            for completion, share in low_confidence_law(filled).items() if stays > 0 else ():
                law[completion] += stays * share
    return dict(law)


def test_low_confidence_follows_lladas_law() -> None:
    """What was drawn and not kept is drawn anew: with the number that it was looked at by, the law was another."""
    law = low_confidence_law((PROMPT, *[TABLE.mask_id] * 4))
    assert sum(law.values()) == pytest.approx(1)
    rollout = draw(LowConfidence(1), 6000)
    observed = Counter(tuple(row) for row in rollout.completion_ids.tolist())
    assert chi_square_p(observed, law) > 1e-3


# ------------------------------------------------------------------------------------------------- (c) the mask token

MASK, STOP, VOCAB = 5, 6, 8


def padded_prompts(lengths: tuple[int, ...] = (3, 6, 2, 6, 1, 4, 5, 3)) -> tuple[Tensor, Tensor]:
    """Random prompts of different lengths, padded on the left with a token that would matter if it were seen."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, MASK, (len(lengths), max(lengths)), generator=generator)
    visible = torch.arange(max(lengths)) >= max(lengths) - torch.tensor(lengths)[:, None]
    return ids.masked_fill(~visible, VOCAB - 1), visible


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("rule", [EntropyBound(0.5), TopK(3), ConfidenceThreshold(0.5), LowConfidence(2)], ids=str)
def test_the_mask_is_never_emitted_however_much_the_model_wants_it(rule: Rule, temperature: float) -> None:
    denoiser = tiny_llada(VOCAB, MASK)
    prompt_ids, prompt_mask = padded_prompts()
    with torch.no_grad():
        denoiser.model.get_output_embeddings().weight[MASK] *= 100
        canvas = torch.nn.functional.pad(prompt_ids, (0, 8), value=MASK)
        raw = denoiser.model(canvas, full_attention_mask(prompt_mask, 8)).logits[:, -8:]
    assert (raw.argmax(dim=-1) == MASK).float().mean() > 0.3
    seeds = torch.arange(len(prompt_ids))
    rollout = sample_with(
        denoiser, prompt_ids, prompt_mask, length=8, block_length=4, rule=rule, temperature=temperature, seeds=seeds
    )
    assert not (rollout.completion_ids == MASK).any()
    assert bool(rollout.behaviour_logp.isfinite().all())


# ---------------------------------------------------------------------------------------------------------- (d) replay


@pytest.mark.parametrize("temperature", [1.0, 0.4])
@pytest.mark.parametrize("stop_ids", [(), (STOP,)], ids=["no-stop", "stop"])
@pytest.mark.parametrize("rule", [EntropyBound(0.0), EntropyBound(1.0), TopK(3), ConfidenceThreshold(0.4)], ids=str)
def test_replaying_every_call_gives_the_recorded_logp(
    rule: Rule, stop_ids: tuple[int, ...], temperature: float
) -> None:
    denoiser = tiny_llada(VOCAB, MASK, stop_ids)
    prompt_ids, prompt_mask = padded_prompts()
    rollout = sample_with(
        denoiser,
        prompt_ids,
        prompt_mask,
        length=8,
        block_length=4,
        rule=rule,
        temperature=temperature,
        seeds=torch.arange(len(prompt_ids)),
        stop_ids=stop_ids,
    )
    attention_mask = full_attention_mask(prompt_mask, 8)
    is_drawn = rollout.is_drawn
    assert torch.equal(rollout.is_answer, completion_mask(rollout.completion_ids, stop_ids))
    assert bool((is_drawn | ~rollout.is_answer).all()), "an answer is drawn as a whole"
    replayed = torch.full((len(rollout), 8), math.nan)
    for step in range(int(rollout.nfe.max())):
        with torch.no_grad():
            logits = denoiser.model(canvas_at(rollout, step, MASK), attention_mask).logits[:, -8:]
        logits[..., MASK] = -1e9
        logp = (logits / temperature).log_softmax(dim=-1).gather(-1, rollout.completion_ids[..., None]).squeeze(-1)
        replayed = torch.where(rollout.unmask_step == step, logp, replayed)
    torch.testing.assert_close(rollout.behaviour_logp[is_drawn], replayed[is_drawn], atol=1e-5, rtol=1e-5)
    assert torch.equal(rollout.nfe, rollout.unmask_step.amax(dim=1) + 1)


def test_canvas_at_shows_what_was_committed_before_the_call() -> None:
    rollout = rollout_of(
        torch.tensor([[9], [8]]), torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[0, 2, 1], [1, 0, 0]])
    )
    assert canvas_at(rollout, 0, 0).tolist() == [[9, 0, 0, 0], [8, 0, 0, 0]]
    assert canvas_at(rollout, 1, 0).tolist() == [[9, 1, 0, 0], [8, 0, 5, 6]]
    assert canvas_at(rollout, torch.tensor([2, 0]), 0).tolist() == [[9, 1, 0, 3], [8, 0, 0, 0]]
    assert canvas_at(rollout, 3, 0).tolist() == [[9, 1, 2, 3], [8, 4, 5, 6]]


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_the_denoiser_saw_exactly_the_canvases_that_replay_shows_equal_ones_once(temperature: float) -> None:
    denoiser = TableDenoiser(width=5)
    rollout = draw(EntropyBound(0.6), 20, denoiser, block_length=2, temperature=temperature)
    seen = [sorted(map(tuple, canvas.tolist())) for canvas, _ in denoiser.asked]
    canvases = [canvas_at(rollout, step, denoiser.mask_id) for step in range(int(rollout.nfe.max()))]
    replayed = [{tuple(row) for row in canvas[rollout.nfe > step].tolist()} for step, canvas in enumerate(canvases)]
    assert seen == [sorted(canvas) for canvas in replayed]
    assert len(seen[0]) == 1 and (temperature == 0) == all(len(canvas) == 1 for canvas in seen)


@pytest.mark.parametrize("max_in_flight", [None, 3])
def test_completions_that_share_canvases_are_what_each_is_alone(max_in_flight: int | None) -> None:
    denoiser = tiny_llada(VOCAB, MASK, (STOP,))
    prompt_ids, prompt_mask = (prompts.repeat_interleave(6, dim=0) for prompts in padded_prompts((2, 5)))
    options: dict[str, Any] = {"length": 8, "block_length": 4, "rule": EntropyBound(1.0), "temperature": 0.5}
    seeds = torch.arange(len(prompt_ids))
    rollout = sample_with(denoiser, prompt_ids, prompt_mask, seeds=seeds, max_in_flight=max_in_flight, **options)
    assert denoiser.usage.canvases < 0.8 * int(rollout.nfe.sum())
    for row in range(len(prompt_ids)):
        one = slice(row, row + 1)
        alone = sample_with(denoiser, prompt_ids[one], prompt_mask[one], seeds=seeds[one], **options)
        assert keys_of(alone) == keys_of(rollout.rows(one))
        torch.testing.assert_close(alone.behaviour_logp, rollout.behaviour_logp[one], atol=1e-5, rtol=1e-5)


def test_prompts_that_differ_by_padding_alone_share_no_call() -> None:
    denoiser = TableDenoiser(width=4)
    prompt_ids = torch.tensor([[3, 3], [3, 3], [3, 3], [2, 3]])
    prompt_mask = torch.tensor([[True, True], [False, True], [True, True], [True, True]])
    rollout = sample_with(denoiser, prompt_ids, prompt_mask, length=2, block_length=2, rule=TopK(1))
    assert [len(canvas) for canvas, _ in denoiser.asked] == [3, 3]
    for row in range(4):
        alone = sample_with(
            denoiser, prompt_ids[row : row + 1], prompt_mask[row : row + 1], length=2, block_length=2, rule=TopK(1)
        )
        assert torch.equal(alone.completion_ids[0], rollout.completion_ids[row])


def test_only_the_open_block_is_asked_for() -> None:
    denoiser = TableDenoiser(width=5)
    draw(TopK(1), 3, denoiser, block_length=2)
    asked = [at.tolist() for _, at in denoiser.asked]
    assert asked[0] == [[False, True, True, False, False]]
    assert asked[2] == [[False, False, False, True, True]] * 3


# ---------------------------------------------------------------------------------------------------- (e) independence


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("rule", [EntropyBound(0.5), TopK(3), LowConfidence(2), ConfidenceThreshold(0.4)], ids=str)
def test_a_row_does_not_depend_on_the_others(rule: Rule, temperature: float) -> None:
    denoiser = tiny_llada(VOCAB, MASK, (STOP,))
    prompt_ids, prompt_mask = padded_prompts()
    seeds = torch.randint(2**62, (len(prompt_ids),), generator=torch.Generator().manual_seed(2))

    def run(row: int | None) -> Rollout:
        index = slice(None) if row is None else slice(row, row + 1)
        start = 0 if row is None else int((~prompt_mask[row]).sum())
        return sample_with(
            denoiser,
            prompt_ids[index, start:],
            prompt_mask[index, start:],
            length=8,
            block_length=4,
            rule=rule,
            temperature=temperature,
            seeds=seeds[index],
            stop_ids=denoiser.stop_ids,
        )

    together = run(None)
    assert len(set(together.nfe.tolist())) > 1  # rows leave the batch at different calls
    for row in range(len(prompt_ids)):
        alone = run(row)
        assert torch.equal(alone.completion_ids[0], together.completion_ids[row])
        assert torch.equal(alone.unmask_step[0], together.unmask_step[row])
        torch.testing.assert_close(alone.behaviour_logp[0], together.behaviour_logp[row], atol=1e-5, rtol=1e-5)
        assert alone.nfe[0] == together.nfe[row]


def test_the_same_seeds_give_the_same_rows_and_others_do_not() -> None:
    first, again, other = (draw(EntropyBound(0.6), 50, first_seed=seed) for seed in (0, 0, 50))
    assert keys_of(first) == keys_of(again)
    assert keys_of(first) != keys_of(other)


@pytest.mark.parametrize("max_in_flight", [1, 3, 20])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("rule", [EntropyBound(0.5), TopK(3), LowConfidence(2), ConfidenceThreshold(0.4)], ids=str)
def test_slots_and_the_order_of_prompts_change_no_row(rule: Rule, temperature: float, max_in_flight: int) -> None:
    denoiser = tiny_llada(VOCAB, MASK, (STOP,))
    prompt_ids, prompt_mask = padded_prompts()
    seeds = torch.randint(2**62, (len(prompt_ids),), generator=torch.Generator().manual_seed(2))
    options: dict[str, Any] = {
        "length": 8,
        "block_length": 4,
        "rule": rule,
        "temperature": temperature,
        "stop_ids": denoiser.stop_ids,
    }
    together = sample_with(denoiser, prompt_ids, prompt_mask, seeds=seeds, **options)
    order = torch.randperm(len(prompt_ids), generator=torch.Generator().manual_seed(max_in_flight))
    found = sample_with(
        denoiser, prompt_ids[order], prompt_mask[order], seeds=seeds[order], max_in_flight=max_in_flight, **options
    )
    expected = together.rows(order)
    assert keys_of(found) == keys_of(expected)
    assert torch.equal(found.nfe, expected.nfe)
    torch.testing.assert_close(found.behaviour_logp, expected.behaviour_logp, atol=1e-5, rtol=1e-5)


def test_free_slots_are_filled_at_once_and_long_prompts_come_first() -> None:
    denoiser = TableDenoiser(width=6)
    prompt_ids = torch.tensor([[0, 3], [2, 3], [3, 3], [0, 2], [2, 2]])
    prompt_mask = torch.tensor([[False, True], [True, True], [True, True], [False, True], [True, True]])
    rollout = sample_with(
        denoiser, prompt_ids, prompt_mask, length=4, block_length=2, rule=EntropyBound(1.0), max_in_flight=2
    )
    canvases = [canvas for canvas, _ in denoiser.asked]
    in_flight = [len(canvas) for canvas in canvases]
    assert set(in_flight) == {2, 1} and in_flight == sorted(in_flight, reverse=True)
    assert sum(in_flight) == int(rollout.nfe.sum())
    empty = [row[:-4] for canvas in canvases for row in canvas.tolist() if row[-4:] == [denoiser.mask_id] * 4]
    assert sorted(empty[:2]) == [[2, 3], [3, 3]] and empty[-1] == [2], "the shortest of them last, unpadded"


def test_padding_that_all_rows_in_flight_have_is_not_shown() -> None:
    denoiser = tiny_llada(VOCAB, MASK)
    prompt_ids, prompt_mask = padded_prompts((2, 5))
    before = denoiser.usage.tokens
    rollout = sample_with(denoiser, prompt_ids, prompt_mask, length=4, block_length=4, rule=TopK(1), max_in_flight=1)
    assert rollout.nfe.tolist() == [4, 4]
    assert denoiser.usage.tokens - before == 4 * (2 + 4) + 4 * (5 + 4)


@pytest.mark.parametrize("explore", [True, False])
def test_slots_leave_what_the_controller_does_as_it_is(explore: bool) -> None:
    denoiser, controller = tiny_llada(VOCAB, MASK), taught_controller()
    prompt_ids, prompt_mask = padded_prompts()
    options: dict[str, Any] = {"length": 8, "block_length": 4, "temperature": 1.0, "rule": EntropyBound()}
    options |= {"seeds": torch.arange(len(prompt_ids)), "controller": controller, "explore": explore}
    together = sample_with(denoiser, prompt_ids, prompt_mask, **options)
    found = sample_with(denoiser, prompt_ids, prompt_mask, max_in_flight=3, **options)
    assert keys_of(found) == keys_of(together)
    for name in ("entropy_bound", "entropy_bound_logp", "prompt_features"):
        torch.testing.assert_close(getattr(found, name), getattr(together, name), atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------------------------------ (f) stop tokens


def test_a_row_is_done_when_no_mask_is_left_before_its_first_stop() -> None:
    stop = 2
    rollout = draw(TopK(1), 1500, stop_ids=(stop,))
    ended_early = behind_and_drawn = 0
    for ids, steps, logp, nfe in zip(
        rollout.completion_ids.tolist(),
        rollout.unmask_step.tolist(),
        rollout.behaviour_logp.tolist(),
        rollout.nfe.tolist(),
        strict=True,
    ):
        first = ids.index(stop) if stop in ids else 3
        # One token per call: the row's last call is the one that closed the last gap up to the first stop ...
        assert nfe == max(steps[: first + 1]) + 1
        # ... and what was not drawn by then was filled with the stop token in that call, at no probability.
        filled = [i for i in range(4) if logp[i] == 0]
        assert len(filled) == 4 - nfe
        assert all(i > first and ids[i] == stop and steps[i] == nfe - 1 for i in filled)
        ended_early += bool(filled)
        behind_and_drawn += sum(i > first for i in range(4)) - len(filled)
    assert 50 < ended_early < 1500
    assert behind_and_drawn > 50, "some tokens are drawn behind the first stop token"
    assert torch.equal(rollout.is_drawn, rollout.behaviour_logp != 0)
    last = canvas_at(rollout, rollout.nfe - 1, TABLE.mask_id)[:, 1:]
    needed = completion_mask(rollout.completion_ids, (stop,))
    assert bool(((last == TABLE.mask_id) & needed).any(dim=1).all())  # not done a call earlier


def test_a_stop_token_in_the_first_block_saves_the_later_ones() -> None:
    rollout = draw(EntropyBound(math.inf), 400, block_length=2, stop_ids=(2,))
    has_stop = (rollout.completion_ids[:, :2] == 2).any(dim=1)
    assert torch.equal(rollout.nfe, torch.where(has_stop, 1, 2))
    assert bool((rollout.completion_ids[has_stop, 2:] == 2).all())


def test_the_tail_repeats_the_rows_own_stop_token() -> None:
    rollout = draw(EntropyBound(math.inf), 400, block_length=2, stop_ids=(0, 2))
    ids = rollout.completion_ids
    for row in ids[rollout.nfe == 1].tolist():
        first = next(token for token in row if token in (0, 2))
        assert row[2:] == [first, first]
    assert {0, 2} <= set(ids[rollout.nfe == 1][:, 3].tolist())


# ---------------------------------------------------------------------------------------------------------- (g) errors


def test_block_length_must_divide_the_length() -> None:
    with pytest.raises(ValueError, match="block_length 3 does not divide the completion length 4"):
        draw(TopK(1), 1, block_length=3)


@pytest.mark.parametrize("options", [{"temperature": 0.5}, {"controller": Controller(), "explore": True}])
def test_drawing_needs_seeds(options: dict[str, Any]) -> None:
    prompt = torch.tensor([[PROMPT]])
    with pytest.raises(ValueError, match="one seed per row"):
        sample_with(TABLE, prompt, prompt > 0, length=4, block_length=4, rule=EntropyBound(), **options)


def test_there_must_be_a_slot() -> None:
    with pytest.raises(ValueError, match="max_in_flight 0"):
        draw(TopK(1), 1, max_in_flight=0)


def test_a_controller_needs_the_entropy_bound_rule() -> None:
    with pytest.raises(ValueError, match="which TopK"):
        draw(TopK(1), 1, controller=Controller())


# ------------------------------------------------------------------------------------------------------ (h) controller


def taught_controller() -> Controller:
    """A controller that has left its start: a random head, statistics that are not 0 and 1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        controller = Controller(initial_bound=0.5, initial_spread=0.8)
        for parameter in controller.head.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    controller.mean.fill_(0.3)
    controller.std.fill_(1.7)
    return controller


@pytest.mark.parametrize("block_length", [8, 4])
@pytest.mark.parametrize("explore", [True, False])
def test_the_controller_reads_the_first_call_and_sets_each_rows_bound(explore: bool, block_length: int) -> None:
    denoiser, controller = tiny_llada(VOCAB, MASK), taught_controller()
    prompt_ids, prompt_mask = padded_prompts()
    seeds = torch.arange(len(prompt_ids))
    options: dict[str, Any] = {"length": 8, "block_length": block_length, "temperature": 1.0}
    rollout = sample_with(
        denoiser,
        prompt_ids,
        prompt_mask,
        rule=EntropyBound(7.0),
        seeds=seeds,
        controller=controller,
        explore=explore,
        **options,
    )
    with torch.no_grad():
        raw = denoiser.model(canvas_at(rollout, 0, MASK), full_attention_mask(prompt_mask, 8)).logits[:, -8:]
        raw[..., MASK] = -1e9
        law = controller.log_bound(rollout.prompt_features)
        logp = controller.logp(rollout.prompt_features, rollout.entropy_bound)
    torch.testing.assert_close(rollout.prompt_features, entropy_features(entropy(raw)), atol=1e-4, rtol=1e-4)
    if explore:
        assert len(set(rollout.entropy_bound.tolist())) == len(rollout)
        torch.testing.assert_close(rollout.entropy_bound_logp, logp, atol=1e-5, rtol=1e-5)
    else:
        torch.testing.assert_close(rollout.entropy_bound, law.loc.exp())
        assert not rollout.entropy_bound_logp.any()
    for row in range(len(rollout)):
        one = slice(row, row + 1)
        rule = EntropyBound(float(rollout.entropy_bound[row]))
        alone = sample_with(denoiser, prompt_ids[one], prompt_mask[one], rule=rule, seeds=seeds[one], **options)
        assert keys_of(alone) == keys_of(rollout.rows(one))


@pytest.mark.parametrize(
    "options", [{}, {"max_in_flight": 3}, {"block_length": 4, "cache": "dual", "max_in_flight": 3}]
)
@pytest.mark.parametrize("max_vocab", [4096, 0], ids=["logits", "hidden-states"])
def test_the_controller_reads_the_mean_hidden_states_of_the_first_call(
    max_vocab: int, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffpo.models.denoiser.FULL_LOGITS_MAX_VOCAB", max_vocab)
    denoiser = tiny_llada(VOCAB, MASK)
    settings: dict[str, Any] = {"length": 8, "block_length": 8, "temperature": 1.0, "rule": EntropyBound()} | options
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        controller = Controller(0.5, 0.8, 8, "hidden", num_features=32, bounds=(0.1, 0.5, 2.0))
        torch.nn.init.normal_(controller.head[2].weight)  # type: ignore[arg-type]
    prompt_ids, prompt_mask = padded_prompts()
    rollout = sample_with(
        denoiser,
        prompt_ids,
        prompt_mask,
        **settings,
        seeds=torch.arange(len(prompt_ids)),
        controller=controller,
        explore=True,
    )
    with torch.no_grad():
        states = denoiser.model.states(canvas_at(rollout, 0, MASK), full_attention_mask(prompt_mask, 8))
    torch.testing.assert_close(rollout.prompt_features, states[:, -8:].mean(dim=1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        rollout.entropy_bound_logp,
        controller.logp(rollout.prompt_features, rollout.entropy_bound),
        atol=1e-5,
        rtol=1e-5,
    )
    assert len({round(bound, 4) for bound in rollout.entropy_bound.tolist()} - {0.1, 0.5, 2.0}) == 0


def test_hidden_features_of_a_denoiser_without_hidden_states_are_refused() -> None:
    with pytest.raises(UserError, match=r"gives no hidden states, which controller.features = 'hidden' needs"):
        draw(EntropyBound(), 2, controller=Controller(feature_kind="hidden", num_features=4), explore=True)


def test_the_controller_draws_its_bound_apart_from_the_tokens() -> None:
    controller = taught_controller()
    rollout = draw(EntropyBound(), 2000, controller=controller, explore=True, block_length=2)
    law = controller.log_bound(rollout.prompt_features)
    standard = ((rollout.entropy_bound.log() - law.loc) / law.scale).detach()
    assert abs(float(standard.mean())) < 0.1
    assert float(standard.std()) == pytest.approx(1, abs=0.1)
    # The first token's rank in its distribution says nothing about the bound.
    token, noise = rollout.completion_ids[:, 0].float(), standard
    assert abs(float(torch.corrcoef(torch.stack([token, noise]))[0, 1])) < 0.08


def test_without_a_controller_the_rules_bound_is_recorded() -> None:
    assert draw(EntropyBound(0.25), 2).entropy_bound.tolist() == [0.25, 0.25]
    rollout = draw(TopK(1), 2)
    assert bool(rollout.entropy_bound.isnan().all())
    assert rollout.prompt_features.shape == (2, 0)
    assert not rollout.entropy_bound_logp.any()


def test_rows_of_a_rollout_are_the_same_record() -> None:
    rollout = draw(EntropyBound(0.6), 5)
    part = rollout.rows(slice(1, 3))
    assert len(part) == 2
    assert keys_of(part) == keys_of(rollout)[1:3]
    assert torch.equal(rollout.rows(torch.tensor([4, 0])).behaviour_logp, rollout.behaviour_logp[[4, 0]])


def test_oracle_log_softmax() -> None:
    assert [math.exp(x) for x in log_softmax([math.log(1), math.log(3)], 1.0)] == pytest.approx([0.25, 0.75])
    assert [math.exp(x) for x in log_softmax([math.log(1), math.log(3)], 0.5)] == pytest.approx([0.1, 0.9])


@dataclass(frozen=True)
class Wrong(TopK):
    """A rule that commits nothing from its second call on, or every position of the completion."""

    commits_all: bool = False

    def select(self, score: Tensor, is_candidate: Tensor, row_bound: Tensor | None = None) -> Tensor:
        if self.commits_all:
            return torch.ones_like(is_candidate)
        is_first_call = bool(is_candidate.all())
        return best(score, is_candidate, k=1) if is_first_call else torch.zeros_like(is_candidate)


@pytest.mark.parametrize(
    ("rule", "block_length", "message"),
    [
        (TopK(0), 2, r"the rule TopK\(k=0\) commits no position"),
        (EntropyBound(math.nan), 2, None),
        (Wrong(), 2, "commits no position"),
        (Wrong(commits_all=True), 1, "commits a position that is no candidate"),
    ],
)
def test_a_rule_that_commits_nothing_or_too_much_ends(rule: Rule, block_length: int, message: str | None) -> None:
    table = TableDenoiser(width=3)
    prompt = torch.tensor([[3]])

    def draw() -> Rollout:
        return sample_with(table, prompt, prompt > 0, length=2, block_length=block_length, rule=rule)

    if message is None:
        assert draw().nfe.tolist() == [2], "a bound that is no number commits one token a call"
    else:
        with pytest.raises(UserError, match=message):
            draw()
