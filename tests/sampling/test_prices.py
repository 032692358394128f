"""Prices choose among measured rules, and a sampler is saved and loaded bit for bit."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.helpers.risk import priced_sampler, risk_model

from diffpo.core.errors import UserError
from diffpo.core.price import check_price
from diffpo.sampling.policy import load, save
from diffpo.sampling.prices import Candidate, PricedSampler, require_sampler
from diffpo.sampling.risk_rules import CommitRisk
from diffpo.sampling.rules import EntropyBound
from diffpo.sampling.sampler_files import SAMPLER_CONFIG, SAMPLER_WEIGHTS, load_sampler, save_sampler

WIDTH = 6
MODEL = risk_model(WIDTH)
SAMPLER = priced_sampler(MODEL)
CPU = torch.device("cpu")


@pytest.mark.parametrize("price", [0.0, 0.05, 0.1, 0.3, 1.0, 5.0, 100.0])
def test_a_price_chooses_the_largest_worth(price: float) -> None:
    worths = [c.accuracy - price * c.nfe / 16 for c in SAMPLER.candidates]
    assert [c.worth(price, 16) for c in SAMPLER.candidates] == pytest.approx(worths)
    assert SAMPLER.best(price) is SAMPLER.candidates[worths.index(max(worths))]


def test_the_dearer_a_call_the_fewer_there_are() -> None:
    names = [SAMPLER.best(price).name for price in (0.0, 0.14, 0.2, 1.5, 20.0)]
    assert names == ["entropy bound 0", "entropy bound 0", "commit risk 0.5", "commit risk 2", "commit risk 10"]
    assert isinstance(SAMPLER.rule_at(0.0), EntropyBound)
    assert SAMPLER.rule_at(0.2) == CommitRisk(MODEL, 0.5)


def test_rules_are_those_that_were_measured() -> None:
    assert [SAMPLER.rule(candidate) for candidate in SAMPLER.candidates] == [
        EntropyBound(0.0),
        EntropyBound(1.0, subtract_max=False),
        *(CommitRisk(MODEL, bound) for bound in (0.5, 2.0, 10.0)),
    ]
    assert SAMPLER.candidates[1].name == "entropy bound 1 (plain sum)"


def test_ties_go_to_fixed_rules_and_then_to_fewer_calls() -> None:
    learned, fixed = Candidate("commit-risk", 0.5, 0.8, 4.0), Candidate("entropy-bound", 0.1, 0.8, 4.0)
    slow = Candidate("plain-sum", 0.1, 0.8, 5.0)
    assert PricedSampler(MODEL, (learned, fixed), 16).best(0.1) is fixed
    assert PricedSampler(MODEL, (slow, learned), 16).best(0.0) is learned, "of equal worth the cheapest"
    assert PricedSampler(MODEL, (slow, fixed, learned), 16).best(0.0) is fixed


def test_it_falls_back_to_constants_where_nothing_was_learnt() -> None:
    worse = tuple(replace(c, accuracy=c.accuracy / 2) if c.family == "commit-risk" else c for c in SAMPLER.candidates)
    sampler = PricedSampler(MODEL, worse, 16)
    assert {sampler.best(price).family for price in (0.0, 0.1, 0.3, 1.0)} == {"entropy-bound", "plain-sum"}


def test_the_front_is_what_no_candidate_beats() -> None:
    front = SAMPLER.front()
    assert [c.name for c in front] == ["commit risk 10", "commit risk 2", "commit risk 0.5", "entropy bound 0"]
    for c in SAMPLER.candidates:
        is_beaten = any(o.accuracy >= c.accuracy and o.nfe <= c.nfe and o != c for o in SAMPLER.candidates)
        assert (c in front) != is_beaten
    assert all(SAMPLER.best(price) in front for price in (0.0, 0.1, 0.3, 1.0, 10.0))


@pytest.mark.parametrize("price", [-0.1, float("nan"), float("inf"), -float("inf")])
def test_a_price_that_is_none_is_refused(price: float) -> None:
    for ask in (check_price, SAMPLER.best, SAMPLER.rule_at):
        with pytest.raises(UserError, match=r"price is (-0.1|nan|-?inf); give a finite number from 0 up"):
            ask(price)


def test_a_model_without_a_sampler_says_why_a_price_means_nothing() -> None:
    assert require_sampler(SAMPLER, False, "m") is SAMPLER
    with pytest.raises(UserError, match=r"^m has no learned sampler, .* fit one \(diffpo sampler --help\)"):
        require_sampler(None, False, "m")
    with pytest.raises(UserError, match=r"^the controller of m was trained without prices"):
        require_sampler(None, True, "m")


def test_a_completion_of_another_length_has_one_block_where_blocks_do_not_fit() -> None:
    assert [SAMPLER.block_length_of(length) for length in (16, 10)] == [16, 10]
    blocks = replace(SAMPLER, block_length=4)
    assert [blocks.block_length_of(length) for length in (16, 12, 10)] == [4, 4, 10]


# --------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("block_length", [None, 4])
def test_what_is_saved_is_loaded_bit_for_bit(block_length: int | None, tmp_path: Path) -> None:
    sampler = replace(SAMPLER, block_length=block_length)
    save_sampler(sampler, tmp_path)
    again = load_sampler(tmp_path, WIDTH, CPU)
    assert again is not None and not again.model.training
    assert (again.candidates, again.length, again.block_length) == (sampler.candidates, 16, block_length)
    state, found = MODEL.state_dict(), again.model.state_dict()
    assert state.keys() == found.keys() and all(torch.equal(state[name], found[name]) for name in state)


def test_a_policy_travels_with_its_sampler(base: Path, tmp_path: Path) -> None:
    policy = load(base)
    assert policy.sampler is None
    width = policy.denoiser.model.get_output_embeddings().weight.shape[1]
    save(replace(policy, sampler=priced_sampler(risk_model(width))), tmp_path)
    again = load(tmp_path)
    assert again.sampler is not None and again.sampler.candidates == SAMPLER.candidates


def change(**values: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / SAMPLER_CONFIG
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return edit


def leave_out(key: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / SAMPLER_CONFIG
        config = json.loads(file.read_text())
        del config[key]
        file.write_text(json.dumps(config))

    return edit


def truncate(name: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return edit


def drop_a_weight(folder: Path) -> None:
    weights = load_file(folder / SAMPLER_WEIGHTS)
    weights.pop("token.bias")
    save_file(weights, folder / SAMPLER_WEIGHTS)


ROW = {"family": "commit-risk", "bound": 1.0, "accuracy": 0.5, "nfe": 2.0}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncate(SAMPLER_CONFIG), "cannot be loaded: "),
        (truncate(SAMPLER_WEIGHTS), "cannot be loaded: "),
        (lambda folder: (folder / SAMPLER_WEIGHTS).unlink(), "cannot be loaded: "),
        (drop_a_weight, "cannot be loaded: "),
        (change(width=9), "cannot be loaded: "),
        (change(width="wide"), "cannot be loaded: "),
        (change(candidates=[]), "cannot be loaded: its prices name no rules, or unknown ones"),
        (change(candidates=[ROW | {"family": "guess"}]), "its prices name no rules, or unknown ones"),
        (change(candidates=[ROW | {"nfe": "few"}]), "cannot be loaded: could not convert"),
        (change(candidates=[{"family": "commit-risk"}]), "cannot be loaded: its config lacks 'bound'"),
        (change(candidates=7), "cannot be loaded: "),
        (change(candidates=[ROW | {"accuracy": float("nan")}]), "of 'commit risk 1' is out of range"),
        (change(candidates=[ROW | {"bound": -1.0}]), "of 'commit risk -1' is out of range"),
        (change(candidates=[ROW | {"nfe": float("inf")}]), "is out of range"),
        (change(completion_length=0), "completion_length and block_length should be at least 1"),
        (change(block_length=0), "completion_length and block_length should be at least 1"),
        (change(width=float("inf")), "cannot be loaded: "),
        (change(kind="guess"), "should describe a sampler of kind 'commit-risk'"),
        (lambda folder: (folder / SAMPLER_CONFIG).write_text("[]"), "should describe a sampler of kind"),
        (
            lambda folder: (folder / SAMPLER_CONFIG).unlink(),
            "it lacks sampler_config.json; both of its files are needed",
        ),
        (leave_out("completion_length"), "cannot be loaded: its config lacks 'completion_length'"),
    ],
)
def test_files_that_cannot_be_read_are_one_sentence(
    spoil: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    save_sampler(SAMPLER, tmp_path)
    spoil(tmp_path)
    with pytest.raises(UserError) as caught:
        load_sampler(tmp_path, WIDTH, CPU)
    assert str(tmp_path) in str(caught.value) and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_sampler_of_another_models_width_is_refused(tmp_path: Path) -> None:
    save_sampler(SAMPLER, tmp_path)
    with pytest.raises(
        UserError, match=f"fitted to hidden states of width {WIDTH}, and those of the model have 7; use"
    ):
        load_sampler(tmp_path, 7, CPU)
    assert load_sampler(tmp_path / "elsewhere", 7, CPU) is None


def test_the_best_rule_is_one_that_is_measured() -> None:
    """A fixed rule that a learned one beats in calls alone is as good at price 0, and no one measures it."""
    slow, quick = Candidate("plain-sum", 0.4, 0.5, 9.85), Candidate("commit-risk", 0.07, 0.5, 6.25)
    sampler = PricedSampler(MODEL, (slow, quick, Candidate("entropy-bound", 10.0, 0.1, 1.0)), 16)
    assert all(sampler.best(price) in sampler.front() for price in (0.0, 0.1, 0.3, 1.0))


@pytest.mark.parametrize("price", ["0.1", True, None])
def test_what_is_no_number_is_no_price(price: object) -> None:
    with pytest.raises(UserError, match="give a finite number from 0 up"):
        check_price(price)
