"""Every block of code in the documentation is what it is said to be, and every command would start.

Are there the verb, its options, the keys of the recipe, the names that are imported, the targets, the extras? The
tutorial's blocks are run, in `test_tutorial.py`.
"""

import ast
import importlib
import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import diffpo
from diffpo.objective import advantages
from tests.helpers.documents import ROOT, Block, blocks_of, commands_of, pages
from tests.helpers.shell_checks import check_program

LANGUAGES = {"sh", "python", "toml", "json", "text"}
TO_BE_WRITTEN = {"median_centered"}
"""What a guide has its reader add."""
BLOCKS = [block for page in pages() for block in blocks_of(page)]


def test_there_are_blocks_and_each_names_its_language() -> None:
    assert len(BLOCKS) > 30
    assert [f"{block}: {block.language!r}" for block in BLOCKS if block.language not in LANGUAGES] == []


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "json"], ids=str)
def test_json_is_json(block: Block) -> None:
    json.loads(block.code)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "toml"], ids=str)
def test_toml_is_toml(block: Block) -> None:
    tomllib.loads(block.code)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=str)
def test_python_compiles_and_finds_what_it_imports(block: Block) -> None:
    tree = ast.parse(block.code, filename=str(block))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "diffpo"
    }
    assert [name for name in sorted(used) if not hasattr(diffpo, name)] == []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("diffpo"):
            module = importlib.import_module(node.module or "")
            missing = {alias.name for alias in node.names if not hasattr(module, alias.name)}
            assert missing <= TO_BE_WRITTEN


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "sh"], ids=str)
def test_the_commands_would_start(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    for words in commands_of(block.code):
        check_program(words)


def test_the_new_advantage_of_the_guide_passes_its_test(monkeypatch: pytest.MonkeyPatch) -> None:
    function, test = (block.code for block in blocks_of(ROOT / "CONTRIBUTING.md") if block.language == "python")
    names: dict[str, object] = dict(vars(advantages))
    exec(function, names)
    monkeypatch.setattr(advantages, "median_centered", names["median_centered"], raising=False)
    names = {"Callable": Callable, "Tensor": torch.Tensor, "torch": torch}
    exec(test, names)
    by_hand = names["test_median_centered_by_hand"]
    assert callable(by_hand)
    by_hand()
