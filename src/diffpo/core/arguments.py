"""Checks of what a call from Python is given, before anything is done with it. Imports no torch."""

import math
from operator import index
from os import PathLike, fspath
from pathlib import Path
from typing import SupportsIndex

from diffpo.core.errors import UserError
from diffpo.core.options import Resume

LARGEST_SEED = 2**63 - 1


def shown(value: object) -> str:
    """Return a value as a message shows it: with its type, unless that can be seen."""
    if value is None or isinstance(value, str | bytes | bool | int | float):
        return f"{value!r:.60}"
    return f"{'an' if type(value).__name__[0] in 'aeiouAEIOU' else 'a'} {type(value).__name__}"


def given_path(value: object, name: str) -> Path:
    """Return a path. Raises UserError for what is none, and for an empty text, which would be the current folder."""
    found = fspath(value) if isinstance(value, PathLike) else value
    if not isinstance(found, str):
        raise UserError(f"{name} is {shown(value)}; give a path, a text or a pathlib.Path")
    if not found:
        raise UserError(f"{name} is empty; give a path ('.' is the current folder)")
    if "\0" in found:
        raise UserError(f"{name} has a NUL character, which no path has; leave it out")
    return Path(found)


def given_switch(value: object, name: str) -> bool:
    """Return True or False. Raises UserError for anything else."""
    if not isinstance(value, bool):
        raise UserError(f"{name} is {shown(value)}; give True or False")
    return value


def given_resume(value: object) -> Resume:
    """Return whether to go on with a run. Raises UserError for what is neither True, False nor "auto"."""
    if isinstance(value, bool) or value == "auto":
        return value
    raise UserError(f"resume is {shown(value)}; give True, False, or 'auto', which goes on only where there is a run")


def given_count(value: object, name: str) -> int:
    """Return a whole number from 1 up. Raises UserError for anything else."""
    if (found := _whole(value)) is None or found < 1:
        raise UserError(f"{name} is {shown(value)}; give a whole number, at least 1")
    return found


def given_seed(value: object) -> int:
    """Return a seed. Raises UserError for what is none."""
    if (found := _whole(value)) is None or not 0 <= found <= LARGEST_SEED:
        raise UserError(f"seed is {shown(value)}; give a whole number from 0 to 2**63 - 1")
    return found


def given_temperature(value: object) -> float:
    """Return a temperature. Raises UserError for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise UserError(f"temperature is {shown(value)}; give a finite number from 0 up")
    return float(value)


def _whole(value: object) -> int | None:
    """Return a whole number, of whatever type, as numpy's; None for anything else, and for True and False."""
    dtype = getattr(value, "dtype", None)
    if isinstance(value, bool) or "bool" in str(dtype) or not isinstance(value, SupportsIndex):
        return None
    try:
        return index(value)
    except TypeError:  # an array of several, or of fractions
        return None
