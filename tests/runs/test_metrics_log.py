"""The log when a run goes on: no line goes unsaid but those of steps that are done again."""

from pathlib import Path

import pytest

from diffpo.runs.metrics_log import cut_metrics


def lines(*steps: int) -> bytes:
    return b"".join(b'{"step": %d, "loss": 0.5}\n' % step for step in steps)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (lines(1, 2, 3), lines(1, 2, 3), []),
        (lines(1, 2, 3, 4, 5), lines(1, 2, 3), []),
        (lines(1, 2, 3) + b'{"step": 4, "lo', lines(1, 2, 3), []),
        (lines(1, 2, 3)[:-1], lines(1, 2, 3), []),
        (lines(1, 3), lines(1, 3), ["{} has no line of step 2"]),
        (lines(3), lines(3), ["{} has no line of steps 1 to 2"]),
        (
            lines(1) + b'{"step": 2, "l\x00\xff\n' + lines(3, 4),
            lines(1, 3),
            ["{} has no line of step 2", "line 2 of {} could not be read and went"],
        ),
        (
            b"[]\n" + lines(1, 2, 3, 4),
            lines(1, 2, 3),
            ["line 1 of {} could not be read and went"],
        ),
        (b"", b"", ["{} has no line of steps 1 to 3"]),
    ],
)
def test_what_is_kept_and_what_is_told(before: bytes, after: bytes, told: list[str], tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(before)
    assert cut_metrics(file, 3) == [line.format(file) for line in told]
    assert file.read_bytes() == after


def test_a_log_that_is_gone_is_told(tmp_path: Path) -> None:
    assert cut_metrics(tmp_path / "none", 7) == [f"{tmp_path / 'none'} is gone, with the metrics of steps 1 to 7"]
    assert cut_metrics(tmp_path / "none", 0) == []
