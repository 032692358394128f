"""The card of a saved model says what is true of it, and only what diffpo wrote is ever written over."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData

from diffpo.cli.main import main
from diffpo.models.manifest import CARD, MANIFEST, problems_of
from diffpo.models.model_paths import RECIPE, checkpoints
from diffpo.runs.card_results import BEGIN, END, add_results, with_results
from diffpo.runs.model_card import base_model, command_line, commands_of, datasets_of, escaped, fenced, write_card


@pytest.fixture
def run(base: Path, tmp_path: Path) -> Path:
    """A copy of a run that a test may write into, its model not yet measured."""
    copy = shutil.copytree(base, tmp_path / "runs" / "mine")
    write_card(checkpoints(copy)[-1], copy)
    return copy


def card_of(run: Path) -> tuple[dict[str, Any], str]:
    """Return the metadata and the text of the card of a run's model; the metadata is YAML that anything reads."""
    content = (checkpoints(run)[-1] / CARD).read_text()
    _, metadata, text = content.split("---\n", 2)
    assert isinstance(ModelCard(content).data, ModelCardData)
    return yaml.safe_load(metadata), text


def record(**changes: Any) -> dict[str, Any]:
    point = {
        "rule": "entropy bound 0.1",
        "accuracy": 0.5,
        "ci95": [0.4, 0.6],
        "nfe": 3.0,
        "nfe_ci95": [2.5, 3.5],
        "n": 9,
    }
    return {"arm": "mine", "task": "sudoku4", "split": "test", "seed": 7, "points": [point]} | changes


def test_the_card_of_a_run(run: Path) -> None:
    metadata, text = card_of(run)
    assert metadata["library_name"] == "diffpo" and metadata["pipeline_tag"] == "text-generation"
    assert {"diffpo", "masked-diffusion", "llada", "sft", "sudoku"} <= set(metadata["tags"])
    assert not {"license", "base_model", "datasets", "model-index"} & metadata.keys()
    recipe = (run / RECIPE).read_text()
    assert f"\n{recipe.strip()}\n```" in text
    assert metadata["diffpo"]["seed"] == 0 and "| steps | 100 |" in text and "| sequences | 3200 |" in text
    assert "length=16" in text and "16 tokens at most" in text
    assert "Not measured yet" in text


def test_it_has_no_part_in_whether_a_checkpoint_is_whole(run: Path) -> None:
    folder = checkpoints(run)[-1]
    assert CARD not in json.loads((folder / MANIFEST).read_text())["files"]
    (folder / CARD).write_text("mine")
    assert problems_of(folder) == []
    (folder / CARD).unlink()
    assert problems_of(folder) == []


def test_an_evaluation_adds_its_figures(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["eval", str(run), "count=20", "bounds=[0.0,5.0]", "validation_count=0", "threads=1"])
    assert ended.value.code == 0
    found = json.loads((run / "eval.json").read_text())
    metadata, text = card_of(run)
    inside = text.partition(BEGIN)[2].partition(END)[0]
    assert "**sudoku4**, test split: 20 problems, seed 0" in inside and "Not measured" not in inside
    for point in found["points"]:
        low, high = point["ci95"]
        assert f"| {point['rule']} | {point['accuracy']:.3f} [{low:.3f}, {high:.3f}] |" in inside
    (result,) = metadata["model-index"][0]["results"]
    assert result["dataset"] == {"name": "sudoku4", "type": "sudoku4", "split": "test"}
    values = {metric["name"]: metric["value"] for metric in result["metrics"]}
    for point in found["points"]:
        assert values[f"accuracy, {point['rule']}"] == round(point["accuracy"], 4)
        assert values[f"nfe, {point['rule']}"] == round(point["nfe"], 4)
    assert problems_of(checkpoints(run)[-1]) == []


def test_another_split_stands_beside_and_the_same_one_is_replaced(run: Path) -> None:
    text = (checkpoints(run)[-1] / CARD).read_text()
    once = with_results(text, record())
    both = with_results(once, record(split="validation"))
    better = record(seed=8)
    better["points"][0]["accuracy"] = 0.75
    again = with_results(both, better)
    assert again.count("0.750 [") == 1 and again.count("0.500 [") == 1
    results = yaml.safe_load(again.split("---\n", 2)[1])["model-index"][0]["results"]
    found = {result["dataset"]["split"]: result["metrics"][0]["value"] for result in results}
    assert found == {"test": 0.75, "validation": 0.5}
    assert with_results(again, better) == again


@pytest.mark.parametrize("own", ["# My model\n\nHands off.\n", "---\nlicense: [broken\n---\n" + BEGIN + END])
def test_a_users_own_card_is_left_alone(run: Path, own: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = checkpoints(run)[-1] / CARD
    file.write_text(own)
    add_results(file.parent, record())
    assert file.read_text() == own
    told = capsys.readouterr().err
    assert ("they are in the record" in told) == (BEGIN in own)


def test_what_a_user_writes_around_the_results_stays(run: Path) -> None:
    file = checkpoints(run)[-1] / CARD
    file.write_text(file.read_text().replace("## Limits", "## What I think of it\n\nNot bad.\n\n## Limits"))
    add_results(file.parent, record())
    assert "Not bad." in file.read_text() and "0.500 [0.400, 0.600]" in file.read_text()


def test_names_of_the_users_own_do_not_break_the_card(run: Path) -> None:
    hostile = record(task="a --> <script>|\n`x`", arm="b: [c")
    hostile["points"][0]["rule"] = "FILE.py:Rule <b>|"
    text = with_results((checkpoints(run)[-1] / CARD).read_text(), hostile)
    inside = text.partition(BEGIN)[2].partition(END)[0]
    assert "<script>" not in inside and "<b>" not in inside and text.count("-->") == text.count("<!--")
    assert yaml.safe_load(text.split("---\n", 2)[1])["model-index"]
    assert fenced("a ```` b") == "`````\na ```` b\n`````"
    assert escaped("a|b<i>\n`c`\x1b") == r"a\|b\<i\> \`c\`\\x1b"


def test_a_few_points_of_many_are_shown(run: Path) -> None:
    many = record()
    many["points"] = [
        {**many["points"][0], "rule": f"entropy bound {nfe}", "nfe": float(nfe), "accuracy": 0.4 + 0.1 * (nfe == 3)}
        for nfe in range(1, 13)
    ]
    many["validation"] = {"best_constants": [{"rule": "entropy bound 7", "price": 0.1}]}
    curve = [{**many["points"][0], "rule": "risk 0.2"}]
    many["price_curve"] = {"points": curve, "prices": [{"price": 0.1, "rule": "risk 0.2"}]}
    many["learned"] = {**many["points"][0], "rule": "learned"}
    inside = with_results((checkpoints(run)[-1] / CARD).read_text(), many).partition(BEGIN)[2].partition(END)[0]
    shown = [line.split("|")[1].strip() for line in inside.splitlines() if line.startswith("| ") and "[" in line]
    named = ["entropy bound 1", "entropy bound 3", "entropy bound 7"]
    assert shown == [*named, "its sampler, price 0.1", "learned"]


def test_the_command_is_that_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/diffpo", "rl", "a b", "x=1"])
    assert command_line() == ["diffpo rl 'a b' x=1"]
    monkeypatch.setattr(sys, "argv", ["/lib/diffpo/__main__.py", "sft", "https://me:secret@host/x"])
    assert command_line() == ["diffpo sft https://***@host/x"]
    monkeypatch.setattr(sys, "argv", ["study.py", "--seed", "3"])
    assert command_line() == ["python study.py --seed 3"]
    for notebook in (["/lib/ipykernel_launcher.py", "-f", "kernel.json"], ["-c"], [""]):
        monkeypatch.setattr(sys, "argv", notebook)
        assert command_line() == []


def test_base_and_data_are_those_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, base in (("one", '"GSAI-ML/LLaDA-8B-Base@main"'), ("two", '"one"'), ("circle", '"circle"')):
        Path(name).mkdir()
        Path(name, RECIPE).write_text(f"base = {base}\n")
    assert base_model({"base": "two"}) == "GSAI-ML/LLaDA-8B-Base"
    assert base_model({"base": "circle"}) is None and base_model({"base": "gone/away/folder"}) is None
    assert base_model({}) is None
    assert datasets_of({"kind": "gsm8k"}) == ["openai/gsm8k"]
    Path("rows.jsonl").touch()
    assert datasets_of({"kind": "text", "source": "rows.jsonl", "test_source": "me/rows@v1:en"}) == ["me/rows"]
    assert datasets_of({"kind": "sudoku"}) == []


def test_a_later_command_stands_behind_the_first(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoints(run)[-1]
    monkeypatch.setattr(sys, "argv", ["diffpo", "sft", "recipe.toml"])
    write_card(folder, run)
    out = tmp_path / "merged"
    out.mkdir()
    shutil.copy(folder / "config.json", out)
    monkeypatch.setattr(sys, "argv", ["diffpo", "merge", "runs/mine", "--out", "merged"])
    write_card(out, folder, "merged", commands_of(folder))
    assert commands_of(out) == ["diffpo sft recipe.toml", "diffpo merge runs/mine --out merged"]
    text = (out / CARD).read_text()
    assert "# merged\n" in text and (run / RECIPE).read_text().strip() in text
    assert isinstance(ModelCard(text).data, ModelCardData)
    (folder / CARD).write_text("---\ndiffpo: 3\n---\n")
    assert commands_of(folder) == []
