"""The script for Slurm, with stand-ins for Slurm's commands: what it starts, and what it does when its time is over."""

import os
import signal
import subprocess
import time
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples" / "slurm.sh"
SRUN = """#!/bin/sh
trap 'echo stopped >> "$SAID"; exit 130' TERM
printf '%s\\n' "$TORCH_DISABLE_SHARE_RDZV_TCP_STORE" "$*" >> "$SAID"
[ -z "$LASTS" ] || while :; do sleep 0.1; done
exit 3
"""
SCONTROL = """#!/bin/sh
[ "$1" = show ] && printf 'node7\\nnode8\\n'
[ "$1" = requeue ] && echo "requeue $2" >> "$SAID"
exit 0
"""


def start(tmp_path: Path, lasts: str) -> tuple["subprocess.Popen[bytes]", Path]:
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    said = tmp_path / "said"
    slurm = {"SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "12"}
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | slurm | {"PATH": path, "SAID": str(said), "LASTS": lasts}
    command = ["sh", str(SCRIPT), "my recipe.toml", "/shared/my run", "budget.steps=7"]
    return subprocess.Popen(command, env=environment), said


def test_all_machines_meet_at_the_first_and_a_failure_is_the_jobs(tmp_path: Path) -> None:
    process, said = start(tmp_path, lasts="")
    assert process.wait(30) == 3
    shared, command = said.read_text().splitlines()
    assert shared == "1"
    assert "--nnodes 2 " in command and "--rdzv-endpoint node7:29500 --rdzv-id 12 --max-restarts 3" in command
    assert command.endswith("-m diffpo rl my recipe.toml --out /shared/my run --resume auto budget.steps=7")


def test_a_job_whose_time_is_over_stops_its_step_and_is_queued_again(tmp_path: Path) -> None:
    process, said = start(tmp_path, lasts="yes")
    until = time.monotonic() + 30
    while not (said.exists() and len(said.read_text().splitlines()) == 2) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert said.read_text().splitlines()[2:] == ["stopped", "requeue 12"]
