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
from typing import Any

PRIMES = (11, 13, 17, 19, 23, 29, 31, 37)
"""Sevenths of these are put for the symbols of an expression."""


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
                    is_equal = verify(expected, found, timeout_seconds=None) and is_as_exact(expected[0], found[0])
                    verdict = "equal" if is_equal else "different"
            except Exception:  # noqa: BLE001  math-verify and SymPy raise whatever they please on strange text
                verdict = "unparseable"
            signal.setitimer(signal.ITIMER_PROF, 0)
            print(verdict, file=out)


def is_as_exact(one: object, other: object) -> bool:
    """Return whether two values that math-verify calls equal are so to 100 digits: it takes all that is tiny for equal.

    So it does with a number and an infinite value. Decimals are taken as they are written. What cannot be computed is
    left to math-verify.
    """
    import sympy

    if isinstance(one, sympy.Eq) and isinstance(other, sympy.Expr):
        one = one.rhs
    if isinstance(other, sympy.Eq) and isinstance(one, sympy.Expr):
        other = other.rhs
    if isinstance(one, sympy.Interval) and isinstance(other, sympy.Interval):
        return is_as_exact(one.start, other.start) and is_as_exact(one.end, other.end)
    if isinstance(one, sympy.FiniteSet | sympy.Union) and isinstance(other, sympy.FiniteSet | sympy.Union):
        return all(any(is_as_exact(mine, yours) for yours in other.args) for mine in one.args)
    if isinstance(one, sympy.Tuple | sympy.MatrixBase) and isinstance(other, sympy.Tuple | sympy.MatrixBase):
        return all(is_as_exact(mine, yours) for mine, yours in zip(one, other, strict=True))
    if not (isinstance(one, sympy.Expr) and isinstance(other, sympy.Expr)):
        return True
    symbols = sorted(one.free_symbols | other.free_symbols, key=str)
    point = {symbol: sympy.Rational(prime, 7) for symbol, prime in zip(symbols, PRIMES, strict=False)}
    try:
        mine, yours = (value_at(side, point) for side in (one, other))
    except (TypeError, ValueError, ArithmeticError):
        return True
    if not (mine.is_finite and yours.is_finite):
        return bool(mine == yours and mine is not sympy.nan)
    scale = max(abs(mine), abs(yours))
    return bool(scale == 0 or abs(mine - yours) <= scale * 1e-100)


def value_at(side: Any, point: dict[Any, Any]) -> Any:
    """Return an expression's value to 120 digits, which may be infinite or nan. Raises TypeError where it has none."""
    import sympy

    exact = side.xreplace({number: sympy.Rational(str(number)) for number in side.atoms(sympy.Float)})
    value = exact.subs(point).evalf(120)
    if not value.is_number or (value.is_finite is None and not value.has(sympy.oo, sympy.zoo, sympy.nan)):
        raise TypeError("not a number")
    return value


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
