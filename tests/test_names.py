"""A test's name is a sentence that fits on a line of a terminal."""

import ast
from pathlib import Path

LONGEST = 80


def test_names_of_tests_are_short_enough_to_be_read() -> None:
    names = [
        node.name
        for file in Path(__file__).parent.rglob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert len(names) > 500
    assert [name for name in names if len(name) >= LONGEST] == []
