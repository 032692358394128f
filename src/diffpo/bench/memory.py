"""The peak memory of a process that computes one loss, beyond the model that it has built.

`python -m diffpo.bench.memory plain` prints it, in MiB; so do `own` and `body`. It is the kernel's count (VmHWM), which
includes what operators need inside and what the allocator keeps; Linux only.
"""

import subprocess
import sys
from pathlib import Path

import torch

from diffpo.bench.shapes import random_denoiser
from diffpo.bench.update_sides import LOSS_SHAPE, body_side, freeze_head_, own_loss, plain_side, random_batch
from diffpo.core.errors import UserError

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_of(side: str) -> float:
    """Return the peak of one side of the loss benchmark, in MiB. Raises UserError where there is no /proc."""
    if not STATUS.is_file():
        raise UserError("peaks of processes are read from /proc, which only Linux has; run this benchmark there")
    command = [sys.executable, "-m", "diffpo.bench.memory", side, str(torch.get_num_threads())]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main(side: str, threads: str = "1") -> None:
    """Compute the loss once and print the peak, in MiB."""
    torch.set_num_threads(int(threads))
    vocabulary, *shape = LOSS_SHAPE
    denoiser = freeze_head_(random_denoiser(vocabulary))
    batch = random_batch(vocabulary, *shape)
    sides = {"plain": plain_side, "own": own_loss, "body": body_side}
    RESET.write_text("5")  # forget the peak of building the model
    before = _mib("VmRSS")
    sides[side](denoiser, batch)
    print(f"{_mib('VmHWM') - before:.1f}")


def _mib(field: str) -> float:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
