"""Processes that watch each other: one that is lost ends all by one sentence, and one that is busy is not lost."""

import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tests.helpers.forked import Forked
from tests.helpers.waiting import wait_until
from tests.torture.nodes import HOSTS, can_make_machines, machines

from diffpo.cli.main import main
from diffpo.distributed import joining, presence
from diffpo.distributed.collectives import all_gather_json, process_group
from diffpo.distributed.presence import Presence, addresses_of_this_machine
from diffpo.distributed.process import current_process

TIMEOUT = 60
"""Seconds in which all must have ended; what they do would take twice as long."""
ENDED = (
    "diffpo: process {} (on {}) has ended without a word, as one that is killed or has no memory left; what was "
    "checkpointed stays, and --resume goes on\n"
)
VANISHED = "no longer answers: its machine is lost, or cannot be reached"


def ended(rank: int) -> str:
    return ENDED.format(rank, socket.gethostname())


class Run:
    """Processes of a run, each of which does `work` in the group, by `diffpo rl`, and what they print."""

    def __init__(
        self,
        folder: Path,
        size: int,
        work: Callable[[Path], None],
        ranks: Sequence[int] = (),
        machines: Sequence[str] = (),
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        ranks = ranks or range(size)
        address = HOSTS[machines[0]] if machines else "127.0.0.1"
        shared = {"MASTER_ADDR": address, "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
        self.folder, self.processes = folder, {}
        shared["STARTED"] = " ".join(map(str, ranks))
        for rank in ranks:
            machine = machines[rank] if machines else ""
            own = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "GLOO_SOCKET_IFNAME": machine or "lo"}
            errors = folder / f"err-{rank}"
            self.processes[rank] = Forked(
                as_command, work, folder, machine, stdout=folder / "out", stderr=errors, environment=own
            )

    def wait_until_joined(self) -> None:
        assert wait_until(lambda: all((self.folder / f"joined-{rank}").exists() for rank in self.processes), TIMEOUT)

    def codes(self) -> list[int]:
        """The exit codes of all, which must end soon."""
        have_ended = wait_until(lambda: all(process.poll() is not None for process in self.processes.values()), TIMEOUT)
        for process in self.processes.values():
            process.kill()
        assert have_ended
        return [process.wait() for process in self.processes.values()]

    def printed(self) -> str:
        return "".join(map(self.printed_by, self.processes))

    def printed_by(self, rank: int) -> str:
        return (self.folder / f"err-{rank}").read_text()


def as_command(work: Callable[[Path], None], folder: Path, machine: str) -> None:
    """Do the work as what `diffpo rl` does, with limits of seconds, on one of the machines, if it is named."""
    if machine:
        with Path("/run/netns", machine).open() as namespace:
            assert ctypes.CDLL(None).setns(namespace.fileno(), 0) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffpo.cli.main.app", lambda *_, **__: work(folder))
        patch.setattr(presence, "GRACE", 1.0)
        if current_process().world_size != len(os.environ["STARTED"].split()):
            patch.setattr(joining, "STARTING", 3.0)
        for name in ("ASK_AFTER", "ASK_EVERY", "ASK_TIMES"):
            patch.setattr(presence, name, 1)
        main(["rl"])


def join(folder: Path) -> None:
    (folder / f"joined-{current_process().rank}").touch()


def wait_for_the_lost(folder: Path) -> None:
    """Wait for the others in a collective; the last one computes, and calls nobody."""
    with process_group():
        join(folder)
        if current_process().rank == current_process().world_size - 2:
            time.sleep(2 * TIMEOUT)
        while True:
            all_gather_json(0)
            time.sleep(0.05)


@pytest.mark.parametrize("lost", [0, 2])
@pytest.mark.parametrize("is_ended", [True, False], ids=["ended by torchrun", "left alone"])
def test_one_sentence_says_who_was_killed(lost: int, is_ended: bool, tmp_path: Path) -> None:
    """Whether the others compute or wait, and though torchrun asks them to end at the same moment."""
    run = Run(tmp_path, 3, wait_for_the_lost)
    run.wait_until_joined()
    run.processes[lost].kill()
    started = time.monotonic()
    for rank, process in run.processes.items():
        if is_ended and rank != lost:
            process.terminate()
    codes = run.codes()
    assert time.monotonic() - started < 15
    assert run.printed() == ended(lost)
    assert codes.pop(lost) == -signal.SIGKILL
    assert set(codes) <= ({1, -signal.SIGTERM} if is_ended else {1})


def test_a_child_that_a_killed_process_has_forked_does_not_stand_for_it(tmp_path: Path) -> None:
    run = Run(tmp_path, 2, leave_a_child)
    run.wait_until_joined()
    run.processes[1].kill()
    assert run.codes() == [1, -signal.SIGKILL]
    assert run.printed() == ended(1)
    os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)


def leave_a_child(folder: Path) -> None:
    with process_group():
        if current_process().rank == 1:
            if (child := os.fork()) == 0:
                time.sleep(2 * TIMEOUT)
            (folder / "child").write_text(str(child))
        join(folder)
        time.sleep(2 * TIMEOUT)


def test_who_is_asked_to_end_is_not_missed(tmp_path: Path) -> None:
    """A scheduler ends all processes, not all of them at the same moment."""
    run = Run(tmp_path, 2, sleep)
    run.wait_until_joined()
    run.processes[1].terminate()
    time.sleep(0.3)
    run.processes[0].terminate()
    assert run.codes() == [-signal.SIGTERM] * 2
    assert run.printed() == ""


def sleep(folder: Path) -> None:
    with process_group():
        join(folder)
        time.sleep(2 * TIMEOUT)


def test_who_fails_says_why_and_nobody_else_anything(tmp_path: Path) -> None:
    run = Run(tmp_path, 3, fail)
    assert run.codes() == [1, 1, 1]
    printed = run.printed()
    assert printed.count("Traceback") == 1 and printed.endswith("ZeroDivisionError: a bug\n")


def fail(folder: Path) -> None:
    with process_group():
        all_gather_json(0)
        if current_process().rank == 1:
            raise ZeroDivisionError("a bug")
        all_gather_json(0)


def test_who_is_stopped_or_has_done_its_part_is_not_lost(tmp_path: Path) -> None:
    """The kernel answers for a process that cannot: here its limit is two seconds."""
    run = Run(tmp_path, 3, leave_one_by_one)
    run.wait_until_joined()
    stopped = (run.processes[0], run.processes[1])
    for process in stopped:
        process.send_signal(signal.SIGSTOP)
    time.sleep(4)
    for process in stopped:
        process.send_signal(signal.SIGCONT)
    assert run.codes() == [0, 0, 0]
    assert run.printed() == ""


def leave_one_by_one(folder: Path) -> None:
    with process_group():
        join(folder)
        time.sleep(2 if current_process().rank < 2 else 0)


def test_who_does_not_start_is_named(tmp_path: Path) -> None:
    run = Run(tmp_path, 4, sleep, ranks=[0, 2])
    assert run.codes() == [1, 1]
    told = "processes 1, 3 have not started within 3 s, of 4 in this run; see what is printed there"
    assert run.printed() == f"diffpo: {told}, and start all again\n"
    assert 30 <= joining.STARTING <= 60


def test_without_the_first_nobody_waits(tmp_path: Path) -> None:
    run = Run(tmp_path, 2, sleep, ranks=[1])
    assert run.codes() == [1]
    told = (
        r"diffpo: process 1 has found nobody at 127\.0\.0\.1, port \d+, within 3 s: process 0 has not started there, "
    )
    assert re.search(told, run.printed())


def test_strangers_are_shown_out() -> None:
    """Who does not know the token is none of the run's, whatever it sends, and nobody misses it."""
    watcher = Presence(0, lambda _: pytest.fail("a stranger is missed"))
    told = json.loads(watcher.listen("127.0.0.1"))
    greeting = {"token": "x" * 32, "rank": 1, "host": "here"}
    lines = [json.dumps(greeting).encode(), b'{"lost": "all"}', b"[]", b"\xff", b"[" * 3000, b"x" * 9000]
    for line in (*lines, json.dumps(greeting | {"token": told["token"], "rank": "1"}).encode()):
        with socket.create_connection((told["addresses"][-1], told["port"]), 5) as stranger:
            stranger.sendall(line + b"\n")
            try:
                assert stranger.recv(1) == b"", line
            except ConnectionResetError:
                continue
            except TimeoutError:
                pytest.fail(f"{line!r} is listened to")
    watcher.has_left = True  # its thread ends


def test_a_machine_is_reached_by_the_address_that_others_see() -> None:
    assert addresses_of_this_machine("127.0.0.1") == ["127.0.0.1"]
    assert addresses_of_this_machine("no.such.host.invalid") == ["no.such.host.invalid"]


@pytest.mark.skipif(not can_make_machines(), reason="making network namespaces needs root and iproute2")
def test_a_machine_that_vanishes_ends_the_others(tmp_path: Path) -> None:
    """Its cable is cut: nothing ends a connection. Both sides lose the other, and end."""
    with machines():
        run = Run(tmp_path, 2, wait_in_a_collective, machines=list(HOSTS))
        run.wait_until_joined()
        subprocess.run(["ip", "-n", "dpb", "link", "set", "dpb", "down"], check=True)
        assert run.codes() == [1, 1]
    for rank in (0, 1):
        who = f"process {1 - rank} (on {socket.gethostname()})"
        told = f"diffpo: {who} {VANISHED}; what was checkpointed stays, and --resume goes on\n"
        assert [line for line in run.printed_by(rank).splitlines(True) if "[c10d]" not in line] == [told]


def wait_in_a_collective(folder: Path) -> None:
    with process_group():
        all_gather_json(0)
        join(folder)
        if current_process().rank == 1:
            time.sleep(2 * TIMEOUT)
        all_gather_json(0)


def test_a_machine_is_given_up_within_a_minute() -> None:
    gone_after = presence.ASK_AFTER + presence.ASK_EVERY * presence.ASK_TIMES
    assert gone_after >= 30 and gone_after + presence.GRACE <= 60
