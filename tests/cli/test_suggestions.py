"""Whatever name is misspelt, the nearest one is suggested."""

import json
import re
from contextlib import suppress
from pathlib import Path

import pytest

from diffpo.cli.main import main

TEXT = 'task={kind="text", source="rows.jsonl", prompt="question", '
MISSPELT = [
    ("a verb", ["smaple"], "sample"),
    ("an option", ["rl", "d1", "--dry-rn"], "--dry-run"),
    ("an option that others begin like", ["sample", "runs/demo", "--promt", "x"], "--prompt"),
    ("the value of an option", ["sample", "runs/demo", "--prompt", "x", "--device", "cudda"], "cuda"),
    ("a recipe", ["rl", "tiny-difpo", "--dry-run"], "tiny-diffpo"),
    ("a recipe to print", ["recipes", "tiny-difpo"], "tiny-diffpo"),
    ("a piece", ["rl", "d1+gms8k", "--dry-run"], "gsm8k"),
    ("a recipe's file", ["rl", "mien.toml", "--dry-run"], "mine.toml"),
    ("a study", ["study", "study-amrs", "--out", "x"], "study-arms"),
    ("a recipe of eval", ["eval", "runs/demo", "--recipe", "sudoku4-evl"], "sudoku4-eval"),
    ("a model's folder", ["eval", "runs/dmo"], "runs/demo"),
    ("a table", ["rl", "d1", "rolout.group_size=3", "--dry-run"], "rollout"),
    ("a key", ["rl", "d1", "rollout.grup_size=3", "--dry-run"], "group_size"),
    ("a value", ["rl", "d1", "train=polcy", "--dry-run"], "policy"),
    ("a task", ["rl", "d1", "task.kind=gsm8", "--dry-run"], "gsm8k"),
    ("an objective", ["rl", "d1", "objective.kind=reinfroce", "--dry-run"], "reinforce"),
    ("an estimator", ["rl", "d1", "estimator.kind=mean-feild", "--dry-run"], "mean-field"),
    ("a rule", ["rl", "d1", "rollout.rule.kind=leftmst", "--dry-run"], "leftmost"),
    ("an advantage", ["rl", "d1", "objective.advantage=group-sd", "--dry-run"], "group-std"),
    ("a device", ["rl", "d1", "device=cudda", "--dry-run"], "cuda"),
    ("an accelerator", ["rl", "d1", "--dry-run", "--device", "h10"], "h100"),
    ("a grader", ["check", "d1", TEXT + 'grader="exat"}'], "exact"),
    ("a reward", ["check", "d1", TEXT + 'reward="corect"}'], "correct"),
    ("a reward function", ["check", "d1", TEXT + 'reward="rewards.py:shrot"}'], "short"),
    ("a reward's file", ["check", "d1", TEXT + 'reward="reward.py:short"}'], "rewards.py"),
    ("a class", ["rl", "d1", "estimator.kind=rewards.py:Prt", "--dry-run"], "Part"),
    ("the column of prompts", ["check", "d1", 'task={kind="text", source="rows.jsonl", prompt="queston"}'], "question"),
    ("the column of answers", ["check", "d1", TEXT + 'answer="anwser"}'], "answer"),
    ("a column of a template", ["check", "d1", TEXT + 'template="{queston}"}'], "question"),
    ("a column of a data set", ["check", "d1", 'task={kind="gsm8k", source="other.jsonl"}'], "questin"),
    ("a data file", ["check", "d1", 'task={kind="text", source="row.jsonl", prompt="question"}'], "rows.jsonl"),
    ("the verb of a recipe", ["check", "d1", "--as", "stf"], "sft"),
    ("an arm", ["study", "study-arms", "--out", "x", "--arms", "diffop"], "diffpo"),
    ("a task of a study", ["study", "study-arms", "--out", "x", "--tasks", "wlak"], "walk"),
    ("a task to score", ["score", "rows.jsonl", "--task", "gms8k"], "gsm8k"),
    ("a benchmark", ["bench", "rolout"], "rollout"),
    ("another library's verb", ["grpo"], "rl"),
    ("another library's setting", ["rl", "d1", "learning_rate=1", "--dry-run"], "optimizer.lr"),
    ("another library's verb, misspelt", ["trian"], "sft"),
    ("another library's objective", ["rl", "d1", "objective.kind=grop", "--dry-run"], "clipped-surrogate"),
    ("a recipe's file without a folder", ["rl", "mine.tml", "--dry-run"], "mine.toml"),
    ("a key that is one in an array, too", ["eval", "runs/demo", "bound=[0.1]"], "bounds"),
    ("a key of another verb", ["sft", "sudoku4-base", "budgte.steps=3", "--dry-run"], "budget"),
    ("a run to report", ["report", "runs/dmeo"], "runs/demo"),
    ("a key without its table", ["rl", "d1", "group_size=3", "--dry-run"], "rollout.group_size"),
    ("a setting of a table", ["rl", "d1", "rollout.num_generations=3", "--dry-run"], "rollout.group_size"),
]


TOLD = [
    (["eval", "runs/demo", "cap=0.5"], "cap: unknown option (known:"),
    (["sft", "sudoku4-base", "budget.steps=3", "--dry-run"], "unknown option; 'budget' is a key of diffpo rl (known:"),
    (["rl", "tiny-d1", "sequence_length=3", "--dry-run"], "unknown option; 'sequence_length' is a key of diffpo sft ("),
    (["rl", "tiny-d1", "--out", "x"], "runs/demo/base does not exist; it is the default of `base` in built-in recipes"),
    (
        ["check", "d1", 'task={kind="text", source="semicolons.csv", prompt="question"}'],
        "there are question;answer; it seems to be separated by ';', and a comma is expected",
    ),
    (
        ["check", "d1", 'task={kind="text", source="many.csv", prompt="question"}'],
        "2 fields instead of 1: it has too many; it seems to be separated by tab, and a comma is expected",
    ),
    (
        ["check", "d1", 'task={kind="text", source="empty.csv", prompt="question"}'],
        "task.answer names column 'answer', which is empty here: fill it, or delete the row;",
    ),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("runs/demo").mkdir(parents=True)
    Path("mine.toml").write_text("seed = 0\n", encoding="utf-8")
    rows = [{"question": f"{n} + 1", "answer": str(n + 1)} for n in range(40)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    Path("other.jsonl").write_text(json.dumps({"questin": "1 + 1", "answer": "#### 2"}) + "\n", encoding="utf-8")
    Path("rewards.py").write_text(
        "def short(completions, **columns):\n    return [0.0] * len(completions)\n\n\nclass Part:\n    pass\n",
        encoding="utf-8",
    )
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("arguments", "meant"), [case[1:] for case in MISSPELT], ids=[case[0] for case in MISSPELT])
def test_the_nearest_name_is_suggested(arguments: list[str], meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    printed = capsys.readouterr()
    assert caught.value.code == 2
    told = " ".join((printed.err + printed.out).split())
    guesses = re.findall(r"did you mean ([^?]*)\?", told, flags=re.IGNORECASE)
    assert any(meant in re.findall(r"[^\s',]+", guess) for guess in guesses), told
    assert "Traceback" not in told


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("arguments", "words"), TOLD)
def test_what_is_meant_is_told(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("semicolons.csv").write_text("question;answer\n1 + 1;2\n", encoding="utf-8")
    Path("many.csv").write_text("question\tanswer\n1,5 + 1\t2\n", encoding="utf-8")
    Path("empty.csv").write_text("question,answer\n1 + 1,2\n1 + 2,\n", encoding="utf-8")
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    printed = capsys.readouterr()
    assert caught.value.code == 2 and words in " ".join((printed.err + printed.out).split())


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("template", ["", ', template="{question}"', ', answer_template="{answer}"'])
def test_a_column_that_a_template_makes_unused_is_told(template: str, capsys: pytest.CaptureFixture[str]) -> None:
    columns = 'prompt="question"' if "answer_t" not in template else 'template="{question}", answer="nothing"'
    task = f'task={{kind="text", source="rows.jsonl", {columns}{template}, completion_length=4}}'
    with suppress(SystemExit):
        main(["check", "tiny-base", task])
    told = [line for line in capsys.readouterr().out.splitlines() if "counts for nothing" in line]
    name = "answer" if "answer_t" in template else "prompt"
    assert told == (
        [f"- task.{name} counts for nothing, since task.{template[2:].partition('=')[0]} is set; leave one of them out"]
        if template
        else []
    )


def test_a_key_is_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["rl", "tiny-d1", "--steps", "5"])
    told = " ".join(capsys.readouterr().err.split())
    assert told.endswith("No such option: --steps; keys of a recipe are given without dashes, as budget.steps=5")
