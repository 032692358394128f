"""Whatever stands in a run's files: a page, or one sentence that names the file. No traceback, and little memory."""

import copy
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diffpo.core.errors import UserError
from diffpo.report import metrics as log
from diffpo.report.page import render
from diffpo.report.sources import read_run

ODD: list[Any] = [None, "x", [1], {}, -1, 1e308, float("nan"), 10**400]
POINT = {
    "rule": "entropy bound 0.1",
    "kind": "entropy-bound",
    "bound": 0.1,
    "accuracy": 0.5,
    "ci95": [0.4, 0.6],
    "n": 2,
}
POINT |= {"nfe": 3.0, "solved": [1, 0], "nfe_rows": [2, 4]}
ESTIMATE = {"value": 0.5, "ci95": [0.4, 0.6]}
GAIN = {"accuracy": 0.1, "accuracy_ci95": [0.0, 0.2], "nfe": 0.5, "nfe_ci95": [0.1, 0.9]}
EVALUATION: dict[str, Any] = {
    "task": "sudoku4",
    "split": "test",
    "seed": 0,
    "completion_length": 16,
    "clues": [4, 5],
    "points": [POINT],
    "learned": POINT | {"bounds": [0.1, 0.2]},
    "area": ESTIMATE,
    "aup": ESTIMATE,
    "gain": GAIN,
    "validated_gain": GAIN | {"rule": "entropy bound 0.1"},
    "validation": {"best_constants": [{"price": 0.1, "rule": "entropy bound 0.1"}]},
    "price_curve": {
        "points": [POINT],
        "prices": [{"price": 0.1, "rule": "x"}],
        "area": ESTIMATE,
        "area_gain": ESTIMATE,
    },
    "playback": [
        {"prompt": "1" * 16, "clues": 5, "completion": "1" * 16, "answer": "2" * 16, "unmask_step": list(range(16))}
        | {"logp": [-0.1], "nfe": 16, "solved": False, "entropy_bound": 0.2}
        | {"tokens": [*"1" * 15, "<e>"], "special": [15], "rule": "x", "difficulty": "5 clues"}
    ],
}
SUMMARY: dict[str, Any] = {
    "seed": 0,
    "wall_s": 3.5,
    "arms": {"diffpo": {"frontier": [POINT], "train_denoiser_calls": 600}},
    "compared": {"d1": {"accuracy": [{"nfe": 2.0, **ESTIMATE}], "area": ESTIMATE}},
}


def replaced(record: Any, value: Any) -> Iterator[Any]:
    """Yield the record with `value` in place of each of its parts."""
    yield value
    parts = record.items() if isinstance(record, dict) else enumerate(record) if isinstance(record, list) else ()
    for key, part in parts:
        for inner in replaced(part, value):
            changed = copy.copy(record)
            changed[key] = inner
            yield changed


def told(run: Path) -> str | None:
    """Return the sentence that the report ends with; None where there is a page."""
    try:
        render(read_run(run))
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("value", ODD, ids=lambda value: f"{value!a:.12}")
@pytest.mark.parametrize(("name", "record"), [("eval.json", EVALUATION), ("summary.json", SUMMARY)])
def test_a_record_with_an_odd_value_is_shown_or_named(
    name: str, record: dict[str, Any], value: object, tmp_path: Path
) -> None:
    for changed in replaced(record, value):
        (tmp_path / name).write_text(json.dumps(changed))
        message = told(tmp_path)
        assert message is None or message.startswith(f"{tmp_path}"), message
        assert message is None or "\n" not in message


@pytest.mark.parametrize("value", [*ODD, -1e308])
def test_odd_metrics_are_left_out(value: object, tmp_path: Path) -> None:
    rows = [{"step": i, "denoiser_calls": 10 * i, "accuracy": 0.1 * i, "kl": 0.1} for i in range(4)]
    for name in rows[0]:
        rows[2][name] = value  # type: ignore[assignment]
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert told(tmp_path) is None


@pytest.mark.parametrize("name", ["metrics.jsonl", "eval.json", "summary.json"])
@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"\xff\xfe\x00binary\n", 1),
        (b"\n" * 3 + b"\x80\n", 4),
        (b"[" * 100_000 + b"\n", 1),
        (b'{"step": ' + b"9" * 5000 + b"}\n", 1),
        (b'{"step": 1, "loss\n', 1),
        (b"null\n", 1),
        (b'"text"\n', 1),
    ],
)
def test_what_is_no_json_is_named_with_its_line(name: str, content: bytes, line: int, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    message = told(tmp_path)
    assert message is not None and message.startswith(f"{tmp_path / name}:{line}: ")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "eval.json").mkdir()
    assert f"cannot read {tmp_path / 'eval.json'} (Is a directory)" in str(told(tmp_path))


def test_a_long_log_is_thinned_and_keeps_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "MOST_LINES", 8)
    file = tmp_path / "metrics.jsonl"
    for count, kept in (
        (15, range(15)),
        (16, [*range(0, 16, 2), 15]),
        (40, [*range(0, 40, 4), 39]),
        (41, range(0, 41, 4)),
    ):
        file.write_text("".join(f'{{"step": {i}}}\n' for i in range(count)))
        (arm,) = read_run(tmp_path).arms
        assert [row["step"] for row in arm.metrics] == list(kept)


def test_the_memory_that_a_log_takes_does_not_grow_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "MOST_LINES", 100)
    line = json.dumps({"step": 1, "denoiser_calls": 2, "loss": 0.5} | {f"rewards/{i}/mean": 0.1 for i in range(30)})
    peaks = []
    for count in (500, 500, 5_000):  # the first time fills caches
        (tmp_path / "metrics.jsonl").write_text(f"{line}\n" * count)
        tracemalloc.start()
        log.read_metrics(tmp_path / "metrics.jsonl")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.5 * peaks[1]
