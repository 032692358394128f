"""Which experiment trackers a run's metrics are sent to."""

from collections.abc import Iterable
from typing import Literal

TrackerName = Literal["tensorboard", "wandb", "trackio"]
Track = tuple[TrackerName, ...]


def tracking_problems(track: Track) -> Iterable[str]:
    if twice := sorted({name for name in track if track.count(name) > 1}):
        yield f"track names {' and '.join(twice)} twice; name each tracker once"
