"""Functions that a caller hands over: the names that recipes record, and what tells one function from another.

A function of a file or a module is recorded as such a file names it, so that a command can load it again. One that
lives in a notebook, a console or another function is recorded as `python:NAME#FINGERPRINT`, which no command can load.
"""

import ast
import hashlib
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any

from diffpo.core.user_code import is_user_code

PYTHON = "python:"
_PLAIN = (int, float, complex, str, bytes, bool, type(None))


def is_python_name(text: object) -> bool:
    """Return whether `text` is the recorded name of a function that lives in no file."""
    return isinstance(text, str) and re.fullmatch(rf"{PYTHON}\w+#[0-9a-f]+", text) is not None


def short_name(name: str) -> str:
    """Return what a function is called: the NAME of `file.py:NAME`, of `package.module:NAME`, `python:NAME#...`."""
    return name.rpartition(":")[2].partition("#")[0]


def recorded_name(function: Callable[..., Any]) -> str:
    """Return the name that a recipe records of a function: of a file or module, or `python:NAME#FINGERPRINT`."""
    return _loadable_name(function) or f"{PYTHON}{_plain_name(function)}#{fingerprint(function)}"


def fingerprint(function: Callable[..., Any]) -> str:
    """Return eight hexadecimal digits that are others for another function.

    They depend on the code, without comments and formatting, on defaults, and on the numbers and texts that the
    function has caught or the object holds; not on what else it finds in its notebook, nor on lists and tables, which
    it may fill as it works.
    """
    return hashlib.sha256("\0".join(_described(function, set())).encode()).hexdigest()[:8]


def source_of(function: Callable[..., Any]) -> str:
    """Return the source, for reading; "" where it is not known."""
    inner = function.func if isinstance(function, partial) else function
    if not isinstance(inner, FunctionType | MethodType | type):
        inner = type(inner)
    with suppress(OSError, TypeError):
        return textwrap.dedent(inspect.getsource(inner))
    return ""


def _plain_name(function: Any) -> str:
    """Return a function's own name, an object's that of its class, a lambda's `lambda`."""
    inner = function.func if isinstance(function, partial) else function
    name = getattr(inner, "__name__", type(inner).__name__)
    return re.sub(r"\W", "", name) or "function"


def _loadable_name(function: Callable[..., Any]) -> str | None:
    """Return the name by which `load_user_code` finds a function of the same code; None if there is none."""
    name, module = getattr(function, "__name__", ""), sys.modules.get(getattr(function, "__module__", None) or "")
    if module is None or module.__name__ == "__main__" or vars(module).get(name) is not function:
        return None
    file = getattr(module, "__file__", None)
    if file is None or not file.endswith(".py"):
        return None
    path = Path(file)
    source = module.__name__
    if "." not in source and "site-packages" not in path.parts:  # else relative imports in it would fail
        source = str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
    found = f"{source}:{name}"
    return found if is_user_code(found) else None


def _described(function: Any, seen: set[int]) -> Iterator[str]:
    """Yield texts that say together what a function computes."""
    if id(function) in seen:
        return
    seen.add(id(function))
    if isinstance(function, partial):
        yield from _described(function.func, seen)
        yield _plain(function.args) + _named(function.keywords)
    elif isinstance(function, MethodType):
        yield from _described(function.__func__, seen)
        yield _named(getattr(function.__self__, "__dict__", {}))
    elif isinstance(function, FunctionType):
        yield _normal_source(function) or "".join(_code_texts(function.__code__))
        yield _plain(function.__defaults__) + _named(function.__kwdefaults__ or {})
        for cell in function.__closure__ or ():
            with suppress(ValueError):  # it is not filled yet
                if isinstance(cell.cell_contents, FunctionType | MethodType | partial):
                    yield from _described(cell.cell_contents, seen)
                else:
                    yield _plain(cell.cell_contents)
    else:
        yield source_of(function) or type(function).__qualname__
        yield _named(getattr(function, "__dict__", {}))


def _normal_source(function: FunctionType) -> str:
    """Return the source of a `def` without comments and formatting, which is the same in every version of Python.

    A lambda's source is the whole statement that it stands in, so that of it the code counts.
    """
    if function.__name__ == "<lambda>":
        return ""
    with suppress(SyntaxError, ValueError):
        return ast.unparse(ast.parse(source_of(function)))
    return ""


def _code_texts(code: CodeType) -> Iterator[str]:
    yield code.co_code.hex()
    yield repr((code.co_names, code.co_varnames, code.co_freevars))
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _code_texts(value)
        else:
            yield repr(value)


def _plain(value: Any) -> str:
    """Return a text for numbers, texts and tuples of them; of others the class, as they change, or show an address."""
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(_plain, value))})"
    return type(value).__qualname__


def _named(values: Mapping[str, Any]) -> str:
    return _plain(tuple(values.items()))
