"""Mistakes of a user: exit code 2, one sentence on stderr that says what to do, no traceback, nothing overwritten."""

import json
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from diffpo.cli.main import main
from diffpo.models.manifest import MANIFEST
from diffpo.models.model_paths import checkpoints, model_folder
from diffpo.recipes import load_recipe
from diffpo.recipes.tables import SftRecipe
from diffpo.runs import device, memory_check
from diffpo.training.sft import run_sft

SMALL = ["threads=1", "model.d_model=16", "model.n_layers=1", "model.n_heads=2", "model.mlp_hidden_size=16", "batch=4"]
BUDGET = "budget.steps=1"

ErrorOf = Callable[..., str]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("errors") / "base"
    run_sft(load_recipe(SftRecipe, None, [*SMALL, "steps=2", "checkpoint.every=1"]), run)
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A run of its own to make mistakes with."""
    return Path(shutil.copytree(trained, tmp_path / "base"))


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    """An RL recipe without mistakes, but for the folder of its base."""
    file = tmp_path / "rl.toml"
    file.write_text('base = "base"\nthreads = 1\nbudget.steps = 1\nrollout.group_size = 2\n', encoding="utf-8")
    return str(file)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def error_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[ErrorOf]:
    """Return a function that runs a command that must fail, in a folder with an SFT recipe, and returns its error.

    With `is_list` the error has a line for each mistake, else one line in all.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sft.toml").write_text("batch = 1\nsteps = 1\nmodel.n_layers = 1\n", encoding="utf-8")

    def fail(*arguments: str, is_list: bool = False) -> str:
        before = contents(tmp_path)
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
        errors = capfd.readouterr().err
        first, *others = errors.splitlines()
        assert first.startswith("diffpo: ")
        assert bool(others) == is_list, errors
        assert all(line.startswith("  ") for line in others)
        assert contents(tmp_path) == before
        return errors

    yield fail


# ------------------------------------------------------------------------------------------------------------ recipes


def test_five_mistakes_in_a_recipe_are_told_at_once(error_of: ErrorOf, tmp_path: Path) -> None:
    file = tmp_path / "five.toml"
    file.write_text(
        """
        base = "base"
        train = "joint"

        [rollout]
        gruop_size = 4
        block_length = 5
        rule = {kind = "top-k"}

        [objective]
        kl_coef = "much"

        [optimizer]
        lr = -1e-4

        [budget]
        steps = 1
        """,
        encoding="utf-8",
    )
    first, *mistakes = error_of("rl", "five.toml", "--out", "run", is_list=True).splitlines()
    assert first == "diffpo: 5 mistakes in recipe five.toml:"
    expected = [
        ("rollout.gruop_size", "did you mean 'group_size'?"),
        ("objective.kl_coef", "should be a valid number, got 'much'"),
        ("optimizer.lr", "greater than 0, got -0.0001"),
        ("rollout.block_length 5", "does not divide the completion length 16; use one of 1, 2, 4, 8, 16"),
        ("train = 'joint'", "use kind = 'entropy-bound' or train = 'policy'"),
    ]
    assert len(mistakes) == len(expected)
    for key, advice in expected:
        (line,) = [line for line in mistakes if key in line]
        assert advice in line


@pytest.mark.parametrize(
    ("override", "key", "advice"),
    [
        ("rollout.temperature=0", "rollout.temperature 0", "or train the controller alone"),
        ("rollout.temperature=-1", "rollout.temperature", "greater than or equal to 0"),
        ("controller.greedy_stage.share=0.1", "controller.greedy_stage", "use train = 'joint'"),
        ("rollout.temperature=nan", "rollout.temperature", "finite"),
        ("rollout.group_size=1", "rollout.group_size 1", "use 2 or more, or objective.kind = 'expert-iteration'"),
        ("rollout.group_size=0", "rollout.group_size", "greater than or equal to 1"),
        ("rollout.rule.kind=low-confidence", "low-confidence", "keep it for evaluation"),
        ("rollout.rule.kind=entropy", "rollout.rule.kind", "did you mean 'entropy-bound'?"),
        ("train=both", "train", "'joint'"),
        ("task.min_clues=16", "task: min_clues 16", "lower it"),
        ("optimizer=0.1", "optimizer", "should be a table"),
        ("objective.nfe_penalty", "objective.nfe_penalty", "table.key=value"),
    ],
)
def test_a_mistake_is_named_by_its_key(override: str, key: str, advice: str, recipe: str, error_of: ErrorOf) -> None:
    first, mistake = error_of("rl", recipe, override, "--out", "run", is_list=True).splitlines()
    assert first.startswith("diffpo: 1 mistake in ")
    assert key in mistake and advice in mistake


def test_more_clues_at_least_than_at_most(recipe: str, error_of: ErrorOf) -> None:
    message = error_of("rl", recipe, "task.min_clues=9", "task.max_clues=5", "--out", "run", is_list=True)
    assert "min_clues 9 is above max_clues 5" in message


def test_a_run_needs_an_end(error_of: ErrorOf, tmp_path: Path) -> None:
    (tmp_path / "endless.toml").write_text('base = "base"\nbudget = {}\n')
    assert "neither steps nor denoiser_calls" in error_of("rl", "endless.toml", "--out", "run", is_list=True)


@pytest.mark.parametrize("clues", [["task.min_clues=3"], ["task.min_clues=12"]], ids=str)
def test_clues_out_of_range_leave_no_run_behind(
    clues: list[str], run: Path, recipe: str, error_of: ErrorOf, tmp_path: Path
) -> None:
    """12 is above the 10 that are the default at most; only the task knows."""
    for command in (["rl", recipe, f'base="{run}"'], ["sft", "sft.toml"]):
        assert "<= min_clues <= max_clues <=" in error_of(*command, *clues, "--out", "run")
        assert not (tmp_path / "run").exists()
    assert "<= min_clues <= max_clues <=" in error_of("eval", str(run), *clues)


def test_a_recipe_that_is_not_built_in(error_of: ErrorOf) -> None:
    message = error_of("sft", "sudoku4-bsae", "--out", "run")
    assert "no recipe is called 'sudoku4-bsae'; did you mean 'sudoku4-base'?" in message


def test_a_recipe_file_that_is_not_there(error_of: ErrorOf) -> None:
    assert "cannot read recipe nowhere/my.toml: No such file" in error_of("sft", "nowhere/my.toml", "--out", "run")


def test_a_recipe_file_that_is_not_toml(error_of: ErrorOf, tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("steps = = 3\n")
    message = error_of("sft", "broken.toml", "--out", "run")
    assert "broken.toml is not valid TOML" in message and "line 1" in message


# -------------------------------------------------------------------------------------------------------------- bases


def break_nothing(folder: Path) -> None:
    shutil.rmtree(folder)


def leave_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("not a folder")


def leave_it_empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def make_it_foreign(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "bert"}')


def break_its_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')


def cut_its_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def forget_its_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def claim_another_size(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"n_layers": 2}))


def forget_its_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def break_its_controller(folder: Path) -> None:
    (folder / "controller_config.json").write_text("{}")


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (break_nothing, "does not exist"),
        (leave_a_file, "is a file"),
        (leave_it_empty, "holds neither a model (config.json) nor a run's checkpoint-N folders"),
        (make_it_foreign, "'bert'"),
        (break_its_config, "config.json cannot be read"),
        (cut_its_weights, "cannot be loaded"),
        (forget_its_weights, "cannot be loaded"),
        (claim_another_size, "do not fit its config.json (missing keys: "),
        (forget_its_tokenizer, "tokenizer"),
        (break_its_controller, "learned sampler"),
    ],
)
def test_a_base_that_cannot_be_used(
    spoil: Callable[[Path], None], word: str, run: Path, recipe: str, error_of: ErrorOf, tmp_path: Path
) -> None:
    folder = model_folder(run).rename(tmp_path / "model")
    (folder / MANIFEST).unlink()
    spoil(folder)
    message = error_of("rl", recipe, "base=model", "--out", "run")
    assert "model" in message and word in message
    assert not (tmp_path / "run").exists()


# --------------------------------------------------------------------------------------------------------------- runs


@pytest.mark.parametrize("command", ["sft", "rl", "demo"])
def test_an_out_that_cannot_be_written(command: str, run: Path, recipe: str, error_of: ErrorOf, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    arguments = {"sft": ["sft", "sft.toml"], "rl": ["rl", recipe, f'base="{run}"'], "demo": ["demo"]}[command]
    message = error_of(*arguments, "--out", "file/x")
    assert "cannot write to file/x (Not a directory); choose another --out" in message


def test_an_out_that_holds_a_run(run: Path, recipe: str, error_of: ErrorOf) -> None:
    for command in (["sft", "sft.toml"], ["rl", recipe, f'base="{run}"']):
        assert "already holds a run; go on with it by --resume" in error_of(*command, "--out", str(run))


def test_an_out_whose_recipe_was_lost_is_still_a_run(run: Path, error_of: ErrorOf) -> None:
    (run / "recipe.toml").unlink()
    assert "already holds a run" in error_of("sft", "sft.toml", "--out", str(run))
    assert "nothing to resume" in error_of("sft", "sft.toml", "--out", str(run), "--resume")


@pytest.mark.parametrize("out", ["nowhere", "empty", "file/x"])
def test_nothing_to_resume(out: str, run: Path, recipe: str, error_of: ErrorOf, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("in the way")
    for command in (["sft", "sft.toml"], ["rl", recipe, f'base="{run}"']):
        assert f"nothing to resume: {out} holds no run" in error_of(*command, "--out", out, "--resume")
    assert not (tmp_path / "nowhere").exists()


def test_resuming_with_another_recipe_names_what_changed(run: Path, error_of: ErrorOf, tmp_path: Path) -> None:
    stored = str(shutil.copy(run / "recipe.toml", tmp_path / "mine.toml"))
    message = error_of("sft", stored, "steps=9", "optimizer.lr=0.5", "--out", str(run), "--resume")
    assert "steps: 2 -> 9; optimizer.lr: 0.001 -> 0.5)" in message
    assert checkpoints(run)[-1].name == "checkpoint-2"


# --------------------------------------------------------------------------------------------- eval, sample and report


def test_eval_of_a_folder_without_a_model(error_of: ErrorOf, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "holds neither a model" in error_of("eval", "empty")


def test_eval_of_a_model_that_nobody_knows_the_task_of(run: Path, error_of: ErrorOf, tmp_path: Path) -> None:
    model_folder(run).rename(tmp_path / "model")
    assert "give task.size=4 or 6" in error_of("eval", "model")


@pytest.mark.parametrize("text", ["steps = = 3", "[task]\nsize = 5"])
def test_eval_of_a_run_whose_recipe_is_spoilt(text: str, run: Path, error_of: ErrorOf) -> None:
    (run / "recipe.toml").write_text(text)
    assert "recipe.toml" in error_of("eval", str(run))


def test_eval_into_what_cannot_be_written(run: Path, error_of: ErrorOf, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    message = error_of("eval", str(run), "count=2", "bounds=[9.0]", "--out", "file/x/eval.json")
    assert "cannot write file/x/eval.json (Not a directory); choose another --out" in message


def test_eval_in_blocks_that_do_not_fit(run: Path, error_of: ErrorOf) -> None:
    assert "block_length 5 does not divide the completion length 16" in error_of("eval", str(run), "block_length=5")


def test_more_completions_in_flight_than_memory_has_room_for(
    run: Path, recipe: str, error_of: ErrorOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One block, float32, a canvas of 16 + 16 tokens: 4 x 16 + 2 x 16 numbers a token, 2 x 16 x 23 logits.
    each = 4 * (32 * (4 * 16 + 2 * 16) + 2 * 16 * 23)
    monkeypatch.setattr(memory_check, "free_bytes", lambda denoiser: 7 * each + each // 2)
    message = "completions at a time take about 0.0 GiB beside the model, and 0.0 are there; set"
    assert f"32 {message} rollout.max_in_flight to at most 7" in error_of("rl", recipe, "--out", "new")
    assert f"8 {message} rollout.max_in_flight to at most 7" in error_of(
        "rl", recipe, "rollout.max_in_flight=8", "--out", "new"
    )
    one_rule = ("bounds=[0.1]", "validation_count=0")
    assert f"10 {message} max_in_flight to at most 7" in error_of("eval", str(run), *one_rule, "count=10")
    assert f"9 {message} max_in_flight to at most 7" in error_of(
        "eval", str(run), *one_rule, "count=10", "max_in_flight=9"
    )
    with pytest.raises(SystemExit) as caught:
        main(["rl", recipe, "rollout.max_in_flight=7", "--out", "new"])
    assert not caught.value.code
    kept = 4 * 32 * 2 * 16  # keys and values of one layer
    monkeypatch.setattr(memory_check, "free_bytes", lambda denoiser: 7 * each)
    cached = error_of("eval", str(run), *one_rule, "count=7", "cache=dual", "block_length=8")
    assert f"max_in_flight to at most {7 * each // (each - 4 * 16 * 23 + kept)}" in cached


def test_attention_that_is_not_there(
    recipe: str, run: Path, error_of: ErrorOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(name: str) -> object:
        return None if name == "flash_attn" else find_spec(name)

    monkeypatch.setattr(device, "find_spec", find)
    asked = "attention=flash_attention_2"
    for command in (["rl", recipe, "--out", "new"], ["sft", "sft.toml", "--out", "new"], ["eval", str(run)]):
        message = error_of(*command, asked)
        assert "needs flash-attn, which is not installed: pip install flash-attn, or use attention = 'sdpa'" in message
    monkeypatch.setattr(device, "find_spec", lambda name: object())
    assert "needs a CUDA device, and this run has none" in error_of("rl", recipe, asked, "device=cpu", "--out", "new")
    assert "needs a CUDA device" in error_of("rl", recipe, "attention=flex_attention", "device=cpu", "--out", "new")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert "does not compute in float32; use dtype = 'bfloat16'" in error_of("rl", recipe, asked, "--out", "new")
    both = ["attention=flex_attention", "rollout.cache=dual", "rollout.block_length=4"]
    assert "rollout.cache 'dual' needs attention = 'sdpa'" in error_of(
        "rl", recipe, *both, "--out", "new", is_list=True
    )


def test_a_compiler_that_is_not_there(
    recipe: str, run: Path, error_of: ErrorOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "which", lambda name: None)
    message = error_of("rl", recipe, "compile=true", "device=cpu", "--out", "new")
    assert "compile = true needs a C++ compiler, and there is none (g++, clang++); leave it out" in message
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device, "find_spec", lambda name: None)
    assert "needs triton, which is not installed" in error_of("rl", recipe, "compile=true", "--out", "new")


def test_a_second_prompt_replaces_none(run: Path, error_of: ErrorOf) -> None:
    assert "--prompt is given 2 times; give one" in error_of("sample", str(run), "--prompt", "12", "--prompt", "34")


@pytest.mark.parametrize("prompt", ["1b9d", "1 2", "é", "<|mdm_mask|>"])
def test_a_prompt_outside_the_alphabet(prompt: str, run: Path, error_of: ErrorOf) -> None:
    assert "knows only the characters of its training data" in error_of("sample", str(run), "--prompt", prompt)


def test_an_empty_prompt(run: Path, error_of: ErrorOf) -> None:
    assert "empty" in error_of("sample", str(run), "--prompt", "")


def test_a_report_of_an_empty_folder(error_of: ErrorOf, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "nothing to report" in error_of("report", "empty")
    assert not (tmp_path / "empty" / "report.html").exists()
