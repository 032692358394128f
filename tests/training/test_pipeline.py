"""The whole way on random models in the published formats: SFT, merge, RL by three algorithms, evaluate, sample."""

import json
from pathlib import Path

import pytest
from tests.helpers import published

from diffpo.cli.main import main
from diffpo.core.errors import UserError
from diffpo.models.model_paths import METRICS, checkpoints, is_adapter
from diffpo.recipes import load_recipe
from diffpo.recipes.tables import SftRecipe
from diffpo.sampling.policy import load
from diffpo.training.sft import run_sft

ROWS = 300
LORA = ["lora.rank=2", "lora.alpha=4"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in GSM8K's format."""
    file = tmp_path_factory.mktemp("data") / "sums.jsonl"
    rows = [{"question": f"What is {i} + {i % 7}?", "answer": f"Add.\n#### {i + i % 7}"} for i in range(ROWS)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in s1K's format, some of whose answers are too long."""
    file = tmp_path_factory.mktemp("data") / "traces.jsonl"
    rows = [
        {"question": f"What is {i} + 1?", "thinking_trajectories": ["Count. " * (i % 5)], "attempt": f"It is {i + 1}."}
        for i in range(1, ROWS)
        if i % 5
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def did(*arguments: object) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    assert caught.value.code == 0


@pytest.mark.parametrize(
    ("family", "adapter"),
    [
        pytest.param("LLaDA", [], id="LLaDA-full"),
        pytest.param("Dream", LORA, id="Dream-lora"),
        pytest.param("LLaDA", LORA, id="LLaDA-lora", marks=pytest.mark.slow),
        pytest.param("Dream", [], id="Dream-full", marks=pytest.mark.slow),
    ],
)
def test_from_a_published_folder_to_a_sample(
    family: str, adapter: list[str], data: Path, traces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, out = tmp_path / "base", tmp_path / "runs"
    published.write_folder(base, published.PUBLISHED[family])
    task = [f"task.source={json.dumps(str(traces))}", "task.kind=s1k", "sequence_length=95", "micro_batch_size=2"]
    small = ["rollout.prompts_per_step=2", "rollout.group_size=2", "objective.num_iterations=1", "budget={steps=1}"]

    sft = ["optimizer.lr=1e-3", "batch=4", "steps=2", f"base={json.dumps(str(base))}"]
    settings = tmp_path / "sft.toml"
    settings.write_text("")
    did("sft", settings, *task, 'task.instructions="Q:"', "threads=1", *sft, *adapter, "--out", out / "sft")
    lines = [json.loads(text) for text in (out / "sft" / METRICS).read_text().splitlines()]
    assert [line["skipped"] for line in lines] == [0, 0] and 0 < sum(line["cut"] for line in lines) < 8
    merged = out / "sft"
    if adapter:
        assert is_adapter(checkpoints(out / "sft")[-1])
        merged = out / "merged"
        did("merge", out / "sft", "--out", merged)
    trained = f"base={json.dumps(str(merged))}"
    for name in ("d1", "diffpo", "dmpo"):
        did("rl", name, trained, f"task={{kind='gsm8k', source={json.dumps(str(data))}, completion_length=16}}",
            "threads=1", *small, *adapter, "--out", out / name)  # fmt: skip
        (line,) = (json.loads(text) for text in (out / name / METRICS).read_text().splitlines())
        assert line["rollout_tokens"] > 0 and is_adapter(checkpoints(out / name)[-1]) == bool(adapter)
    did("eval", out / "diffpo", "count=9", "batch=4", "split=validation", "bounds=[0.5]", "threads=1")
    record = json.loads((out / "diffpo" / "eval.json").read_text())
    assert [point["rule"] for point in record["points"]] == ["entropy bound 0.5"] and record["learned"] is not None
    capsys.readouterr()
    did("sample", out / "diffpo", "--prompt", "What is 1 + 1?")
    said = capsys.readouterr().out
    assert "denoiser calls, entropy bound" in said, "by its own learned sampler"
    policy = load(out / "dmpo")
    denoiser = policy.denoiser
    controller = policy.controller
    assert controller is None and denoiser.model.config.model_type == published.PUBLISHED[family].config["model_type"]
    assert not (base / "canary").exists()


def test_an_answer_that_the_canvas_cannot_hold_is_said(data: Path, tmp_path: Path) -> None:
    published.write_folder(tmp_path / "base", published.LLADA)
    task = [f"task.source={json.dumps(str(data))}", "task.kind=gsm8k", "task.completion_length=4", "threads=1"]
    recipe = load_recipe(SftRecipe, None, [*task, f"base={json.dumps(str(tmp_path / 'base'))}", "batch=2", "steps=1"])
    with pytest.raises(UserError, match=r"which fits has at most 4 tokens; raise task\.completion_length"):
        run_sft(recipe, tmp_path / "run")
