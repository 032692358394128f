"""`diffpo bench`: choose benchmarks, measure, print a line for each ratio, and write the records."""

import platform
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from diffpo.bench.harness import Bench, Measurement, measure
from diffpo.bench.rollouts import ROLLOUTS
from diffpo.bench.updates import UPDATES
from diffpo.core.errors import UserError
from diffpo.core.files import check_writable, explain_write_errors, write_json
from diffpo.core.output import say
from diffpo.core.suggestion import suggestion

BENCHES: tuple[Bench, ...] = (*ROLLOUTS, *UPDATES)


def listing() -> str:
    """Return a line for each benchmark: its name and what it is."""
    return "\n".join(f"{bench.name:28s} {bench.what}" for bench in BENCHES)


def chosen(names: Sequence[str], benches: Iterable[Bench] = BENCHES) -> list[Bench]:
    """Return the benchmarks whose names begin with one of `names`, all without names.

    Raises UserError for a name that no benchmark begins with.
    """
    found = [bench for bench in benches if not names or any(bench.name.startswith(name) for name in names)]
    if unknown := [name for name in names if not any(bench.name.startswith(name) for bench in found)]:
        beginnings = (begin for bench in benches for begin in (bench.name, bench.name.partition("-")[0]))
        meant = suggestion(unknown[0], beginnings)
        raise UserError(f"no benchmark is called {', '.join(unknown)}{meant}; diffpo bench --list names them")
    return found


def run_bench(
    names: Sequence[str], rounds: int, file: Path | None, echo: Callable[[str], None] = say
) -> list[Measurement]:
    """Measure the chosen benchmarks, writing lines for each by `echo`.

    The file is written after each of them, so that an interrupted run leaves the records that it had. Raises UserError
    for unknown names, and where the file cannot be written.
    """
    benches = chosen(names)
    if file is not None:
        check_writable(file, "--json", begins=b"[")
    echo(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    done: list[Measurement] = []
    for bench in benches:
        echo(f"\n{bench.name}: {bench.what}")
        found = measure(bench, rounds)
        done += found
        for measurement in found:
            echo(measurement.line())
        if file is not None:
            with explain_write_errors(file, option="--json"):
                write_json(file, [measurement.record() for measurement in done], indent=1)
    return done
