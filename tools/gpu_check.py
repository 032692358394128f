"""Measure diffpo with a model of LLaDA-8B's shape and random weights on one GPU, in less than eight minutes.

    PYTHONPATH=src python tools/gpu_check.py --out gpu_check.json

Nothing is downloaded. The JSON is written anew after each part, the most important ones first, so that a run that is
cut short keeps what it has measured; a part that fails is in it with the reason. Without a GPU the same code measures
small shapes, for its tests: that says nothing about a GPU, and the JSON says so. The whole step writes the model into a
temporary folder (TMPDIR), 16 GB in full size.
"""

import argparse
import faulthandler
import gc
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import diffpo
from diffpo.bench.full_size import FullSize, on_cpu, on_gpu
from diffpo.bench.full_size_memory import measure_memory
from diffpo.bench.full_size_speed import (
    Found,
    compare_with_plain,
    measure_rates,
    measure_rollouts,
    measure_updates,
)
from diffpo.bench.machine import device_name, driver, versions
from diffpo.bench.whole_step import measure_step
from diffpo.core.errors import UserError
from diffpo.core.files import check_writable, explain_write_errors, write_json
from diffpo.core.output import show, warn
from diffpo.core.time_limit import OutOfTimeError, time_limit

NO_GPU = "nothing here was measured on a GPU"
LEAST_SECONDS = 5.0
"""With less time left no part is begun."""
GRACE_SECONDS = 15.0
"""So long after the end of its time a process that hangs outside Python is ended."""
ENVIRONMENT = "environment"
Measure = Callable[[FullSize, float | None], Found]


@dataclass(frozen=True)
class Part:
    """Something to measure, within a number of seconds. It is given the size and the matmul rate, if that is known."""

    name: str
    seconds: float
    measure: Measure


@dataclass(frozen=True)
class Report:
    """What is written: about the run, and what each part found."""

    file: Path
    about: Mapping[str, Any]
    parts: dict[str, Found] = field(default_factory=dict)

    @property
    def matmul_rate(self) -> float | None:
        """FLOP per second of a block's matrix products."""
        rates: dict[str, float] = self.parts.get(ENVIRONMENT, {}).get("matmul_flops_per_second", {})
        return rates.get("block")

    def put(self, name: str, found: Found) -> None:
        """Add what a part found, and write the file, whole."""
        self.parts[name] = found
        with explain_write_errors(self.file):
            write_json(self.file, {**self.about, "parts": self.parts}, indent=1)


def environment(size: FullSize, _rate: float | None) -> Found:
    """Describe the device, and measure its rates."""
    found: Found = {"device": device_name(size.device), "driver": driver()}
    if size.device.type == "cuda":
        found["memory_bytes"] = torch.cuda.get_device_properties(size.device).total_memory
    return found | measure_rates(size)


def with_compiler(measure: Measure, is_compiled: bool) -> Measure:
    """Return the measurement; compiled blocks are measured on a GPU only, and what was compiled is forgotten."""

    def compiled(size: FullSize, rate: float | None) -> Found:
        if size.device.type != "cuda":
            raise UserError("compiled blocks are measured on a GPU only: a CPU takes long to make them, for no gain")
        try:
            return measure(size, rate)
        finally:
            torch.compiler.reset()

    return compiled if is_compiled else measure


def parts_to_measure() -> list[Part]:
    """Return all parts, the most important ones first, those that may break a process last."""
    return [
        Part(ENVIRONMENT, 40.0, environment),
        Part("rollouts, sdpa", 80.0, rollouts("sdpa")),
        Part("plain reference", 100.0, lambda size, _: compare_with_plain(size)),
        Part("updates, sdpa, checkpointed", 60.0, updates("sdpa", is_checkpointed=True)),
        Part("memory", 60.0, lambda size, _: measure_memory(size)),
        Part("whole step", 220.0, lambda size, _: measure_step(size)),
        Part("updates, sdpa", 60.0, updates("sdpa")),
        Part("rollouts, flash_attention_2", 60.0, rollouts("flash_attention_2")),
        Part("updates, flash_attention_2", 60.0, updates("flash_attention_2")),
        Part("rollouts, sdpa, compiled", 120.0, rollouts("sdpa", is_compiled=True)),
        Part("updates, sdpa, compiled", 120.0, updates("sdpa", is_compiled=True)),
        Part("rollouts, flex_attention", 80.0, rollouts("flex_attention")),
        Part("updates, flex_attention", 80.0, updates("flex_attention")),
        Part("rollouts, flex_attention, compiled", 120.0, rollouts("flex_attention", is_compiled=True)),
        Part("rollouts, flash_attention_2, compiled", 120.0, rollouts("flash_attention_2", is_compiled=True)),
    ]


def rollouts(attention: str, is_compiled: bool = False) -> Measure:
    """Return the measurement of rollouts with these kernels."""
    return with_compiler(
        lambda size, rate: measure_rollouts(size, rate, attention, is_compiled=is_compiled), is_compiled
    )


def updates(attention: str, is_compiled: bool = False, is_checkpointed: bool = False) -> Measure:
    """Return the measurement of updates with these kernels."""
    return with_compiler(
        lambda size, rate: measure_updates(size, rate, attention, is_compiled, is_checkpointed), is_compiled
    )


def run_parts(parts: Sequence[Part], size: FullSize, report: Report, seconds: float) -> None:
    """Measure the parts in turn, all of them in so many seconds, and write the report before and after each."""
    end = time.monotonic() + seconds
    for part in parts:
        left = end - time.monotonic()
        if left < LEAST_SECONDS:
            report.put(part.name, {"status": "not run", "reason": "no time was left"})
            continue
        report.put(part.name, {"status": "not finished"})
        warn(f"measuring {part.name}, for at most {min(left, part.seconds):.0f} s")
        report.put(part.name, attempt(part, size, report.matmul_rate, min(left, part.seconds)))
        gc.collect()
        if size.device.type == "cuda":
            torch.cuda.empty_cache()


def attempt(part: Part, size: FullSize, rate: float | None, seconds: float) -> Found:
    """Return what a part finds, or the reason why it finds nothing."""
    start = time.monotonic()
    try:
        with time_limit(seconds):
            found = {"status": "measured"} | part.measure(size, rate)
    except OutOfTimeError:
        found = {"status": "failed", "reason": f"it was not done after {seconds:.0f} s"}
    except UserError as error:
        found = {"status": "not run", "reason": str(error)}
    except Exception as error:  # noqa: BLE001  whatever breaks a part, the others are still worth measuring
        first = (str(error).strip().splitlines() or [""])[0]
        found = {"status": "failed", "reason": f"{type(error).__name__}: {first}"}
    return found | {"part_seconds": time.monotonic() - start}


def size_for(device: str, layers: int | None) -> FullSize:
    """Return what is measured on this device. Raises UserError for a GPU that is not there."""
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise UserError("torch sees no CUDA device here; use --device cpu to measure small shapes on the CPU")
    return on_gpu(layers) if has_cuda and device != "cpu" else on_cpu(layers)


def about(size: FullSize, arguments: Sequence[str]) -> dict[str, Any]:
    """Return what the report says besides its parts."""
    is_gpu = size.device.type == "cuda"
    return {
        "measured_on": device_name(size.device),
        "is_gpu": is_gpu,
        "note": "" if is_gpu else NO_GPU,
        "model": dict(size.shape),
        "versions": {"diffpo": diffpo.__version__} | versions(),
        "command": shlex.join(["python", "tools/gpu_check.py", *arguments]),
    }


def table(report: Report) -> str:
    """Return a line for each part in plain English."""
    lines = [f"measured on {report.about['measured_on']}" + (f": {NO_GPU}" if report.about["note"] else "")]
    return "\n".join([*lines, *(f"{name:42s} {told(found)}" for name, found in report.parts.items())])


def told(found: Found) -> str:
    """Return what a part found, in words."""
    if found["status"] != "measured":
        return f"{found['status']}: {found.get('reason', 'the run was cut short')}"
    if "matmul_flops_per_second" in found:
        flops, copied = found["matmul_flops_per_second"]["block"], found["copy_bytes_per_second"]
        return f"{flops / 1e12:.3g} TFLOP/s in {found['dtype']}, copies {copied / 1e9:.3g} GB/s"
    if "flops_per_second" in found:
        share = found["share_of_matmul_rate"]
        of_rate = "" if share is None else f", {share:.0%} of the matmul rate"
        return f"{found['denoiser_tokens_per_second']:,.0f} denoiser tokens a second{of_rate}"
    if "first_call_gap" in found:
        ratios = [f"{value['plain_over_own']:.3g} ({name})" for name, value in found.items() if isinstance(value, dict)]
        return f"takes {', '.join(ratios)} times as long as diffpo's sampler"
    if "last_step_shares" in found:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in found["last_step_shares"].items())
        return f"{found['step_seconds'][-1]:.3g} s: {shares}"
    ratios = [f"{value['ratio']:.2f} {name}" for name, value in found.items() if isinstance(value, dict)]
    return f"measured over estimated: {'; '.join(ratios)}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure rollouts, updates, memory and a whole step on one GPU.")
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"), help="the JSON (default: gpu_check.json)")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="auto: a GPU if there is one")
    parser.add_argument("--minutes", type=float, default=7.5, help="for all parts together (default: 7.5)")
    parser.add_argument("--layers", type=int, help="blocks of the model (default: 32 on a GPU, 2 on a CPU)")
    options = parser.parse_args(arguments)
    if options.layers is not None and options.layers < 1:
        parser.error("--layers is less than 1")
    seconds = 60 * options.minutes
    faulthandler.dump_traceback_later(seconds + GRACE_SECONDS, exit=True, file=2)
    try:
        size = size_for(options.device, options.layers)
        check_writable(options.out, begins=b"{")
        report = Report(options.out, about(size, sys.argv[1:] if arguments is None else arguments))
        run_parts(parts_to_measure(), size, report, seconds)
    except UserError as error:
        warn(f"gpu_check: {error}")
        return 2
    finally:
        faulthandler.cancel_dump_traceback_later()
    show(table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
