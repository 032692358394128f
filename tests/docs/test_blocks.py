"""Every block of code in the documentation runs, or is at least read by what would run it.

Blocks of a page run one after the other in one folder, in which a tiny model stands for those that a page speaks of.
Training is cut to a few steps; a model that would be fetched from the hub is trained by a dry run alone. What needs
another program (torchrun, make, pip) is looked up: do the options, the targets, the extras exist?
"""

import ast
import json
import tomllib

import pytest
from tests.helpers.documents import Block, blocks_of, commands_of, pages
from tests.helpers.shell_checks import check_program

LANGUAGES = {"sh", "python", "toml", "json", "text"}
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
    names = [
        (node.value.id, node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "diffpo"
    ]
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("diffpo")]
    for node in imports:
        exec(compile(ast.Module([node], []), str(block), "exec"), {})
    import diffpo

    assert [name for _, name in names if not hasattr(diffpo, name)] == []


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "sh"], ids=str)
def test_the_commands_would_start(block: Block) -> None:
    for words in commands_of(block.code):
        check_program(words)
