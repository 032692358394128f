"""Commands side by side end when their command does: on a request to stop, and when it is killed."""

import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import pytest
from tests.helpers.waiting import is_running, wait_until

from diffpo.cli.job_queue import Job, JobQueue, advance_all
from diffpo.runs.interrupt import interruptible

WAITS = "import time; open('{}', 'w').write('ready'); time.sleep(60)"
DEMO = """
import sys, time
from collections import deque
from pathlib import Path
from diffpo.cli.job_queue import Job, JobQueue
queue = JobQueue([Job(Path(sys.argv[1]), sys.argv[2:])], deque())
queue.advance(may_start=True)
time.sleep(60)
"""
CHILD = """
import os, sys, time
from diffpo.core.parent import end_with_parent
end_with_parent()
open(sys.argv[1], 'w').write(str(os.getpid()))
time.sleep(60)
"""


def content_of(file: Path) -> str:
    """Wait until there is something in a file, and return it."""
    assert wait_until(lambda: file.exists() and file.read_text() != "")
    return file.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_this_process_alone_ends_the_jobs(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffpo.cli.job_queue.time.sleep", lambda _: None)
    ready = tmp_path / "ready"
    queue = JobQueue([Job(tmp_path / "log", [sys.executable, "-c", WAITS.format(ready)])], deque())
    with interruptible() as interrupt:
        advance_all([queue], interrupt)
        monkeypatch.undo()
        content_of(ready)
        signal.raise_signal(number)
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            while time.monotonic() < started + 30:
                advance_all([queue], interrupt)
    assert not queue.is_busy


def test_a_job_ends_with_a_killed_command(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    command = [sys.executable, "-c", CHILD, str(pid)]
    demo = subprocess.Popen([sys.executable, "-c", DEMO, str(tmp_path / "log"), *command])
    child = int(content_of(pid))
    demo.kill()
    demo.wait()
    assert wait_until(lambda: not is_running(child), 30)
