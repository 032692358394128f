"""Against the printed tables of Student's t, two-sided 5 %."""

from itertools import pairwise

import pytest

from diffpo.statistics.student import student_quantile


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [
        (1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (5, 2.5706), (9, 2.2622), (10, 2.2281), (30, 2.0423),
        (60, 2.0003), (120, 1.9799), (1000, 1.9623), (10**7, 1.9600),
    ],
)  # fmt: skip
def test_quantiles_of_the_tables(degrees: int, quantile: float) -> None:
    assert student_quantile(float(degrees)) == pytest.approx(quantile, abs=6e-5)


def test_fractions_of_a_degree_lie_between() -> None:
    found = [student_quantile(1 + step / 10) for step in range(91)]
    assert all(a > b for a, b in pairwise(found))
    # At 2 degrees the distribution function has a closed form: P(|T| <= t) = t / sqrt(2 + t^2).
    assert student_quantile(2.0) == pytest.approx(0.95 * (2 / (1 - 0.95**2)) ** 0.5, rel=1e-10)


@pytest.mark.parametrize("degrees", [0.99, -1.0, float("nan")])
def test_less_than_one_degree_is_refused(degrees: float) -> None:
    with pytest.raises(ValueError, match="at least 1 degree of freedom"):
        student_quantile(degrees)
