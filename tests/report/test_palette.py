"""Arms are told apart by readers of every kind of sight, on light and dark, and on paper without colours."""

from itertools import combinations

import numpy as np
import pytest

from diffpo.report.palette import ARM_DARK, ARM_LIGHT, DARK, DASHES, LIGHT, SHAPES, Theme, shape_at, style_at

# What readers without red, green or blue cones see of linear RGB (Machado, Oliveira and Fernandes 2009, severity 1).
SIGHT = {
    "usual": np.eye(3),
    "no red": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "no green": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "no blue": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
LEAST_DISTANCE = 0.1
"""In Oklab, where 0.02 is just seen side by side and neighbours in a chart stand apart."""
Arms = tuple[str, ...]


def linear(colour: str) -> np.ndarray:
    share = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """Return the ratio of WCAG 2."""
    low, high = sorted(float(linear(colour) @ np.array([0.2126, 0.7152, 0.0722])) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def seen(colour: str, sight: np.ndarray) -> np.ndarray:
    return np.asarray(LAB @ np.cbrt(LMS @ np.clip(sight @ linear(colour), 0, 1)))


@pytest.mark.parametrize(("theme", "arms"), [(LIGHT, ARM_LIGHT), (DARK, ARM_DARK)], ids=["light", "dark"])
def test_names_in_all_colours_can_be_read(theme: Theme, arms: Arms) -> None:
    for colour in (*arms, theme["ink"], theme["soft"], theme["wrong"]):
        assert contrast(colour, theme["paper"]) >= 4.5, colour
    assert contrast("#ffffff", "#000000") == pytest.approx(21, rel=1e-3)


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("arms", [ARM_LIGHT, ARM_DARK], ids=["light", "dark"])
def test_no_two_colours_look_alike(arms: Arms, sight: str) -> None:
    distances = {
        (one, other): float(np.linalg.norm(seen(one, SIGHT[sight]) - seen(other, SIGHT[sight])))
        for one, other in combinations(arms, 2)
    }
    assert min(distances.values()) >= LEAST_DISTANCE, min(distances, key=distances.__getitem__)


def test_arms_of_one_colour_differ_in_shape_and_dash() -> None:
    looks = [(style_at(place), shape_at(place)) for place in range(len(ARM_LIGHT) * len(SHAPES))]
    assert len(set(looks)) == len(looks)
    assert len({shape for _, shape in looks[: len(SHAPES)]}) == len(SHAPES)
    dashes = [style.partition(" ")[2] for style, _ in looks]
    assert len(set(dashes[: len(ARM_LIGHT)])) == len(ARM_LIGHT), "in print all first arms differ"
    same = [style for style, _ in looks if style.startswith("arm-0 ")]
    assert len(set(same)) == len(same) == len(DASHES)
