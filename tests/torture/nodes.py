"""Two machines, in network namespaces of this one: one's torchrun is killed and started again, and the run recovers.

Making namespaces needs root and `ip` (iproute2).
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from diffpo.core.files import write_whole
from diffpo.models.model_paths import METRICS, checkpoints
from diffpo.recipes import dump_recipe, load_recipe
from diffpo.recipes.tables import RlRecipe
from tests.helpers.tiny_runs import RL, weights_of

STEPS = 60
LONGEST = 180.0
"""Seconds after which a run that has not ended is counted as one that hangs."""
HOSTS = {"dpa": "10.77.0.1", "dpb": "10.77.0.2"}
"""The machines' namespaces, which are also the names of their interfaces, and their addresses."""


@dataclass
class Recovered:
    """How many runs lost a machine, and how many of them ended as if they had not."""

    lost: int = 0
    recovered: int = 0


def can_make_machines() -> bool:
    """Return whether network namespaces can be made here."""
    return os.geteuid() == 0 and shutil.which("ip") is not None


@contextmanager
def machines() -> Iterator[None]:
    """Make two namespaces with a cable between them for the block."""
    _remove()  # what a killed run has left
    _ip(*(f"netns add {name}" for name in HOSTS), "link add dpa netns dpa type veth peer name dpb netns dpb")
    try:
        for name, address in HOSTS.items():
            _ip(*(f"-n {name} {words}" for words in (f"addr add {address}/24 dev {name}", "link set lo up")))
            _ip(f"-n {name} link set {name} up")
        yield
    finally:
        _remove()


def torture_by_lost_machines(base: Path, folder: Path, rounds: int, seed: int) -> Recovered:
    """Train on both, kill the second's torchrun at a random step, start it again; compare with an undisturbed run."""
    found, random_steps = Recovered(), random.Random(seed)
    recipe = folder / "recipe.toml"
    overrides = [
        *RL,
        "rollout.prompts_per_step=4",
        f"budget.steps={STEPS}",
        "checkpoint.every=2",
        f"base={str(base)!r}",
    ]
    write_whole(recipe, dump_recipe(load_recipe(RlRecipe, None, overrides)))
    with machines():
        _run(folder / "undisturbed", recipe, None)
        expected = weights_of(checkpoints(folder / "undisturbed")[-1])
        for number in range(rounds):
            out = folder / f"lost-{number}"
            codes = _run(out, recipe, random_steps.randrange(5, STEPS // 2))
            found.lost += 1
            found.recovered += codes == [0, 0] and weights_of(checkpoints(out)[-1]) == expected
    return found


def _run(out: Path, recipe: Path, kill_at: int | None) -> list[int | None]:
    """Return the exit codes of both machines' torchrun."""
    agents = {name: _torchrun(name, out, recipe) for name in HOSTS}
    try:
        if kill_at is not None:
            until = time.monotonic() + LONGEST
            while _steps(out) < kill_at and time.monotonic() < until:
                time.sleep(0.05)
            agents["dpb"].send_signal(signal.SIGKILL)
            agents["dpb"].wait()
            agents["dpb"] = _torchrun("dpb", out, recipe)
        until = time.monotonic() + LONGEST
        while any(agent.poll() is None for agent in agents.values()) and time.monotonic() < until:
            time.sleep(0.2)
        return [agent.poll() for agent in agents.values()]
    finally:
        for agent in agents.values():
            if agent.poll() is None:
                os.killpg(agent.pid, signal.SIGKILL)
            agent.wait()


def _torchrun(name: str, out: Path, recipe: Path) -> "subprocess.Popen[bytes]":
    launch = ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run"]
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{HOSTS['dpa']}:29511", "--rdzv-id", out.name]
    conf = f"is_host={int(name == 'dpa')},join_timeout=60,last_call_timeout=2"
    of_nodes = ["--nnodes", "2", "--nproc-per-node", "1", "--local-addr", HOSTS[name], "--max-restarts", "3"]
    command = ["-m", "diffpo", "rl", str(recipe), "--out", str(out), "--resume", "auto"]
    environment = {
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "GLOO_SOCKET_IFNAME": name,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    with out.with_suffix(f".{name}.log").open("ab") as log:
        return subprocess.Popen(
            [*launch, *of_nodes, *meeting, "--rdzv-conf", conf, *command],
            env=os.environ | environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _steps(out: Path) -> int:
    log = out / METRICS
    return len(log.read_text().splitlines()) if log.exists() else 0


def _remove() -> None:
    for name in HOSTS:
        subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)


def _ip(*commands: str) -> None:
    for words in commands:
        subprocess.run(["ip", *words.split()], check=True)
