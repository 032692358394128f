"""Code of the user's own that a recipe names: `path/to/file.py:NAME` or `package.module:NAME`. Nothing fences it."""

import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from diffpo.core.errors import UserError


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
            f"the {part}'s file {file} is not there; give FILE.py:{noun.upper()} or PACKAGE.MODULE:{noun.upper()}"
        )
    try:
        module = _module_of(file) if file is not None else importlib.import_module(source)
    except (Exception, SystemExit) as error:
        raise UserError(
            f"the {part} {name} cannot be imported ({describe(error)}); mend {source}, or name another"
        ) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        raise UserError(
            f"the {part} {name} names a {noun} that {source} does not have, {attribute}; "
            f"it has {', '.join(_defined_in(module, noun)) or 'none'}"
        )
    return found


def traceback_of(error: BaseException) -> str:
    """Return an exception as Python shows it, over several lines."""
    return "".join(traceback.format_exception(error)).rstrip()


def describe(error: BaseException) -> str:
    """Return the class of an exception of user code and the first line of its message."""
    return " ".join([f"{type(error).__name__}:", *str(error).splitlines()[:1]])


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
