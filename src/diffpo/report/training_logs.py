"""The training logs of a report's arms: those of reinforcement learning and of SFT, with their axes and curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from diffpo.report.data import Arm
from diffpo.report.meanings import RL_MEANINGS, SFT_MEANINGS
from diffpo.report.metrics import RL_CURVES, SFT_CURVES


@dataclass(frozen=True)
class TrainingLog:
    """What is drawn of one kind of training."""

    name: str
    """In the names of files."""
    x: str
    """The metric of the axis."""
    x_label: str
    curves: Mapping[str, str]
    """From metrics to the labels of their axes."""
    meanings: Mapping[str, str]


RL = TrainingLog("training", "denoiser_calls", "denoiser calls spent in training", RL_CURVES, RL_MEANINGS)
SFT = TrainingLog("sft", "step", "optimiser step", SFT_CURVES, SFT_MEANINGS)


def with_log(arms: Sequence[Arm], kind: TrainingLog) -> list[Arm]:
    """Return the arms that have a log of this kind, with its lines alone; only those of RL count denoiser calls.

    A single line, as a sampler's fit writes it, is no curve.
    """
    found = [
        replace(arm, metrics=tuple(row for row in arm.metrics if ("denoiser_calls" in row) == (kind is RL)))
        for arm in arms
    ]
    return [arm for arm in found if len(arm.metrics) > 1]
