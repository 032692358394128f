import numpy as np
import pytest

from diffpo.statistics.samples import effective_sample_size


@pytest.mark.parametrize(
    ("weights", "size"), [([1.0, 1.0, 1.0], 3.0), ([5.0, 0.0], 1.0), ([1.0, 1.0, 2.0], 16 / 6), ([0.0, 0.0], 0.0)]
)
def test_effective_sample_size(weights: list[float], size: float) -> None:
    assert effective_sample_size(np.array(weights)) == pytest.approx(size, rel=1e-12)
