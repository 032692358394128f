import numpy as np
import pytest

from diffpo.statistics.samples import effective_sample_size, pass_at_k


@pytest.mark.parametrize(
    ("weights", "size"), [([1.0, 1.0, 1.0], 3.0), ([5.0, 0.0], 1.0), ([1.0, 1.0, 2.0], 16 / 6), ([0.0, 0.0], 0.0)]
)
def test_effective_sample_size(weights: list[float], size: float) -> None:
    assert effective_sample_size(np.array(weights)) == pytest.approx(size, rel=1e-12)


@pytest.mark.parametrize(
    ("n", "c", "k", "chance"), [(5, 2, 1, 0.4), (5, 2, 2, 0.7), (5, 2, 4, 1.0), (5, 0, 5, 0.0), (200, 1, 100, 0.5)]
)
def test_pass_at_k(n: int, c: int, k: int, chance: float) -> None:
    assert pass_at_k(n, c, k) == pytest.approx(chance, rel=1e-12)


@pytest.mark.parametrize(("n", "c", "k"), [(5, 6, 1), (5, -1, 1), (5, 2, 0), (5, 2, 6)])
def test_pass_at_k_refuses_what_cannot_be_drawn(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match=f"n={n} c={c} k={k}"):
        pass_at_k(n, c, k)
