"""A release has one version, wherever it stands."""

import re
from pathlib import Path

import diffpo

ROOT = Path(__file__).parents[1]


def first(pattern: str, file: str) -> str:
    found = re.search(pattern, (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return found[1]


def test_the_version_is_the_same_everywhere() -> None:
    assert first(r"^version: (\S+)$", "CITATION.cff") == diffpo.__version__
    assert first(r"^## \[(\d\S*)\] - \d{4}-\d\d-\d\d$", "CHANGELOG.md") == diffpo.__version__
