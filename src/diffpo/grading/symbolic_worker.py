"""The fenced process that compares two LaTeX texts with math-verify. Started by path, it imports nothing of diffpo.

A request is a line of JSON, [gold, answer]; the replies are lines too: "gold", once the gold answer has been read, then
"equal", "different" or "unreadable". What goes on beyond the limits ends the process, and the parent starts another.
"""

import json
import logging
import os
import resource
import signal
import sys
from contextlib import suppress


def main(memory_bytes: int, cpu_seconds: float) -> None:
    """`cpu_seconds` are for one request."""
    requests, replies = fence(memory_bytes)
    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)  # math-verify logs the whole text when it fails

    def read(text: str) -> list[object]:
        return list(parse(f"${text}$", [LatexExtractionConfig()], "no_fallback", "first_match", parsing_timeout=None))

    with open(requests, encoding="ascii") as lines, open(replies, "w", encoding="ascii", buffering=1) as out:
        verify(read("x+1"), read(r"\frac{x}{1}+1"))  # what loads at first use is no request's fault
        print("ready", file=out)
        for line in lines:
            gold, answer = json.loads(line)
            # The default action of SIGPROF ends the process, also inside of a C function that no exception reaches.
            signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
            try:
                expected = read(gold)
                if expected:
                    print("gold", file=out)
                found = read(answer)
                if not (expected and found):
                    verdict = "unreadable"
                else:
                    verdict = "equal" if verify(expected, found, timeout_seconds=None) else "different"
            except Exception:  # noqa: BLE001  math-verify and SymPy raise whatever they please on strange text
                verdict = "unreadable"
            signal.setitimer(signal.ITIMER_PROF, 0)
            print(verdict, file=out)


def fence(memory_bytes: int) -> tuple[int, int]:
    """Limits, and the pipes to the parent moved out of reach of anything that prints or reads."""
    requests, replies = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    for limit, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        with suppress(OSError, ValueError):  # macOS refuses RLIMIT_AS
            resource.setrlimit(limit, (value, value))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; closing the pipe ends this process
    return requests, replies


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
