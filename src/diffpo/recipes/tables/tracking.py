"""Which experiment trackers a run's metrics are sent to."""

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import Literal

from diffpo.core.errors import UserError

TrackerName = Literal["tensorboard", "wandb", "trackio"]
Track = tuple[TrackerName, ...]


def tracking_problems(track: Track) -> Iterable[str]:
    if twice := sorted({name for name in track if track.count(name) > 1}):
        yield f"track names {' and '.join(twice)} twice; name each tracker once"


def require_trackers(names: Sequence[TrackerName]) -> None:
    """Raise UserError where a tracker is not installed."""
    if lacking := [name for name in names if find_spec(name) is None]:
        named, are = " and ".join(lacking), "are" if len(lacking) > 1 else "is"
        command = f"pip install 'diffpo[{','.join(lacking)}]'"
        raise UserError(f"track names {named}, which {are} not installed: {command}, or leave it out")
