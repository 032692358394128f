"""The blocks of code in the documentation, and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(.*)$")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page: `line` is that of its first line of code, counted from 1."""

    page: Path
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Return every page that a reader sees, in the order of their paths."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def blocks_of(page: Path) -> Iterator[Block]:
    language: str | None = None
    start, lines = 0, list[str]()
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        fence = FENCE.match(line.strip())
        if fence is None:
            lines.append(line)
        elif language is None:
            language, start, lines = fence[1], number + 1, []
        else:
            yield Block(page, start, language, "\n".join(lines) + "\n")
            language = None
    assert language is None, f"{page}: a block of code does not end"


def commands_of(code: str) -> list[list[str]]:
    """Return the commands of a shell block, split into words, without comments and redirections."""
    commands, begun = list[list[str]](), ""
    for line in code.replace("\\\n", " ").splitlines():
        begun += line
        try:
            words = shlex.split(begun, comments=True)
        except ValueError:  # a quotation goes on in the next line
            begun += "\n"
            continue
        commands.append(words[: words.index(">")] if ">" in words else words)
        begun = ""
    assert not begun, f"a quotation does not end: {begun}"
    return [words for words in commands if words]


FILE_NAME = re.compile(r"^# ([\w/.-]+\.(?:py|toml|jsonl|sh))$")


def file_of(block: Block) -> str | None:
    """Return the name of the file whose content a block is: it begins with a comment that is nothing but the name."""
    found = FILE_NAME.match(block.code.split("\n", 1)[0])
    return found[1] if found else None
