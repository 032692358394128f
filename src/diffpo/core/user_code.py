"""Code of the user's own that a recipe names: `path/to/file.py:NAME` or `package.module:NAME`. Nothing fences it."""

import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from diffpo.core.errors import UserError
from diffpo.core.suggestion import suggested_path, suggestion
from diffpo.core.time_limit import OutOfTimeError, time_limit

IMPORT_SECONDS = 300.0
LONGEST = 4_000
"""Characters of either end of a traceback."""


def is_user_code(text: object) -> bool:
    """Return whether `text` is written as the name of user code."""
    return isinstance(text, str) and re.fullmatch(r"(.+\.py|[^\W\d][\w.]*):[^\W\d]\w*", text) is not None


def load_user_code(name: str, part: str, noun: str) -> Any:
    """Return the object that `file.py:NAME` or `package.module:NAME` names. A file is run once.

    `part` ("rule") and `noun` ("class") are for messages. Raises UserError where there is no such file, module or
    object, where the object cannot be called, and where the user's code raises.
    """
    source, _, attribute = name.rpartition(":")
    file = Path(source).resolve() if source.endswith(".py") else None
    if file is not None and not file.is_file():
        raise UserError(
            f"the {part}'s file {file} is not there{suggested_path(source)}; give FILE.py:{noun.upper()} or "
            f"PACKAGE.MODULE:{noun.upper()}"
        )
    try:
        with contained(IMPORT_SECONDS):
            module = _module_of(file) if file is not None else importlib.import_module(source)
    except KeyboardInterrupt:
        raise
    except OutOfTimeError as error:
        raise UserError(
            f"the {part} {name} cannot be imported (it does not end within {IMPORT_SECONDS:g} s); mend {source}"
        ) from error
    except BaseException as error:
        raise UserError(
            f"the {part} {name} cannot be imported ({describe(error)}); mend {source}, or name another"
        ) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        raise UserError(
            f"the {part} {name} names a {noun} that {source} does not have, {attribute}; "
            f"it has {', '.join(known := _defined_in(module, noun)) or 'none'}{suggestion(attribute, known)}"
        )
    return found


def traceback_of(error: BaseException) -> str:
    """Return an exception as Python shows it, over several lines; of a long text the beginning and the end."""
    text = "".join(traceback.format_exception(error)).rstrip()
    return text if len(text) <= 2 * LONGEST else f"{text[:LONGEST]}\n...\n{text[-LONGEST:]}"


def line_of(error: BaseException) -> str:
    """Return where an exception was raised, as " (reward.py, line 3)": in the user's own code, as far as is known."""
    installed = (str(Path(__file__).parents[1]), str(Path(os.__file__).parent))
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(installed)]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""


def describe(error: BaseException) -> str:
    """Return the class of an exception of user code and the first line of its message, cut where it is long."""
    try:
        line = "".join(str(error).splitlines()[:1])
    except Exception:  # noqa: BLE001  its __str__ is user code, too
        line = "(a message that cannot be read)"
    return f"{type(error).__name__}: {line:.300}".rstrip()


@contextmanager
def contained(seconds: float) -> Iterator[None]:
    """Run user code in the block, for so many seconds at most, and undo what it did to the process besides its work.

    That is the current folder, and torch's gradient mode and default dtype. A child that the code forked, and let come
    out of the block, ends there: it would train and write beside its parent. Raises OutOfTimeError.
    """
    process, torch = os.getpid(), sys.modules.get("torch")
    folder = None
    with suppress(OSError):
        folder = os.getcwd()
    modes = (torch.is_grad_enabled(), torch.get_default_dtype()) if torch else None
    try:
        with time_limit(seconds):
            yield
    finally:
        if os.getpid() != process:
            os._exit(1)
        if folder is not None:
            with suppress(OSError):
                os.chdir(folder)
        if torch and modes:
            torch.set_grad_enabled(modes[0])
            torch.set_default_dtype(modes[1])


@lru_cache
def _module_of(file: Path) -> ModuleType:
    name = f"diffpo_user_{file.stem}_{abs(hash(file)):x}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None, "the name ends in .py"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _defined_in(module: ModuleType, noun: str) -> list[str]:
    is_wanted = inspect.isclass if noun == "class" else inspect.isfunction
    own = (value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__)
    return [value.__name__ for value in own if is_wanted(value)]
