"""Parts of the user's own: `kind = "file.py:Class"` makes a table of the options that the class takes.

The table is as strict as a built-in one, so that mistakes in it are told in the same words. Imports no torch by itself;
the user's file may.
"""

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticUserError

from diffpo.core.errors import UserError
from diffpo.core.user_code import describe, is_user_code, load_user_code
from diffpo.recipes.strict import Strict


@dataclass(frozen=True)
class Contract:
    """What the class of a part must have."""

    part: str
    """The part's name: rule, task, ..."""
    methods: Mapping[str, tuple[str, ...]]
    """Parameters of each method, which are passed by position."""
    attributes: Mapping[str, Any]
    """Type of each attribute."""


class CustomPart(Strict):
    """A table whose `kind` names a class of the user's own.

    Each kind of part has a subclass of this; `table_of` makes one of that for every class.
    """

    model_config = ConfigDict(protected_namespaces=())
    _contract: ClassVar[Contract]
    _part: ClassVar[type[Any] | None] = None
    _options: ClassVar[tuple[str, ...]] = ()
    """The keywords of the class."""

    kind: str

    @classmethod
    def class_for(cls, kind: str) -> "type[Strict] | None":
        return table_of(cls, kind, _folder_of(kind)) if is_user_code(kind) else None

    def problems(self) -> Iterable[str]:
        if self._part is None:
            yield f"kind {self.kind!r} names no class that was loaded; read the table by load_recipe"
            return
        if not set(self._options) <= self.__dict__.keys():
            return  # an option was refused; its own mistake says why
        try:
            part = build_custom(self)
        except (Exception, SystemExit) as error:  # noqa: BLE001  it is the user's code, and may raise anything
            yield f"{self.kind} cannot be made with these options ({describe(error)}); change them, or mend the class"
            return
        yield from _contract_problems(self.kind, part, self._contract)


def build_custom(table: CustomPart) -> Any:
    """Return the user's part. Raises whatever its class raises."""
    part_class = type(table)._part
    assert part_class is not None, f"{table.kind} was not loaded"
    # The table's own properties may bear the name of an option, so its values are taken from where pydantic has them.
    return part_class(**{name: table.__dict__[name] for name in type(table)._options})


def attribute_or_none(table: CustomPart, name: str) -> Any:
    """Return an attribute of the user's part; None where there is none, of which the table's own `problems` tell."""
    try:
        return getattr(build_custom(table), name)
    except (Exception, SystemExit):  # noqa: BLE001  it is the user's code, and may raise anything
        return None


T = TypeVar("T", bound=CustomPart)


@lru_cache
def table_of(base: type[T], kind: str, folder: Path) -> type[T]:
    """Return the table of the class that `kind` names, its options those of the class. `folder` is only for the cache.

    Raises UserError, which names file, class and field or method, for a class that is not there, lacks a method of
    its part, or has a field that no recipe can give.
    """
    contract = base._contract
    found = load_user_code(kind, contract.part, "class")
    if not isinstance(found, type):
        raise UserError(f"{kind} is a function, and a table is of a class; name one")
    # A protocol's own methods do nothing, and every class can be called.
    own = [vars(c) for c in found.__mro__ if c is not object and not vars(c).get("_is_protocol", False)]
    if missing := [name for name in contract.methods if not any(name in names for names in own)]:
        needed = ", ".join((*contract.methods, *contract.attributes))
        raise UserError(f"{kind} lacks {', '.join(missing)}; add it, as {contract.part}s have {needed}")
    options = {name: (hint, default) for name, hint, default in _options_of(found, kind)}
    for name, (hint, default) in options.items():
        _check_option(base, kind, name, hint, default)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*shadows an attribute in parent.*")
        table = create_model(found.__name__, __base__=base, kind=(Literal[kind], kind), **options)  # type: ignore[call-overload]
    table._part, table._options = found, tuple(options)
    made: type[T] = table
    return made


def load_function(name: str, table: type[CustomPart]) -> Callable[..., Any]:
    """Return the function that `name` stands for, or an instance of the class, which then has no required options.

    Raises UserError for what is wrong with it.
    """
    found = load_user_code(name, table._contract.part, "function")
    if isinstance(found, type):
        try:
            found = build_custom(table_of(table, name, _folder_of(name))())
        except ValidationError as error:
            mistake = error.errors(include_url=False)[0]
            what = ".".join(map(str, mistake["loc"])) or str(mistake["msg"])
            raise UserError(f"{name} needs options ({what}); give them in a table, {{kind = '{name}', ...}}") from error
    if mistakes := list(_signature_problems(name, found, "__call__", table._contract.methods["__call__"])):
        raise UserError(mistakes[0])
    function: Callable[..., Any] = found
    return function


def _folder_of(kind: str) -> Path:
    """Return what a relative path in `kind` starts from."""
    return Path.cwd()


def _options_of(part: type[Any], kind: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, type and default (`...`: none) of each keyword of a class."""
    try:
        hints = get_type_hints(part, include_extras=True) | get_type_hints(part.__init__, include_extras=True)
        parameters = inspect.signature(part).parameters.values()
    except (Exception, SystemExit) as error:
        raise UserError(f"the fields of {kind} cannot be told ({describe(error)}); mend their types") from error
    factories = {field.name: field.default_factory for field in fields(part)} if is_dataclass(part) else {}
    for parameter in parameters:
        name, default = parameter.name, parameter.default
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            continue
        if name not in hints:
            raise UserError(f"{kind} takes {name} without a type, so a recipe cannot check it; give it one")
        if default is inspect.Parameter.empty:
            yield name, hints[name], ...
        elif (factory := factories.get(name, MISSING)) is not MISSING:
            yield name, hints[name], Field(default_factory=factory)
        else:
            yield name, hints[name], default


def _check_option(base: type[CustomPart], kind: str, name: str, hint: Any, default: Any) -> None:
    is_taken = hasattr(base, name) or name in base.model_fields
    if name.startswith("_") or (is_taken and name not in base._contract.attributes):
        raise UserError(f"{kind} has a field {name}, a name that its table uses for something else; rename it")
    if NoneType in get_args(hint) and default is not None:
        raise UserError(f"{kind}: field {name} may be None, which TOML cannot say, so None must be its default")
    try:
        TypeAdapter(hint)
    except (PydanticUserError, TypeError) as error:
        raise UserError(
            f"{kind}: field {name} is a {getattr(hint, '__name__', hint)}, which a recipe cannot give; use numbers, "
            "texts, tuples or dataclasses of them, or field(init=False)"
        ) from error


def _contract_problems(kind: str, part: Any, contract: Contract) -> Iterator[str]:
    for name, hint in contract.attributes.items():
        try:
            value = getattr(part, name)
        except AttributeError:
            yield f"{kind} lacks {name}; add it, as {contract.part}s have it"
            continue
        except (Exception, SystemExit) as error:  # noqa: BLE001  a property of the user's may raise anything
            yield f"{kind}: {name} cannot be told ({describe(error)}); mend it"
            continue
        try:
            TypeAdapter(hint).validate_python(value, strict=True)
        except ValidationError as error:
            yield f"{kind}: {name} {error.errors()[0]['msg'].removeprefix('Input ')}, got {value!r}"
    for name, parameters in contract.methods.items():
        if not callable(getattr(type(part), name, None)):
            yield f"{kind}: {name} is no method; make it one, as {contract.part}s have it"
            continue
        yield from _signature_problems(kind, part, name, parameters)


def _signature_problems(kind: str, part: Any, method: str, parameters: tuple[str, ...]) -> Iterator[str]:
    function = part if inspect.isfunction(part) else getattr(part, method)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # written in C: nothing is known of it
    try:
        signature.bind(*parameters)
    except TypeError:
        yield f"{kind}: {method} takes {signature}, and is called with ({', '.join(parameters)}); change its parameters"
