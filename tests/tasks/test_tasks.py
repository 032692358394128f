"""What all tasks share: recipes that choose them, and the loops with answers shorter than their canvas."""

import itertools
import json
import math
from pathlib import Path
from typing import Literal

import pytest
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional as F

from diffpo.cli.show_completion import run_sample
from diffpo.core.errors import UserError
from diffpo.core.randomness import derive_seed
from diffpo.evaluation.run import run_eval
from diffpo.evaluation.sample_settings import SampleSettings
from diffpo.models.denoiser import ModelDenoiser
from diffpo.models.denoiser_output import Logits
from diffpo.models.encoding import encode_answers
from diffpo.models.kv_cache import Window
from diffpo.models.model_paths import RECIPE
from diffpo.models.tokenizer import EOS_TOKEN, char_tokenizer, decode_text
from diffpo.recipes import dump_recipe, load_recipe
from diffpo.recipes.parts import build_task
from diffpo.recipes.stored import stored_task
from diffpo.recipes.tables import (
    CountdownTask,
    DeviceSettings,
    EvalRecipe,
    RlRecipe,
    SftRecipe,
    SudokuTask,
    TaskRecipe,
    TinyModel,
    WalkTask,
)
from diffpo.report.sources import read_run
from diffpo.tasks import countdown
from diffpo.tasks.base import Task
from diffpo.tasks.countdown import Countdown
from diffpo.tasks.splits import split_by_hash
from diffpo.tasks.sudoku import Sudoku
from diffpo.tasks.walk import Walk
from diffpo.training.rl import run_rl
from diffpo.training.sft import denoising_loss, draw_noise, run_sft, tiny_llada
from diffpo.training.sft_data import on_canvas

SMALL = ["threads=1", "model.d_model=16", "model.n_layers=1", "model.n_heads=2", "model.mlp_hidden_size=16", "batch=8"]


# --- recipes


@pytest.mark.parametrize(
    ("overrides", "recipe", "task"),
    [
        ([], SudokuTask(), Sudoku()),
        (["task.min_clues=8"], SudokuTask(min_clues=8), Sudoku(min_clues=8)),
        (["task.kind=sudoku", "task.size=6"], SudokuTask(size=6), Sudoku(6)),
        (["task.kind=countdown", "task.number_credit=0.1"], CountdownTask(kind="countdown", number_credit=0.1), None),
        (["task.kind=countdown"], CountdownTask(kind="countdown"), Countdown()),
        (["task.kind=walk", "task.successors=3"], WalkTask(kind="walk", successors=3), Walk(successors=3)),
    ],
)
def test_a_recipe_chooses_its_task(overrides: list[str], recipe: TaskRecipe, task: Task | None) -> None:
    loaded = load_recipe(SftRecipe, None, overrides)
    assert loaded.task == recipe
    assert load_recipe(RlRecipe, None, ["base=x", "budget.steps=1", *overrides]).task == recipe
    if overrides:
        assert load_recipe(EvalRecipe, None, ["model=x", *overrides]).task == recipe
    assert task is None or build_task(recipe) == task
    assert build_task(recipe).completion_length == recipe.completion_length


def test_every_mistake_in_a_task_is_listed_at_once() -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(SftRecipe, None, ["task.kind=countdown", "task.max_number=100", "task.max_traget=5", "steps=0"])
    assert [line.strip() for line in str(caught.value).splitlines()] == [
        "3 mistakes in the overrides:",
        "task.max_traget: unknown option; did you mean 'max_target'? "
        "(known: reward, reward_seconds, kind, max_number, max_target, operators, number_credit)",
        "task.max_number: should be less than or equal to 99, got 100",
        "steps: should be greater than or equal to 1, got 0",
    ]
    with pytest.raises(
        UserError, match=r"kind: should be 'sudoku' or 'countdown' or 'walk' or .*, got 'wlak'; did you mean"
    ):
        load_recipe(SftRecipe, None, ["task.kind=wlak"])
    with pytest.raises(UserError, match=r"task\.length: should be greater than or equal to 4, got 2"):
        load_recipe(SftRecipe, None, ["task.kind=walk", "task.length=2"])
    with pytest.raises(UserError, match="block_length 3 does not divide the completion length 7; use one of 1, 7"):
        load_recipe(RlRecipe, None, ["base=x", "budget.steps=1", "task.kind=countdown", "rollout.block_length=3"])


@pytest.mark.parametrize("name", ["countdown-base", "walk-base", "sudoku4-base", "d1-sft"])
def test_base_recipes_are_stored_and_read_back(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(SftRecipe, name)
    (tmp_path / RECIPE).write_text(dump_recipe(recipe))
    assert load_recipe(SftRecipe, str(tmp_path / RECIPE)) == recipe
    assert stored_task(tmp_path) == recipe.task


@pytest.mark.parametrize(("text", "task"), [("", SudokuTask()), ("[task]\nsize = 6", SudokuTask(size=6))])
def test_a_run_stored_without_a_kind_is_of_sudoku(text: str, task: SudokuTask, tmp_path: Path) -> None:
    (tmp_path / RECIPE).write_text(text)
    assert stored_task(tmp_path) == task


@pytest.mark.parametrize("text", ["task = 3", "[task]\nkind = 'chess'", "[task]\nkind = 'walk'\nlength = 2"])
def test_a_run_whose_task_is_unknown(text: str, tmp_path: Path) -> None:
    (tmp_path / RECIPE).write_text(text)
    with pytest.raises(UserError, match=r"does not say which task: .*; give task\."):
        stored_task(tmp_path)


def test_splits_by_hash_have_the_promised_shares() -> None:
    splits = [split_by_hash(str(number)) for number in range(20_000)]
    assert splits.count("test") / 20_000 == pytest.approx(26 / 256, abs=0.01)
    assert splits.count("validation") / 20_000 == pytest.approx(13 / 256, abs=0.01)


# --- answers shorter than the canvas


def test_short_answers_are_filled_up_with_end_of_text() -> None:
    tokenizer = char_tokenizer(Countdown().alphabet)
    ids = encode_answers(tokenizer, ["1+2-3", "(1+2)*3"], 7)
    eos = tokenizer.convert_tokens_to_ids(EOS_TOKEN)
    assert ids[0, 5:].tolist() == [eos, eos]
    assert [decode_text(tokenizer, row) for row in ids.tolist()] == ["1+2-3", "(1+2)*3"]
    with pytest.raises(UserError, match="an answer has 7 tokens, and the canvas 6"):
        encode_answers(tokenizer, ["1+2-3", "(1+2)*3"], 6)


class PrefersTheEnd(ModelDenoiser):
    """Prefers the end of text by one nat, at every position of every canvas."""

    def predict(
        self,
        canvas: Int[Tensor, "R N"],
        attention_mask: Bool[Tensor, "R N"],
        at: Bool[Tensor, "R N"],
        window: Window | None = None,
    ) -> Logits:
        self.usage.canvases = int(at.sum())
        return Logits(F.one_hot(torch.tensor(self.stop_ids * int(at.sum())), self.model.config.vocab_size).float())


@pytest.mark.parametrize("weighting", ["elbo", "uniform"])
def test_the_tail_is_scored_like_the_rest(weighting: Literal["elbo", "uniform"]) -> None:
    """Where the whole canvas of 7 is masked, two tokens of an answer of 5 are ends, one nat likelier than the rest."""
    tokenizer = char_tokenizer(Countdown().alphabet)
    model = tiny_llada(TinyModel(d_model=8, n_layers=1, n_heads=1, mlp_hidden_size=8), tokenizer, seed=0)
    denoiser = PrefersTheEnd(model, mask_id=tokenizer.mask_token_id, stop_ids=(tokenizer.eos_token_id,))
    problem = next(p for p in Countdown().problems("train", 50, seed=0) if len(p.answer) == 5)
    losses = set()
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        targets = on_canvas(tokenizer, [problem], 7)
        loss = denoising_loss(denoiser, targets, draw_noise(targets, weighting, generator))
        if denoiser.usage.canvases == 7:
            losses.add(round(float(loss), 4))
    assert losses == {round(math.log(len(tokenizer) - 1 + math.e) - 2 / 7, 4)}


# --- the loops


@pytest.mark.parametrize("kind", ["countdown", pytest.param("walk", marks=pytest.mark.slow)])
def test_every_verb_runs_on_the_task(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = f"task.kind={kind}"
    base, run = tmp_path / "base", tmp_path / "run"
    run_sft(
        load_recipe(SftRecipe, None, [*SMALL, task, "steps=3", "early_stopping={every = 1, problems_per_check = 4}"]),
        base,
    )
    rl = [
        "threads=1",
        task,
        f"base={json.dumps(str(base))}",
        "train=joint",
        "rollout.prompts_per_step=2",
        "rollout.group_size=2",
    ]
    run_rl(load_recipe(RlRecipe, None, [*rl, "budget.steps=1"]), run)
    record = tmp_path / "eval" / "run.json"
    # More than one batch: their prompts must be of one length.
    run_eval(
        load_recipe(EvalRecipe, None, [f"model={json.dumps(str(run))}", "count=9", "batch=4", "validation_count=8"]),
        record,
    )
    found = json.loads(record.read_text())
    assert found["clues"] == found["learned"]["by_clues"] == []
    assert found["task"] == build_task(stored_task(run)).name
    problems = build_task(stored_task(run)).problems("test", 9, derive_seed(0, "eval"))
    assert found["clusters"] == [problem.cluster for problem in problems]
    for played in found["playback"]:
        assert "<" not in played["completion"] and len(played["completion"]) <= len(played["unmask_step"])
    (arm,) = read_run(tmp_path / "eval" / "..").arms[-1:]
    assert arm.name == "run"
    length = build_task(stored_task(run)).completion_length
    run_sample(run, problems[0].prompt, SampleSettings(length, temperature=1.0), DeviceSettings())
    lines = capsys.readouterr().out.splitlines()
    canvases = [line[6:] for line in lines if line[:4].strip().isdecimal() and line[4:6] == "  "]
    assert canvases and {len(canvas) for canvas in canvases} == {length}


def test_failures_of_the_grader_are_logged_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base, run = tmp_path / "base", tmp_path / "run"
    run_sft(load_recipe(SftRecipe, None, [*SMALL, "task.kind=countdown", "steps=1"]), base)
    calls = itertools.count()
    real = countdown.parse_prompt
    monkeypatch.setattr(countdown, "parse_prompt", lambda prompt: None if next(calls) % 4 else real(prompt))
    rl = [
        "threads=1",
        "task.kind=countdown",
        f"base={json.dumps(str(base))}",
        "rollout.prompts_per_step=2",
        "rollout.group_size=2",
    ]
    run_rl(load_recipe(RlRecipe, None, [*rl, "budget.steps=1"]), run)
    (line,) = (run / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["grader_failed"] == 3.0
    assert (
        "warning: the grader failed on 3 completions of a step, which earned 0; of the first: no rea"
        in capsys.readouterr().out
    )
    monkeypatch.setattr(countdown, "parse_prompt", lambda prompt: None)
    run_eval(
        load_recipe(
            EvalRecipe, None, [f"model={json.dumps(str(run))}", "count=3", "validation_count=0", "bounds=[0.0]"]
        ),
        run / "e.json",
    )
    assert "warning: the grader failed on 3 of 3 answers, which count as wrong" in capsys.readouterr().out
