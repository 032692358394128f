"""A learned sampler from a model to its decodings: fitted, written, loaded, asked for prices, measured."""

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.tiny_runs import SHAPE, lines_of, rl_recipe, sft_recipe, trained_once, weights_of

import diffpo
from diffpo.cli.main import main
from diffpo.core.errors import UserError
from diffpo.core.randomness import derive_seed
from diffpo.evaluation.completing import hint_at_prices
from diffpo.evaluation.fit_sampler import States, collect, run_fit_sampler
from diffpo.evaluation.run import run_eval
from diffpo.evaluation.sample_settings import SampleSettings
from diffpo.models.manifest import write_manifest
from diffpo.models.model_paths import checkpoints, model_folder
from diffpo.recipes import load_recipe
from diffpo.recipes.tables import EvalRecipe, SamplerRecipe
from diffpo.report.write import write_report
from diffpo.runs.merge import run_merge
from diffpo.runs.run_dir import hold_new_folder
from diffpo.runs.run_lock import RunLock
from diffpo.sampling.controller import Controller
from diffpo.sampling.policy import load
from diffpo.sampling.risk_rules import CommitRisk
from diffpo.sampling.rules import EntropyBound
from diffpo.sampling.sampler_files import SAMPLER_CONFIG
from diffpo.tasks.base import Problem, Split
from diffpo.tasks.sudoku import Sudoku
from diffpo.training.risk_data import RiskData
from diffpo.training.rl import run_rl
from diffpo.training.sft import run_sft

QUICK = [
    "threads=1",
    "states={denoiser_calls=250, batch=16, per_completion=8}",
    "fit={steps=20, width=8, batch=8}",
    "validation_count=10",
    "bounds=[0.0, 1.0, 100.0]",
    "risk_bounds=[0.0, 1.5, 100.0]",
]


def sampler_recipe(base: Path, *overrides: str) -> SamplerRecipe:
    return load_recipe(SamplerRecipe, "tiny-sampler", [*QUICK, f"base={json.dumps(str(base))}", *overrides])


@pytest.fixture(scope="module")
def fitted(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fitted") / "sampler"
    assert "wrote" in run_fit_sampler(sampler_recipe(base), out)
    return out


@pytest.fixture(scope="module")
def learned(fitted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, but measured so well on validation problems that prices choose it."""
    run = Path(shutil.copytree(fitted, tmp_path_factory.mktemp("learned") / "sampler"))
    file = model_folder(run) / SAMPLER_CONFIG
    config = json.loads(file.read_text())
    for row in config["candidates"]:
        if row["family"] == "commit-risk":
            row["accuracy"] = 0.98 + row["nfe"] / 1000
    file.write_text(json.dumps(config))
    write_manifest(model_folder(run))
    return run


# ------------------------------------------------------------------------------------------------------ what is written


def test_the_model_stays_as_it_is_and_gets_a_sampler(fitted: Path, base: Path) -> None:
    (folder,) = checkpoints(fitted)
    before, after = weights_of(model_folder(base)), weights_of(folder)
    assert before.items() < after.items() and all(name.startswith("sampler.") for name in after.keys() - before.keys())
    sampler = load(fitted).sampler
    assert sampler is not None and sampler.length == 16 and sampler.block_length is None
    assert [(c.family, c.bound) for c in sampler.candidates] == [
        *(("entropy-bound", bound) for bound in (0.0, 1.0, 100.0)),
        *(("plain-sum", bound) for bound in (0.0, 1.0, 100.0)),
        *(("commit-risk", bound) for bound in (0.0, 1.5, 100.0)),
    ]
    nfe = [c.nfe for c in sampler.candidates]
    assert nfe[::3] == [16, 16, 16] and nfe[2::3] == [1, 1, 1]
    assert all(0 <= c.accuracy <= 1 and 1 <= c.nfe <= 16 for c in sampler.candidates)
    (line,) = lines_of(fitted)
    assert line["denoiser_calls"] >= 250 and line["states"] > 50 and 0 < line["harm_rate"] < 1 and line["step"] == 20
    write_report(fitted)


def test_a_sampler_is_a_function_of_its_seed(fitted: Path, base: Path, tmp_path: Path) -> None:
    run_fit_sampler(sampler_recipe(base), tmp_path / "again")
    assert weights_of(checkpoints(tmp_path / "again")[-1]) == weights_of(checkpoints(fitted)[-1])


def test_candidates_are_what_an_evaluation_of_the_same_problems_finds(fitted: Path, tmp_path: Path) -> None:
    sampler = load(fitted).sampler
    assert sampler is not None
    known = {candidate.name: (candidate.accuracy, candidate.nfe) for candidate in sampler.candidates}
    options = ["split=validation", "count=10", "bounds=[0.0, 1.0, 100.0]", "threads=1"]
    recipe = load_recipe(EvalRecipe, None, [*options, f"model={json.dumps(str(fitted))}"])
    # Both draw the problems under a purpose of their own.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffpo.evaluation.loop.derive_seed", lambda seed, purpose: derive_seed(seed, "validation"))
        run_eval(recipe, tmp_path / "eval.json")
    record = json.loads((tmp_path / "eval.json").read_text())
    for point in [*record["points"], *record["price_curve"]["points"]]:
        assert (point["accuracy"], point["nfe"]) == pytest.approx(known[point["rule"]])


def test_countdown_whose_answers_end_at_a_stop(shared_folder: Path, tmp_path: Path) -> None:
    task = 'task={kind="countdown", max_number=5, operators="+-", number_credit=0.5}'
    model = trained_once(
        shared_folder / "bases" / "countdown-untrained", [*SHAPE, "threads=1", task, "steps=2", "batch=8"]
    )
    run_fit_sampler(sampler_recipe(model, "block_length=1"), tmp_path / "run")
    sampler = load(tmp_path / "run").sampler
    assert sampler is not None and sampler.block_length == 1 and all(c.nfe > 1 for c in sampler.candidates)
    run_fit_sampler(sampler_recipe(model, "max_in_flight=5"), tmp_path / "other")
    options = [f"model={json.dumps(str(tmp_path / 'other'))}", "count=4", "bounds=[1.0]", "price=0.1", "threads=1"]
    assert "sampler at price 0.1" in run_eval(load_recipe(EvalRecipe, None, options), tmp_path / "eval.json")


# ----------------------------------------------------------------------------------------------------------- the states


def test_problems_of_a_held_out_cluster_are_not_learnt_from() -> None:
    clusters = ("a", "b", "a", "c", "d", "b")
    rows = torch.tensor([0, 0, 1, 2, 3, 4, 5, 5])
    zeros = torch.zeros(8, 2, 3)
    data = RiskData(zeros, zeros, zeros[..., 0] == 0, zeros[..., 0] == 1, rows)
    for share, held_out in ((0.01, {0, 2}), (0.25, {0, 2}), (0.5, {0, 2, 1, 5}), (0.99, {0, 2, 1, 5, 3})):
        train, checked = States(data, clusters).split(share)
        assert set(checked.row.tolist()) == held_out
        assert set(train.row.tolist()) == set(rows.tolist()) - held_out and len(train) + len(checked) == 8


def test_problems_are_decoded_until_the_calls_are_spent(base: Path) -> None:
    policy, task = load(base), Sudoku(min_clues=13, max_clues=15)
    states, calls = collect(
        sampler_recipe(base, "states={denoiser_calls=300, batch=8}"), policy.with_new_counter(), task, "x"
    )
    assert calls >= 300 and len(states.clusters) % 8 == 0 and len(states.clusters) > 8
    assert int(states.data.row.max()) >= len(states.clusters) - 8
    fewer, spent = collect(
        sampler_recipe(base, "states={denoiser_calls=1, batch=8}"), policy.with_new_counter(), task, "x"
    )
    assert len(fewer.clusters) == 8 and spent < calls, "the first batch always is"
    first = states.data.rows(states.data.row < 8)
    assert torch.equal(first.is_harm, fewer.data.is_harm), "a batch is the same, whatever comes after"


# ----------------------------------------------------------------------------------------------------- asked for prices


def test_a_price_decodes_by_the_rule_that_is_best_at_it(learned: Path) -> None:
    policy, prompts = load(learned), [problem.prompt for problem in Sudoku().problems("test", 2, seed=0)]
    assert policy.sampler is not None
    for price in (0.0, 1.0):
        candidate = policy.sampler.best(price)
        assert candidate.family == "commit-risk"
        rule = CommitRisk(policy.sampler.model, candidate.bound)
        found, same = diffpo.complete(policy, prompts, price=price), diffpo.complete(policy, prompts, rule=rule)
        assert [(c.text, c.unmask_step) for c in found] == [(c.text, c.unmask_step) for c in same]
        assert all(math.isnan(c.entropy_bound) for c in found)
    assert diffpo.complete(policy, prompts) == diffpo.complete(policy, prompts, rule=EntropyBound(0.0))
    with pytest.raises(UserError, match="a rule is given; give one of them"):
        diffpo.complete(policy, prompts, rule=EntropyBound(0.0), price=0.1)
    with pytest.raises(UserError, match=r"price is -1; give"):
        diffpo.complete(policy, prompts, price=-1.0)
    controlled = replace(policy, controller=Controller(hidden=4))
    assert diffpo.complete(controlled, prompts, price=1.0)[0].nfe == 1, "a price is asked of the sampler"
    with pytest.raises(UserError, match=r"the controller of .* was trained without prices"):
        diffpo.complete(replace(controlled, sampler=None), prompts, price=1.0)


def test_the_shell_shows_how_a_price_decodes(learned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = Sudoku().problems("test", 1, seed=0)[0].prompt
    for price, end in (("0", "chosen for price 0"), ("100", "1 denoiser call, commit risk 100, chosen for price 100")):
        with pytest.raises(SystemExit) as caught:
            main(["sample", str(learned), "--prompt", prompt, "--price", price])
        assert caught.value.code == 0 and capsys.readouterr().out.strip().endswith(end)


@pytest.fixture(scope="module")
def measured(learned: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Records of an evaluation of the model with its sampler."""

    @cache
    def record(*overrides: str) -> dict[str, Any]:
        out = tmp_path_factory.mktemp("records") / "eval.json"
        options = ["count=12", "bounds=[0.0, 1.0, 100.0]", "validation_count=6", "threads=1", *overrides]
        printed = run_eval(load_recipe(EvalRecipe, None, [*options, f"model={json.dumps(str(learned))}"]), out)
        found: dict[str, Any] = json.loads(out.read_text(), parse_constant=lambda name: pytest.fail(name))
        return found | {"printed": printed}

    yield record


def test_a_record_has_the_whole_curve(measured: Any, learned: Path) -> None:
    record, sampler = measured(), load(learned).sampler
    assert sampler is not None and record["learned"] is None and record["validated_gain"] is None
    curve = record["price_curve"]
    front = sampler.front()
    assert [(p["rule"], p["kind"]) for p in curve["points"]] == [(c.name, c.family) for c in front]
    assert {p["kind"] for p in curve["points"]} == {"commit-risk"} and len(curve["points"]) > 1
    for point in curve["points"]:
        assert point["nfe"] == pytest.approx(sum(point["nfe_rows"]) / 12) and len(point["solved"]) == 12
    assert [p["price"] for p in curve["prices"]] == [0.0, 0.1, 0.3, 1.0]
    assert [p["rule"] for p in curve["prices"]] == [sampler.best(p).name for p in (0.0, 0.1, 0.3, 1.0)]
    gain = curve["area"]["value"] - record["area"]["value"]
    assert curve["area_gain"]["value"] == pytest.approx(gain)
    low, high = curve["area_gain"]["ci95"]
    assert low <= gain <= high and curve["area"]["ci95"][0] <= curve["area"]["value"] <= curve["area"]["ci95"][1]


def test_the_table_has_a_line_for_each_price(measured: Any) -> None:
    record = measured()
    lines = record["printed"].splitlines()
    for found in record["price_curve"]["prices"]:
        (line,) = (line for line in lines if line.startswith(f"sampler at price {found['price']:g} "))
        assert line.endswith(f"by {found['rule']}")
    gain = record["price_curve"]["area_gain"]["value"]
    assert any(line.startswith("area, sampler ") and f"against fixed bounds {gain:.3f} [" in line for line in lines)


def test_with_a_price_its_rule_is_the_learned_sampler(measured: Any) -> None:
    record = measured("price=0.3")
    (rule,) = (found["rule"] for found in record["price_curve"]["prices"] if found["price"] == 0.3)
    (point,) = (point for point in record["price_curve"]["points"] if point["rule"] == rule)
    learned = record["learned"]
    assert (learned["solved"], learned["nfe_rows"]) == (point["solved"], point["nfe_rows"])
    assert learned["bounds"] == [] and all(group["bound"] is None for group in learned["by_clues"])
    assert record["validated_gain"] is not None and record["playback"][0]["entropy_bound"] is None
    assert record["price_curve"] == measured()["price_curve"]


# --------------------------------------------------------------------------------------------------------- what follows


def test_merging_an_adapter_keeps_the_sampler(base: Path, tmp_path: Path) -> None:
    adapted = tmp_path / "adapted"
    run_rl(rl_recipe(base, "lora.rank=2", "lora.alpha=4", "train=policy", "budget.steps=1"), adapted)
    run_fit_sampler(sampler_recipe(adapted), tmp_path / "sampler")
    run_merge(tmp_path / "sampler", tmp_path / "merged")
    one, other = load(tmp_path / "sampler").sampler, load(tmp_path / "merged").sampler
    assert one is not None and other is not None and one.candidates == other.candidates
    state, merged = one.model.state_dict(), other.model.state_dict()
    assert all(torch.equal(state[name], merged[name]) for name in state)


def test_training_from_a_model_with_a_sampler_drops_it(fitted: Path, tmp_path: Path) -> None:
    run_rl(rl_recipe(fitted, "train=policy", "budget.steps=1"), tmp_path / "rl")
    run_sft(sft_recipe("steps=1", f"base={json.dumps(str(fitted))}"), tmp_path / "sft")
    assert load(fitted).sampler is not None
    assert load(tmp_path / "rl").sampler is load(tmp_path / "sft").sampler is None


def test_a_new_sampler_takes_the_place_of_the_old_one(fitted: Path, tmp_path: Path) -> None:
    run_fit_sampler(sampler_recipe(fitted, "risk_bounds=[0.25]"), tmp_path / "again")
    sampler = load(tmp_path / "again").sampler
    assert sampler is not None and [c.bound for c in sampler.candidates if c.family == "commit-risk"] == [0.25]


# -------------------------------------------------------------------------------------------------------- what is wrong


class OneProblem(Sudoku):
    def problems(self, split: Split, count: int, seed: int) -> list[Problem]:
        return super().problems(split, 1, seed) * count


def test_a_task_of_one_problem_has_none_to_hold_out(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffpo.evaluation.fit_sampler.build_task", lambda recipe: OneProblem())
    with pytest.raises(UserError, match="the first 16 train problems of sudoku4 are all alike"):
        run_fit_sampler(sampler_recipe(base), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_too_few_states_are_refused(base: Path, tmp_path: Path) -> None:
    few = ["states={denoiser_calls=1, batch=2, per_completion=1}"]
    with pytest.raises(UserError, match=r"states are left to learn from and \d+ held out; raise states.denoiser_calls"):
        run_fit_sampler(sampler_recipe(base, *few, "seed=3"), tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_a_loss_that_is_no_number_is_the_rates_fault(base: Path, tmp_path: Path) -> None:
    recipe = sampler_recipe(base)
    recipe = recipe.model_copy(update={"fit": recipe.fit.model_copy(update={"lr": 1e30})})
    with pytest.raises(UserError, match="fitting the sampler at fit"):
        run_fit_sampler(recipe, tmp_path / "x")


def test_an_evaluation_decodes_in_the_window_of_the_fit(base: Path, tmp_path: Path) -> None:
    run_fit_sampler(sampler_recipe(base, "block_length=4"), tmp_path / "blocks")
    model = [f"model={json.dumps(str(tmp_path / 'blocks'))}", "count=4", "validation_count=0", "bounds=[0.1]"]
    for more, length in (([], 4), (["block_length=8"], 8)):
        run_eval(load_recipe(EvalRecipe, None, [*model, *more]), tmp_path / "e.json")
        assert json.loads((tmp_path / "e.json").read_text())["block_length"] == length


def test_a_sampler_without_a_price_is_told_of(fitted: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings, told = SampleSettings(16), "m has a learned sampler, which decodes in fewer calls at a price"
    policy = load(fitted)
    hint_at_prices(policy, "m", settings)
    assert told in capsys.readouterr().err
    for asked in (
        replace(settings, price=0.1),
        replace(settings, entropy_bound=0.0),
        replace(settings, is_quiet=True),
    ):
        hint_at_prices(policy, "m", asked)
    hint_at_prices(load(base), "m", settings)
    hint_at_prices(replace(policy, controller=Controller(initial_bound=0.7, hidden=8)), "m", settings)
    assert capsys.readouterr().err == ""


def test_a_folder_with_a_run_is_left_alone(fitted: Path, base: Path, tmp_path: Path) -> None:
    for out in (fitted, base):
        with pytest.raises(UserError, match=f"{out} already holds a run; choose another --out"):
            run_fit_sampler(sampler_recipe(base), out)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write to .*file/x \(Not a directory\); choose another --out"):
        hold_new_folder(out := tmp_path / "file" / "x", RunLock(out))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "{base}", "--price", "0.1"], "has no learned sampler, so a price says nothing to it; fit one"),
        (["sample", "{base}", "--prompt", "1", "--price", "0.1"], "has no learned sampler"),
        (["eval", "{fitted}", "--price", "-0.1"], "price is -0.1; give a finite number from 0 up"),
        (["eval", "{fitted}", "price=nan"], "price: should be"),
        (["eval", "{fitted}", "price=inf"], "price: should be a finite number, got inf"),
        (["sample", "{fitted}", "--prompt", "1", "--price", "1", "--entropy-bound", "1"], "says how; give one"),
        (["sampler", "{base}"], "where to? Give --out"),
        (["sampler", "{base}", "--out", "{fitted}"], "already holds a run; choose another --out"),
        (["sampler", "{base}", "states.batch=1", "--out", "x"], "states.batch: should be greater than or equal to 2"),
        (
            ["sampler", "{base}", "states.low=20.0", "--out", "x"],
            "low 20 is above high 10; give the smaller bound first",
        ),
        (["sampler", "{base}", "bounds=[]", "--out", "x"], "bounds and risk_bounds each need at least one number"),
        (
            ["sampler", "{base}", "bounds=[0.1,0.1000001]", "--out", "x"],
            "bounds has 0.1 twice, to six digits; give each",
        ),
        (["sampler", "{base}", "risk_bounds=[0,0]", "--out", "x"], "risk_bounds has 0 twice, to six digits"),
        (["sampler", "{base}", "states.high=1e308", "--out", "x"], "states.high: should be less than or equal to"),
        (["eval", "{fitted}", "bounds=[]"], "bounds and rules are both empty, so there is nothing to decode by"),
        (["sampler", "{base}", "block_length=5", "--out", "x"], "block_length 5 does not divide the completion length"),
        (["sampler", "no/model", "--out", "x"], "no recipe.toml says which task no/model was trained on"),
    ],
)
def test_mistakes_end_with_code_2_and_leave_nothing(
    arguments: list[str],
    message: str,
    base: Path,
    fitted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(path for folder in (base, fitted) for path in folder.rglob("*"))
    with pytest.raises(SystemExit) as caught:
        main([argument.format(base=base, fitted=fitted) for argument in arguments])
    printed = capsys.readouterr()
    assert caught.value.code == 2 and message in " ".join(printed.err.split()) and "Traceback" not in printed.err
    assert list(tmp_path.iterdir()) == []
    assert sorted(path for folder in (base, fitted) for path in folder.rglob("*")) == before
