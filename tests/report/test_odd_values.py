"""Whatever stands in a run's files: a page, or one sentence that names the file. No traceback, and little memory."""

import copy
import json
import math
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
        | {"logp": [-0.1] * 16, "nfe": 16, "solved": False, "entropy_bound": 0.2}
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


PLAYED = "playback[0]"
IMPOSSIBLE: list[tuple[str, Any, str]] = [
    ("points[0].accuracy", 2.0, "should be a number from 0 to 1, and is 2.0"),
    ("points[0].accuracy", True, "should be a number from 0 to 1"),
    ("points[0].accuracy", "0.5", "should be a number from 0 to 1, and is '0.5'"),
    ("points[0].ci95", [0.6, 0.4], "should be a list of two numbers from 0 to 1 around 0.5"),
    ("points[0].ci95", [0.51, 0.6], "should be a list of two numbers from 0 to 1 around 0.5"),
    ("points[0].ci95", [0.4, 1.1], "should be a list of two numbers from 0 to 1 around 0.5"),
    ("points[0].ci95", [0.4, float("nan")], "should be a list of two numbers from 0 to 1 around 0.5"),
    ("points[0].n", 0, "should be a whole number of at least 1, and is 0"),
    ("points[0].n", 2.5, "should be a whole number of at least 1"),
    ("points[0].n", 3, "should have a value for each of 3 problems, and has 2"),
    ("points[0].nfe", 0.5, "should be a number of at least 1, and is 0.5"),
    ("points[0].nfe_ci95", [3.1, 4.0], "should be a list of two numbers around 3"),
    ("points[0].solved", [1], "should have a value for each of 2 problems, and has 1"),
    ("points[0].solved", [1, 2], "should be a number from 0 to 1, and is 2"),
    ("points[0].nfe_rows", [1, -4], "should be a number of at least 1, and is -4"),
    ("points[0].bound", -0.1, "should be a number of at least 0"),
    ("points[0].bound", 100.0, "should be 0.1, as its rule has it, and is 100.0"),
    ("points[0].nfe_rows", None, "should have a value for each of 2 problems, and has 0"),
    (f"{PLAYED}.unmask_step", None, "should be a list with the call of each token, and is None"),
    (f"{PLAYED}.unmask_step", [*range(15), 3], "should be a list with a token for the last call, 15"),
    ("clues", [4], "should have a value for each of 2 problems, and has 1"),
    ("clues", [4, 5.5], "should be a whole number of at least 0"),
    ("clusters", ["a", "b", "c"], "should have a value for each of 2 problems, and has 3"),
    ("learned.bounds", [0.1], "should have a value for each of 2 problems"),
    ("area.value", 1.5, "should be a number from 0 to 1"),
    ("aup.value", -1, "should be a number of at least 0"),
    ("gain.accuracy_ci95", [-1.5, 0.2], "should be a list of two numbers from -1 to 1 around 0.1"),
    ("completion_length", 0, "should be a whole number of at least 1"),
    ("task", 3, "should be a text"),
    ("seed", [1], "should be a whole number, and is [1]"),
    (f"{PLAYED}.unmask_step", [*range(15), 10**9], "should be a whole number from 0 to 15, and is 1000000000"),
    (f"{PLAYED}.nfe", 10**6, "should be a whole number from 1 to 100000"),
    (f"{PLAYED}.tokens", ["a"], "should have a value for each of 16 tokens, and has 1"),
    (f"{PLAYED}.logp", [-0.1], "should have a value for each of 16 tokens, and has 1"),
    (f"{PLAYED}.special", [16], "should be a whole number from 0 to 15"),
    (f"{PLAYED}.solved", "no", "should be true or false, and is 'no'"),
]


@pytest.mark.parametrize(("field", "value", "expected"), IMPOSSIBLE)
def test_what_cannot_be_is_named_by_its_field_and_what_is_expected(
    field: str, value: object, expected: str, tmp_path: Path
) -> None:
    record = json.loads(json.dumps(EVALUATION))  # whose parts are each their own
    part: Any = record
    *way, last = [int(key) if key.isdigit() else key for key in field.replace("[", ".").replace("]", "").split(".")]
    for key in way:
        part = part[key]
    part[last] = value
    (tmp_path / "eval.json").write_text(json.dumps(record))
    with pytest.raises(UserError) as error:
        read_run(tmp_path)
    message = str(error.value)
    named = message.removeprefix(f"{tmp_path / 'eval.json'}: the field '")
    assert named != message and named.startswith(field.removesuffix("n") if "each of 3" in expected else field)
    assert expected in message and message.endswith("; mend the file, or write it again")


def test_a_record_without_a_rule_is_no_evaluation(tmp_path: Path) -> None:
    (tmp_path / "eval.json").write_text(json.dumps({"points": [], "task": "x"}))
    assert "the field 'points' should have the figures of at least one rule" in str(told(tmp_path))


def test_an_interval_of_calls_of_before_is_cut_at_one_call(tmp_path: Path) -> None:
    point = POINT | {"nfe": 1.1, "nfe_rows": [1, 1], "nfe_ci95": [0.8, 1.4]}
    (tmp_path / "eval.json").write_text(json.dumps(EVALUATION | {"points": [point]}))
    assert read_run(tmp_path).arms[0].points[0].nfe_ci95 == (1.0, 1.4)
    point["nfe_ci95"] = [-math.inf, math.inf]  # all problems are of one cluster
    (tmp_path / "eval.json").write_text(json.dumps(EVALUATION | {"points": [point]}))
    assert read_run(tmp_path).arms[0].points[0].nfe_ci95 == (1.0, math.inf)


def log_with(run: Path, name: str, value: object) -> Path:
    rows: list[dict[str, Any]] = [{"step": i, "denoiser_calls": 10 * i, "accuracy": 0.1, "nfe": 2.5} for i in range(4)]
    rows[2][name] = value
    file = run / "metrics.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("nfe", "<script>", "should be a number of at least 1, and is '<script>'"),
        ("nfe", True, "should be a number of at least 1, and is True"),
        ("nfe", 1e29, "should be a number of at least 1, and is 1e+29"),
        ("step", 2.5, "should be a whole number"),
        ("denoiser_calls", -1, "should be a whole number"),
        ("accuracy", -0.1, "should be a number from 0 to 1, and is -0.1"),
        ("accuracy", math.inf, "should be a number, and is inf"),
        ("importance_weight_ess", [], "should be a number, and is []"),
        ("importance_weight_capped", "1", "should be a number, and is '1'"),
        ("bound_median", math.inf, "should be a number of at least 0, and is inf"),
        ("kl", {}, "should be a number, and is {}"),
        ("loss", 10**400, "should be a number, and is 1000"),
    ],
)
def test_a_drawn_metric_that_cannot_be_is_named_by_line_and_field(
    name: str, value: object, expected: str, tmp_path: Path
) -> None:
    file = log_with(tmp_path, name, value)
    message = str(told(tmp_path))
    assert message.startswith(f"{file}:3: the field {name!r} should be ")
    assert expected in message
    assert message.endswith("; mend the line, or remove it")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("accuracy", None),
        ("accuracy", math.nan),
        ("step", math.nan),
        ("kl", math.inf),  # of a policy that has lost the support of its reference
        ("loss", 1e308),
        ("importance_weight_ess", 1.0000002),  # rounded
        ("importance_weight_ess_2", "x"),  # not drawn
        ("seconds", "x"),
    ],
)
def test_what_a_log_may_have_is_no_mistake(name: str, value: object, tmp_path: Path) -> None:
    log_with(tmp_path, name, value)
    (arm,) = read_run(tmp_path).arms
    is_drawn = name in log.DRAWN and isinstance(value, float) and abs(value) < 2
    assert len(arm.metrics) == 4 and (name in arm.metrics[2]) is is_drawn


def test_expert_iteration_has_no_groups_from_which_nothing_is_learned(tmp_path: Path) -> None:
    row = {"step": 1, "frac_reward_zero_std": 1.0}
    for more in ({}, {"right_answers": 3.0}):
        (tmp_path / "metrics.jsonl").write_text(json.dumps(row | more) + "\n")
        (found,) = log.read_metrics(tmp_path / "metrics.jsonl")
        assert ("frac_reward_zero_std" in found) is (not more) and found["step"] == 1


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
    monkeypatch.setattr(log, "MOST_LINES", 20)
    line = json.dumps({"step": 1, "denoiser_calls": 2, "loss": 0.5} | {f"rewards/{i}/mean": 0.1 for i in range(30)})
    peaks = []
    for count in (100, 100, 1_000):  # the first time fills caches
        (tmp_path / "metrics.jsonl").write_text(f"{line}\n" * count)
        tracemalloc.start()
        log.read_metrics(tmp_path / "metrics.jsonl")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.5 * peaks[1]
