"""A process that a command started ends when that does, by SIGTERM, and what it starts itself does not."""

import signal
import subprocess
import sys
import threading

import pytest
from tests.helpers.waiting import is_running, wait_until

from diffpo.cli.main import main
from diffpo.core.parent import PARENT

CHILD = (
    "import os, time\n"
    "from diffpo.core.parent import PARENT, end_with_parent\n"
    "end_with_parent()\n"
    "assert PARENT not in os.environ\n"
    "print('ready', flush=True)\n"
    "time.sleep(60)\n"
)
PARENT_OF_IT = (
    "import subprocess, sys\n"
    "from diffpo.core.parent import child_environment\n"
    "child = subprocess.Popen([sys.executable, '-c', sys.argv[1]], env=child_environment(), stdout=subprocess.PIPE)\n"
    "child.stdout.readline()\n"
    "print(child.pid, flush=True)\n"
    "child.wait()\n"
)


def test_a_child_ends_with_a_killed_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT_OF_IT, CHILD], stdout=subprocess.PIPE)
    assert parent.stdout
    child = int(parent.stdout.readline())
    assert is_running(child)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert wait_until(lambda: not is_running(child), 20)
    parent.stdout.close()


def test_a_process_of_torchrun_ends_with_it() -> None:
    """Nobody names its parent to it; what it starts itself does not end with it."""
    started = PARENT_OF_IT.replace("child_environment()", "os.environ | {'TORCHELASTIC_RUN_ID': 'none'}")
    parent = subprocess.Popen([sys.executable, "-c", f"import os\n{started}", CHILD], stdout=subprocess.PIPE)
    assert parent.stdout
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert wait_until(lambda: not is_running(child), 20)
    parent.stdout.close()


def test_a_process_that_nobody_started_so_has_no_watch() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import threading\nfrom diffpo.core.parent import end_with_parent\nend_with_parent()\n"
            "print(threading.active_count())",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "1\n"


@pytest.mark.parametrize("parent", ["abc", "", "-1", "\u0663", "9" * 5000])
def test_a_parent_that_is_no_process_is_a_sentence(
    parent: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(PARENT, parent)
    before = threading.active_count()
    with pytest.raises(SystemExit) as caught:
        main(["rl", "--help"])
    assert caught.value.code == 2 and threading.active_count() == before
    told = f"diffpo: the environment has {PARENT}="
    assert (errors := capsys.readouterr().err).startswith(told)
    assert errors.endswith(", which is no process; unset it\n") and len(errors) < 200
