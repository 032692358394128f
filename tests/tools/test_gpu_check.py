"""The GPU check's CPU mode, and that its JSON is whole whatever happens."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import gpu_check
from diffpo.bench.full_size import FullSize, on_cpu
from diffpo.bench.full_size_speed import Found
from diffpo.bench.whole_step import seconds_by_part
from diffpo.core.errors import UserError
from gpu_check import Part, Report, attempt, main, run_parts

ON_CPU = (
    "environment",
    "rollouts, sdpa",
    "plain reference",
    "updates, sdpa, checkpointed",
    "memory",
    "whole step",
    "updates, sdpa",
)


def read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def good(_size: FullSize, rate: float | None) -> Found:
    return {"rate": rate}


def bad(_size: FullSize, _rate: float | None) -> Found:
    raise torch.OutOfMemoryError("CUDA out of memory\nand much more")


def endless(_size: FullSize, _rate: float | None) -> Found:
    while True:
        pass


def interrupted(_size: FullSize, _rate: float | None) -> Found:
    raise KeyboardInterrupt


@pytest.fixture
def report(tmp_path: Path) -> Report:
    return Report(tmp_path / "check.json", {"note": "", "measured_on": "cpu"})


def test_all_parts_are_measured_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cpu", "--out", str(tmp_path / "check.json")]) == 0
    found = read(tmp_path / "check.json")
    assert (found["measured_on"], found["is_gpu"]) == ("cpu", False)
    assert found["note"] == "nothing here was measured on a GPU"
    assert found["versions"]["torch"] == torch.__version__
    assert "--device cpu" in found["command"]
    parts = found["parts"]
    assert list(parts) == [part.name for part in gpu_check.parts_to_measure()]
    assert [name for name, part in parts.items() if part["status"] == "measured"] == list(ON_CPU)
    assert all(part["reason"] for part in parts.values() if part["status"] != "measured")
    rate = parts["environment"]["matmul_flops_per_second"]["block"]
    for name in ("rollouts, sdpa", "updates, sdpa"):
        assert parts[name]["share_of_matmul_rate"] == pytest.approx(parts[name]["flops_per_second"] / rate)
    assert parts["rollouts, sdpa"]["calls"] == on_cpu().length // on_cpu().per_call
    assert parts["plain reference"]["greedy"]["equal_tokens"] == 1
    assert parts["plain reference"]["first_call_gap"] < 1e-4
    memory = parts["memory"]
    assert [memory[name]["ratio"] for name in ("weights", "adapter", "gradients")] == [1, 1, 1]
    assert memory["at most in an update"]["measured"] > memory["weights"]["measured"]
    step = parts["whole step"]
    assert step["steps"] == 2 and step["is_checkpoint_written"]
    assert list(step["last_step_seconds"]) == ["rollouts", "grading", "update", "checkpoint"]
    assert sum(step["last_step_shares"].values()) == pytest.approx(1)
    out = capsys.readouterr().out
    assert "\nmeasured on cpu: nothing here was measured on a GPU\n" in out
    assert "of the matmul rate" in out and "times as long as diffpo's sampler" in out


def test_a_part_that_fails_is_told_and_the_others_are_measured(report: Report) -> None:
    run_parts([Part("bad", 9.0, bad), Part("good", 9.0, good)], on_cpu(), report, seconds=60)
    parts = read(report.file)["parts"]
    assert parts["bad"]["reason"] == "OutOfMemoryError: CUDA out of memory"
    assert (parts["bad"]["status"], parts["good"]["status"]) == ("failed", "measured")
    assert "bad" in gpu_check.table(report)


def test_the_rate_that_was_measured_goes_to_later_parts(report: Report) -> None:
    first = Part("environment", 9.0, lambda _size, _rate: {"matmul_flops_per_second": {"block": 7.0}})
    run_parts([first, Part("good", 9.0, good)], on_cpu(), report, seconds=60)
    assert read(report.file)["parts"]["good"]["rate"] == 7


def test_a_part_ends_with_its_time() -> None:
    found = attempt(Part("endless", 1.0, endless), on_cpu(), None, seconds=0.2)
    assert found["status"] == "failed" and "not done after" in found["reason"]


def test_without_time_no_part_is_begun(report: Report) -> None:
    run_parts([Part("good", 9.0, good)], on_cpu(), report, seconds=1)
    assert read(report.file)["parts"]["good"] == {"status": "not run", "reason": "no time was left"}


def test_a_run_that_is_cut_short_keeps_what_it_has(report: Report) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_parts([Part("good", 9.0, good), Part("cut", 9.0, interrupted), Part("c", 9.0, good)], on_cpu(), report, 60)
    parts = read(report.file)["parts"]
    assert {name: part["status"] for name, part in parts.items()} == {"good": "measured", "cut": "not finished"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cuda", "--out", str(tmp_path / "check.json")]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "torch sees no CUDA device here" in told
    assert not (tmp_path / "check.json").exists()


def test_no_other_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["--device", "cpu", "--out", str(tmp_path / "notes.txt")]) == 2
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_missing_kernels_are_a_reason() -> None:
    with pytest.raises(UserError, match="flex_attention"):
        gpu_check.rollouts("flex_attention")(on_cpu(), None)
    with pytest.raises(UserError, match="on a GPU only"):
        gpu_check.rollouts("sdpa", is_compiled=True)(on_cpu(), None)


def test_seconds_of_the_last_step() -> None:
    first = [("before", 0.0), ("before", 1.0), ("rollouts", 4.0), ("grading", 5.0), ("update", 7.0)]
    second = [("before", 10.0), ("rollouts", 12.0), ("grading", 12.5), ("update", 15.5), ("checkpoint", 19.5)]
    assert seconds_by_part([*first, *second]) == {"rollouts": 2.0, "grading": 0.5, "update": 3.0, "checkpoint": 4.0}
