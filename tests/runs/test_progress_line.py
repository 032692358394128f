"""A line of progress has four figures where there is room, and is never wider than asked."""

import pytest

from diffpo.runs.progress_line import Count, fitted, seconds_left, short_count, short_time

FIGURES = {"accuracy": 0.51234, "nfe": 8.3123, "reward": 0.48123, "kl": 0.012345, "seconds": 9.0}


def test_the_first_four_figures_are_shown() -> None:
    line = fitted(("rl: step 3/9", "2m left"), FIGURES, 100)
    assert line == "rl: step 3/9  2m left  accuracy 0.512  nfe 8.31  reward 0.481  kl 0.0123"


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (72, "rl: step 3/9  2m left  accuracy 0.512  nfe 8.31  reward 0.481  kl 0.0123"),
        (71, "rl: step 3/9  2m left  accuracy 0.51  nfe 8.3  reward 0.48  kl 0.012"),
        (67, "rl: step 3/9 2m left accuracy 0.51 nfe 8.3 reward 0.48 kl 0.012"),
        (61, "rl: step 3/9  2m left  accuracy 0.512  nfe 8.31  reward 0.481"),
        (40, "rl: step 3/9  2m left  accuracy 0.512"),
        (20, "rl: step 3/9 2m left"),
        (5, "rl: step 3/9 2m left"),
    ],
)
def test_what_has_no_room_is_shortened_then_left_out(width: int, line: str) -> None:
    assert fitted(("rl: step 3/9", "2m left"), FIGURES, width) == line


def test_numbers_keep_two_digits_or_three_and_no_exponent() -> None:
    assert fitted((), {"a": 123.4, "b": 1234.5, "c": 0.0001234, "d": 7}, 80) == "a 123  b 1234  c 0.000123  d 7"
    assert fitted((), {"a": float("nan"), "b": "last job"}, 80) == "a nan  b last job"


def test_counts_are_exact_below_ten_thousand() -> None:
    assert [short_count(n) for n in (0, 9_999, 10_000, 45_249, 90_000, 999_999, 1_250_000)] == (
        ["0", "9999", "10k", "45.2k", "90k", "1000k", "1.25M"]
    )
    assert str(Count("denoiser call", 45_249, 90_000)) == "denoiser call 45.2k/90k"


def test_durations_have_their_largest_units() -> None:
    assert [short_time(s) for s in (0.0, 59.4, 59.6, 3599.0, 3600.0, 3900.0, 90_000.0)] == (
        ["0s", "59s", "1m", "1h00m", "1h00m", "1h05m", "1d01h"]
    )


def test_the_time_left_goes_by_what_was_done_here() -> None:
    assert seconds_left(Count("step", 60, 100), done_before=50, elapsed=20.0) == 80.0
    assert seconds_left(Count("step", 50, 100), done_before=50, elapsed=20.0) is None
    assert seconds_left(Count("denoiser call", 110, 100), done_before=0, elapsed=20.0) == 0.0
