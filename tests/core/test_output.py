"""Output that nobody reads any more ends nothing."""

import subprocess
import sys
from pathlib import Path

PRINTS = (
    "import sys, time\n"
    "from diffpo.runs.progress import ProgressBar\n"
    "sys.stdin.readline()\n"
    "with ProgressBar('loop', 3, min_gap=0) as bar:\n"
    "    for step in range(3):\n"
    "        bar.update(step + 1)\n"
    "        bar.warn('odd {n}', n=step)\n"
    "open(sys.argv[1], 'w').write('done')\n"
)


def test_a_loop_goes_on_when_its_reader_has_gone(tmp_path: Path) -> None:
    """As in `diffpo rl ... | head -1`: the rest is done, stderr has one line about it, and the exit code is 0."""
    process = subprocess.Popen(
        [sys.executable, "-c", PRINTS, str(tmp_path / "file")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin and process.stdout and process.stderr
    process.stdout.close()
    process.stdin.write("go\n")
    process.stdin.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 0
    assert (tmp_path / "file").read_text() == "done"
    assert errors == "diffpo: nobody reads the output any more; the run goes on without it\n"


def test_a_loop_goes_on_without_stdout_or_stderr(tmp_path: Path) -> None:
    for closed in (">&-", "2>&-", ">&- 2>&-", ">/dev/full", "2>/dev/full"):
        file = tmp_path / "file"
        file.unlink(missing_ok=True)
        command = f'"{sys.executable}" -c "$1" "$2" {closed}'
        subprocess.run(
            ["sh", "-c", command, "sh", PRINTS, str(file)], input="go\n", text=True, capture_output=True, timeout=60
        )
        assert file.read_text() == "done", closed


SHOWS = (
    "import sys\n"
    "from diffpo.core.output import show\n"
    "sys.stdin.readline()\n"
    "show('a table\\n' * 100_000)\n"
    "show('wrote it')\n"
)


def test_a_result_that_nobody_reads_to_its_end_is_no_failure() -> None:
    """As in `diffpo eval ... | head -1`: the record is written before, and there is nothing to say about it."""
    command = [sys.executable, "-c", SHOWS]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin and process.stdout and process.stderr
    process.stdout.close()
    process.stdin.write("go\n")
    process.stdin.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(60) == 0


FULL = ">/dev/full"


def test_every_verb_ends_without_a_traceback_where_stdout_is_closed(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    report, dry_run = ["report", str(tmp_path)], ["rl", "tiny-d1", "base=x/y", "--dry-run"]
    for arguments, closed in [(report, ">&-"), (["--version"], ">&-"), (["--version"], FULL), (dry_run, FULL)]:
        command = f'"{sys.executable}" -m diffpo "$@" {closed}'
        done = subprocess.run(["sh", "-c", command, "sh", *arguments], capture_output=True, text=True, timeout=120)
        assert "Traceback" not in done.stderr and done.returncode in (0, 1, 2), (arguments, done.stderr)
