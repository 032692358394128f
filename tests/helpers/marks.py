"""Marks that tests share."""

from pathlib import Path

import pytest

CPU = Path("/proc/cpuinfo")

computes_in_bfloat16 = pytest.mark.skipif(
    CPU.is_file() and "amx_bf16" in CPU.read_text(),
    reason="on a virtual machine that announces AMX and faults on it, torch dies of a bfloat16 product (docs/log.md)",
)
