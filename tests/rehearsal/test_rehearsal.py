"""`--rehearse`: ten and more planted mistakes, each found in words, and recipes in which there is none."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.families import tiny_folder
from tests.helpers.published import LLADA, write_config, write_folder

from diffpo.cli.main import main
from diffpo.core.errors import UserError
from diffpo.recipes import load_recipe
from diffpo.recipes.tables import RlRecipe, SftRecipe
from diffpo.rehearsal import stand_in
from diffpo.rehearsal.run import Rehearsal, rehearse

SHORT = ["task.instructions=Solve.", "threads=1"]
FRAME = "<|start_header_id|>{{ m['role'] }}<|end_header_id|>{{ m['content'] }}"
ASSISTANT = "<|start_header_id|>assistant<|end_header_id|>"
LLADA_TEMPLATE = f"{{% for m in messages %}}{FRAME}<|eot_id|>{{% endfor %}}{ASSISTANT}"
REWARDS = """
def nothing(completions, **columns):
    return [0.0 for _ in completions]

def everything(completions, **columns):
    return [1.0 for _ in completions]

def short(completions, **columns):
    return [-len(text) for text in completions]

def broken(completions, gold, **columns):
    return [1 / (len(text) - len(text)) for text in completions]

def lost(reward):
    return {}["lost"]

def by_difficulty(completions, difficulty):
    return [float(level) for level in difficulty]
"""


def write_rows(file: Path, count: int = 40, **broken: str) -> Path:
    """Write rows of GSM8K's form; `broken` replaces columns of the third."""
    rows = [
        {
            "question": f"Tom has {i} apples and gets {i % 7 + 2}. How many has he?",
            "answer": f"So\n#### {i + i % 7 + 2}",
        }
        for i in range(count)
    ]
    rows[2] |= broken
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def write_base(folder: Path, template: str | None = LLADA_TEMPLATE) -> Path:
    """Write a small LLaDA in the published format."""
    write_folder(folder, LLADA)
    if template is not None:
        set_template(folder, template)
    return folder


def set_template(folder: Path, template: str) -> None:
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": template}))


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with rows, rewards and a base, in which nothing is wrong; it is the current one."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "rewards.py").write_text(REWARDS)
    write_base(tmp_path / "base")
    return tmp_path


def with_row(**broken: str) -> Callable[[Path], object]:
    return lambda folder: write_rows(folder / "rows.jsonl", 40, **broken)


def with_template(template: str) -> Callable[[Path], object]:
    return lambda folder: set_template(folder / "base", template)


def with_config(**fields: Any) -> Callable[[Path], object]:
    return lambda folder: write_config(folder / "base", LLADA.config | fields)


def with_math(folder: Path) -> None:
    rows = [{"problem": f"What is {i} + 1?", "answer": str(i + 1) if i else "no idea, {"} for i in range(80)]
    lines = [json.dumps(row) + "\n" for row in rows]
    (folder / "math.jsonl").write_text("".join(lines[40:]))
    (folder / "test.jsonl").write_text("".join(lines[:40]))


def with_long_questions(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    for row in rows[::3]:
        row["question"] += " Take your time." * 20
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def nothing(folder: Path) -> None: ...


Plant = Callable[[Path], object]
MISTAKES: Mapping[str, tuple[Plant, list[str], list[str]]] = {
    "a reward that pays nothing": (
        nothing,
        ["task.reward=rewards.py:nothing"],
        ["every reward is 0 (nothing)", "is given to it as '"],
    ),
    "a reward that pays everything": (
        nothing,
        ["task.reward=rewards.py:everything"],
        ["the same, 1 (everything), for gold answers, for empty texts"],
    ),
    "a reward that pays garbage best": (
        nothing,
        ["task.reward=rewards.py:short"],
        ["garbage earns at least as much as gold answers (short)"],
    ),
    "a reward that raises": (
        nothing,
        ["task.reward=rewards.py:broken"],
        ["the reward broken raises ZeroDivisionError", "on problem 'gsm8k-train-", "rewards.py", "division by zero"],
    ),
    "a column that the data lack": (
        nothing,
        ["task.reward=rewards.py:by_difficulty"],
        ["the reward by_difficulty needs column 'difficulty', which the data lack"],
    ),
    "a row that cannot be read": (with_row(answer="none"), [], ["rows.jsonl:3: field 'answer' should be a number"]),
    "no data": (
        nothing,
        ["task.source=openai/gsm8k:main"],
        ["hf download openai/gsm8k --repo-type", "task.source=FILE"],
    ),
    "a template that raises": (
        with_template("{{ raise_exception('system first') }}"),
        [],
        ["cannot be rendered", "system first"],
    ),
    "a template that drops answers": (
        with_template(f"{{% for m in messages if m['role'] == 'user' %}}{FRAME}<|eot_id|>{{% endfor %}}{ASSISTANT}"),
        [],
        ["does not show every turn (user, assistant)"],
    ),
    "an end that is no token": (
        with_template(f"{{% for m in messages %}}{FRAME}</s>{{% endfor %}}{ASSISTANT}"),
        [],
        ["completions would never end", "'<'", "<|eot_id|>"],
    ),
    "prompts that are too long": (
        with_long_questions,
        ["task.max_prompt_tokens=100"],
        ["13 of the 34 prompts looked at are longer than 100 tokens", "the longest has 392"],
    ),
    "an advantage that raises": (
        nothing,
        ["objective.advantage=rewards.py:lost"],
        ["a step of training raises KeyError: 'lost'", "rewards.py", "in lost"],
    ),
    "a rate that is rounded away": (
        nothing,
        ["optimizer.lr=1e-30", "optimizer.weight_decay=0.0"],
        ["groups of weights do not move though their gradient is not 0"],
    ),
    "a step that cannot be divided": (
        nothing,
        ["--devices=3"],
        ["divided among 3 devices: rollout.prompts_per_step is 16"],
    ),
    "memory that does not suffice": (nothing, ["--device-memory=0.001"], ["a device has 0.001 GiB, and the run takes"]),
    "a gold answer that is no answer": (
        with_math,
        ["task.kind=math500", "task.source=math.jsonl", "task.test_source=test.jsonl", "rollout.block_length=32"],
        ["takes 1 of the 40 gold answers of test problems for wrong", "math500-test-0", "no idea"],
    ),
    "another model's tokenizer": (
        with_config(vocab_size=1024, embedding_size=1024),
        [],
        ["the weights in base do not fit its config.json"],
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_planted_mistake_is_found_in_words(name: str, setting: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant, overrides, words = MISTAKES[name]
    plant(setting)
    recipe = ["d1+llada-8b+gsm8k", "base=base", "task.source=rows.jsonl", "objective.micro_batch_size=12"]
    code, told = run_cli(capsys, "rl", *recipe, *SHORT, "--rehearse", *overrides)
    verdict = told.partition("# ")[2].rpartition("wrong:")[2]
    assert code == 2 and verdict.strip().startswith("1. ")
    assert all(word in verdict for word in words), verdict
    assert "2. " not in verdict, "one mistake, one finding"
    assert sorted(path.name for path in setting.iterdir() if path.suffix != ".jsonl" and path.name[0] != "_") == [
        "base",
        "rewards.py",
    ]


def run_cli(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str]:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return caught.value.code or 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        ("diffpo+llada-8b+gsm8k+1gpu", ["own are not here", "8,015,581,184", "bytes of the stand-in"]),
        pytest.param("d1+llada-8b+gsm8k+8gpu", ["own are not here", "each of 8 devices"], marks=pytest.mark.slow),
        pytest.param("d1+dream-7b+gsm8k+1gpu-4bit", ["Dream's chat template", "7,615,616,512"], marks=pytest.mark.slow),
    ],
)
def test_shipped_recipes_are_clean(
    names: str, parts: list[str], setting: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    devices = "--devices=8" if "8gpu" in names else "--devices=1"
    machine = [devices, "--device-memory=80"]
    code, told = run_cli(capsys, "rl", names, "task.source=rows.jsonl", *SHORT, "--rehearse", *machine)
    assert code == 0 and told.endswith("nothing is wrong that a rehearsal can see\n"), told
    assert all(part in told for part in parts), told


def test_a_folder_is_kept_where_one_is_named(setting: Path) -> None:
    done = rehearsed(setting, out=setting / "kept")
    assert done.findings.faults == [] and "its own tokenizer, from base" in done.report()
    assert {path.name for path in (setting / "kept").iterdir()} == {"stand-in", "run", "evaluation.json"}
    assert json.loads((setting / "kept" / "stand-in" / "config.json").read_text())["rope_theta"] == 500000.0
    lines = (setting / "kept" / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]


def test_fine_tuning_is_rehearsed_and_answers_that_are_cut_are_found(setting: Path) -> None:
    given = ["base=base", 'task={kind="gsm8k",source="rows.jsonl"}', *SHORT]
    clean = rehearse(load_recipe(SftRecipe, "d1-sft", given))
    assert clean.findings.faults == [] and "3 steps of 4 rows, the last of them again" in clean.report()
    (fault,) = rehearse(load_recipe(SftRecipe, "d1-sft", [*given, "sequence_length=90"])).findings.faults
    assert fault.startswith("33 of the 33 gold answers") and "never to end" in fault


@pytest.mark.parametrize("name", [pytest.param("tiny-any-speed", marks=pytest.mark.slow), "tiny-planner"])
def test_tiny_recipes_of_other_kinds_are_clean(name: str, setting: Path) -> None:
    tiny_folder(setting / "tiny", "llada")
    done = rehearse(load_recipe(RlRecipe, name, ["base=tiny", "threads=1"]))
    assert done.findings.faults == [] and not any("no weight" in note for note in done.findings.notes)


def test_a_cached_tokenizer_is_used_though_the_weights_are_not_here(
    setting: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = write_base(setting / "snapshots" / "0")
    (cached / "model.safetensors").unlink()
    monkeypatch.setattr(stand_in, "cached_folder", lambda *arguments: cached)
    made = stand_in.write_stand_in("some/finetune", setting / "made", is_quantised=False)
    assert not made.is_byte_level and made.positions == 4096 and f"its own tokenizer, from {cached}" in made.told
    monkeypatch.setattr(stand_in, "cached_folder", lambda *arguments: None)
    with pytest.raises(UserError, match="run `hf download some/finetune --include"):
        stand_in.write_stand_in("some/finetune", setting / "other", is_quantised=False)


def test_a_reward_that_draws_at_random_is_noted(setting: Path) -> None:
    (setting / "random_reward.py").write_text(
        "import random\n\ndef luck(completions, gold, **columns):\n"
        "    return [random.random() + 9 * (g in t) for g, t in zip(gold, completions)]\n"
    )
    done = rehearsed(setting, "task.reward=random_reward.py:luck")
    assert done.findings.faults == [] and "is not the same each time" in done.findings.notes[-1]


def rehearsed(folder: Path, *overrides: str, out: Path | None = None) -> Rehearsal:
    given = ["base=base", "task.source=rows.jsonl", *SHORT, *overrides]
    return rehearse(load_recipe(RlRecipe, "d1+llada-8b+gsm8k", given), out)
