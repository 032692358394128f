"""Results that were measured on different grids of entropy bounds are not put together."""

from collections.abc import Sequence
from pathlib import Path

from diffpo.core.errors import UserError
from diffpo.study.results import Result, key_of

Grid = tuple[float, ...]


def grid_of(result: Result) -> Grid:
    """Return the fixed bounds that a result of a study of arms was measured on, which is among its settings."""
    return tuple(result["settings"].get("measured", {}).get("bounds", ()))


def check_one_grid(path: Path, results: Sequence[Result], wanted: Grid | None = None) -> None:
    """Check that all results of arms in a file are of one grid and, where one is wanted, of that.

    The area of a frontier and the gain over its best mixture depend on the grid: a coarse one flatters a learned
    sampler. Raises UserError naming the file, both grids, and what to do.
    """
    first = {grid_of(result): result for result in reversed(results) if result["kind"] == "arms"}
    found = sorted(first, key=len)
    if len(found) > 1:
        of_grid = [f"{grid_text(grid)} (as {' '.join(map(str, key_of(first[grid]))).strip()})" for grid in found[:2]]
        raise UserError(
            f"{path} mixes results on two grids of entropy bounds, {' and '.join(of_grid)}, which cannot be compared; "
            "move the lines of one grid to a file in another folder, and run what is missing then"
        )
    if wanted is not None and found and found[0] != wanted:
        raise UserError(
            f"{path} has results on {grid_text(found[0])}, and this study measures {grid_text(wanted)}, which cannot "
            "be compared; choose another --out, or move the file away and run again"
        )


def grid_text(grid: Grid) -> str:
    """Return a grid in words: all of a short one, the number and the ends of a long one."""
    if len(grid) <= 6:
        return f"the bounds {', '.join(f'{bound:g}' for bound in grid)}"
    return f"{len(grid)} bounds from {min(grid):g} to {max(grid):g}"
