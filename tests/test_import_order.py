"""Packages import downwards only, and no module imports itself by way of others."""

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import diffpo

SOURCE = Path(diffpo.__file__).parent
PACKAGES = (
    *("cli", "api", "study", "bench", "rehearsal", "report", "serve", "evaluation", "training", "runs", "recipes"),
    *("likelihood", "sampling", "models", "tasks", "grading", "objective", "distributed", "statistics", "core"),
)
"""From top to bottom. A package imports only from packages that stand behind it."""


def modules_of(source: Path) -> dict[str, Path]:
    """Dotted name -> file, of every module in a package's folder."""
    names = {file: [source.name, *file.relative_to(source).with_suffix("").parts] for file in source.rglob("*.py")}
    return {".".join(parts[:-1] if parts[-1] == "__init__" else parts): file for file, parts in names.items()}


def absolute_name(node: ast.ImportFrom, importer: str, is_package: bool) -> str:
    """The module that a `from` names, relative ones from where they stand."""
    if node.level == 0:
        return node.module or ""
    parents = importer.split(".") if is_package else importer.split(".")[:-1]
    parents = parents[: len(parents) - node.level + 1]
    return ".".join([*parents, node.module] if node.module else parents)


def imports_of(file: Path, importer: str, known: Mapping[str, Path]) -> Iterator[str]:
    """The package's own modules that a file imports anywhere in it, in functions and for type checkers, too.

    The front door is one of them: what it offers stands above all packages. Strings that name modules are not seen.
    """
    is_package = file.name == "__init__.py"
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and (module := absolute_name(node, importer, is_package)) in known:
            names = {f"{module}.{alias.name}": alias.name for alias in node.names}
            yield from (name for name in names if name in known)
            # What `__init__` itself defines, as __version__, is no import of what stands above.
            if any(name not in known and not alias.startswith("__") for name, alias in names.items()):
                yield module


def graph_of(source: Path) -> Mapping[str, set[str]]:
    modules = modules_of(source)
    return {name: set(imports_of(file, name, modules)) for name, file in modules.items()}


def upward_imports(graph: Mapping[str, set[str]]) -> list[str]:
    def floor(module: str) -> int:
        """0 for what stands above all packages: `__init__` and `__main__`."""
        package = [*module.split("."), ""][1]
        return PACKAGES.index(package) + 1 if package in PACKAGES else 0

    edges = [(importer, imported) for importer, found in graph.items() for imported in found]
    return sorted(f"{a} -> {b}" for a, b in edges if floor(a) > floor(b))


def circle_in(graph: Mapping[str, set[str]]) -> list[str]:
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return [str(name) for name in error.args[1]]
    return []


def test_every_package_has_its_place_in_the_list() -> None:
    assert {folder.name for folder in SOURCE.iterdir() if (folder / "__init__.py").is_file()} == set(PACKAGES)


def test_packages_import_downwards_only() -> None:
    assert upward_imports(graph_of(SOURCE)) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circle_in(graph_of(SOURCE)) == []


@pytest.mark.parametrize(
    "line",
    [
        "from diffpo.runs.optimizer import Optimizer",
        "from diffpo import runs",
        "def f():\n    import diffpo.runs.muon",
        "from ..runs import optimizer",
        "from ..runs.muon import Muon",
        "if TYPE_CHECKING:\n    from .. import runs",
    ],
)
def test_a_planted_upward_import_is_found(tmp_path: Path, line: str) -> None:
    package = tmp_path / "diffpo"
    for name in ("core", "runs"):
        (package / name).mkdir(parents=True)
        (package / name / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "runs" / "optimizer.py").touch()
    (package / "runs" / "muon.py").touch()
    (package / "core" / "canvas.py").write_text(line)
    (found,) = upward_imports(graph_of(package))
    assert found.startswith("diffpo.core.canvas -> diffpo.runs")


@pytest.mark.parametrize("line", ["from diffpo import run_rl", "from diffpo import *", "import diffpo"])
def test_the_front_door_stands_above_all_packages(tmp_path: Path, line: str) -> None:
    package = tmp_path / "diffpo"
    (package / "core").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "core" / "canvas.py").write_text(line)
    assert upward_imports(graph_of(package)) == ["diffpo.core.canvas -> diffpo"]
    (package / "core" / "canvas.py").write_text("from diffpo import __version__")
    assert upward_imports(graph_of(package)) == []


def test_a_planted_circle_is_found(tmp_path: Path) -> None:
    package = tmp_path / "diffpo"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "one.py").write_text("from diffpo.two import b")
    (package / "two.py").write_text("def b():\n    from . import one")
    assert set(circle_in(graph_of(package))) == {"diffpo.one", "diffpo.two"}
