"""Completions that atheris makes, guided by the lines of the graders that they reach: `--atheris SECONDS`.

It needs `pip install -e '.[torture]'`. libFuzzer takes over the process that it runs in, so that is one of its own.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from diffpo.core.errors import UserError

COMMAND = "import sys; from tests.torture.guided import fuzz; fuzz(sys.argv)"


def torture_guided(seconds: int, seed: int, folder: Path) -> tuple[str, bool]:
    """Fuzz for so many seconds; return what is told of it, and whether nothing escaped. The text that did is kept."""
    if find_spec("atheris") is None:
        raise UserError("--atheris needs atheris; install it by pip install -e '.[torture]', or leave the option out")
    command = [sys.executable, "-c", COMMAND, f"-max_total_time={seconds}", f"-seed={seed + 1}", "-timeout=10"]
    limits = ["-rss_limit_mb=1024", "-max_len=4096", f"-artifact_prefix={folder}/"]
    with (folder / "atheris.log").open("wb") as log:
        code = subprocess.run([*command, *limits], stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    return f"atheris {seconds} s: {'nothing escaped' if code == 0 else f'exit code {code}'}", code == 0


def fuzz(arguments: list[str]) -> None:
    """Grade what libFuzzer gives, without an end but its own. Called in a process of its own."""
    import atheris

    with atheris.instrument_imports(include=["diffpo.grading", "diffpo.tasks"]):
        from tests.torture.answers import cheap_checks
        from tests.torture.completions import Completion, wrong_for
    checks = cheap_checks()

    def grade(data: bytes) -> None:
        text = atheris.FuzzedDataProvider(data).ConsumeUnicode(len(data))
        found = Completion(text, wrong_for(text))
        for name, check in checks.items():
            if fault := check(found):
                raise AssertionError(f"{name}: {fault}")

    os.environ.setdefault("ASAN_OPTIONS", "detect_leaks=0")
    atheris.Setup(arguments, grade)
    atheris.Fuzz()
