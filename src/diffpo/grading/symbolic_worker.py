"""A process with limits that compares two LaTeX texts by math-verify. It is started by path and imports no diffpo.

A request is a line of JSON, [gold, answer]; the replies are lines too: "gold", once the gold answer is parsed, then
"equal", "different" or "unparseable". A comparison that exceeds the limits ends the process; the parent starts another.
"""

import json
import logging
import os
import resource
import signal
import sys
from contextlib import suppress


def main(memory_bytes: int, cpu_seconds: float) -> None:
    """Answer requests until the pipe closes. `cpu_seconds` limit one request, `memory_bytes` the whole process."""
    requests, replies = set_limits_(memory_bytes)
    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)  # math-verify logs the whole text when it fails

    def parse_latex(text: str) -> list[object]:
        return list(parse(f"${text}$", [LatexExtractionConfig()], "no_fallback", "first_match", parsing_timeout=None))

    with open(requests, encoding="ascii") as lines, open(replies, "w", encoding="ascii", buffering=1) as out:
        verify(parse_latex("x+1"), parse_latex(r"\frac{x}{1}+1"))  # load now what is loaded at first use
        print("ready", file=out)
        for line in lines:
            gold, answer = json.loads(line)
            # The default action of SIGPROF ends the process, also inside of a C function that no exception reaches.
            signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
            try:
                expected = parse_latex(gold)
                if expected:
                    print("gold", file=out)
                found = parse_latex(answer)
                if not (expected and found):
                    verdict = "unparseable"
                else:
                    verdict = "equal" if verify(expected, found, timeout_seconds=None) else "different"
            except Exception:  # noqa: BLE001  math-verify and SymPy raise whatever they please on strange text
                verdict = "unparseable"
            signal.setitimer(signal.ITIMER_PROF, 0)
            print(verdict, file=out)


def set_limits_(memory_bytes: int) -> tuple[int, int]:
    """Set the limits, and move the pipes to the parent out of reach of code that prints or reads; return the pipes."""
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
