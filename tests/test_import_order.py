"""Packages import downwards only, and no module imports itself by way of others."""

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import diffpo

SOURCE = Path(diffpo.__file__).parent
PACKAGES = (
    *("cli", "study", "bench", "report", "evaluation", "training", "runs", "recipes", "likelihood", "sampling"),
    *("models", "tasks", "grading", "objective", "distributed", "statistics", "core"),
)
"""From top to bottom. A package imports only from packages that stand behind it."""


def modules_of(source: Path) -> dict[str, Path]:
    """Dotted name -> file, of every module in a package's folder."""
    names = {file: [source.name, *file.relative_to(source).with_suffix("").parts] for file in source.rglob("*.py")}
    return {".".join(parts[:-1] if parts[-1] == "__init__" else parts): file for file, parts in names.items()}


def imports_of(file: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """The package's own modules that a file imports anywhere in it, in functions and for type checkers, too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.module in known:
            assert node.level == 0
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [name for name in submodules if name in known]
            yield from found
            if len(found) < len(submodules):
                yield node.module


def graph_of(source: Path) -> Mapping[str, set[str]]:
    modules = modules_of(source)
    return {name: set(imports_of(file, modules)) for name, file in modules.items()}


def upward_imports(graph: Mapping[str, set[str]]) -> list[str]:
    def floor(module: str) -> int:
        """0 for what stands above all packages: `__init__` and `__main__`."""
        package = [*module.split("."), ""][1]
        return PACKAGES.index(package) + 1 if package in PACKAGES else 0

    edges = [(importer, imported) for importer, found in graph.items() for imported in found]
    return sorted(f"{a} -> {b}" for a, b in edges if floor(a) > floor(b) and b != "diffpo")


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
    ["from diffpo.runs.optimizer import Optimizer", "from diffpo import runs", "def f():\n    import diffpo.runs.muon"],
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


def test_a_planted_circle_is_found(tmp_path: Path) -> None:
    package = tmp_path / "diffpo"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "one.py").write_text("from diffpo.two import b")
    (package / "two.py").write_text("def b():\n    from diffpo import one")
    assert set(circle_in(graph_of(package))) == {"diffpo.one", "diffpo.two"}
