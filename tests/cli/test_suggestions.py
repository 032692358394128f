"""Whatever name is misspelt, the nearest one is suggested."""

import json
import re
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
    ("a key without its table", ["rl", "d1", "group_size=3", "--dry-run"], "rollout.group_size"),
    ("a setting of a table", ["rl", "d1", "rollout.num_generations=3", "--dry-run"], "rollout.group_size"),
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


def test_a_key_is_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["rl", "tiny-d1", "--steps", "5"])
    told = " ".join(capsys.readouterr().err.split())
    assert told.endswith("No such option: --steps; keys of a recipe are given without dashes, as budget.steps=5")
