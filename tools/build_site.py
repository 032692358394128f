"""Build the documentation site: `python tools/build_site.py [--out build/site]`.

The pages are those of `docs/`, which read as well on a code host. There, a link may lead to any file of the
repository; a site has its pages alone. So the pages are copied to `build/docs` first, with the files at the root that
are pages, too (CONTRIBUTING.md and so on), pictures from elsewhere are brought along, and a link to any other file
leads to the code host. The commands' help becomes a page. zensical then builds `build/docs` as `mkdocs.yml` says; a
warning is an error.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[1]
CODE_HOST = "https://github.com/diffpo/diffpo/blob/main"
STAGED = Path("build/docs")
ROOT_PAGES = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
"""Files at the root of the repository that are pages of the site, under their names in small letters."""
PICTURES = (".svg", ".png")
LINK = re.compile(r"(!?\[(?:[^\[\]]|!?\[[^\]]*\](?:\([^)]*\))?)*\]\()([^)\s]+)(\))")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
"""zensical colours each character of a warning, terminal or not."""
FENCE = re.compile(r"^(```|~~~)")


class SiteError(Exception):
    """A link that leads nowhere, or a site that cannot be built."""


def staged_name(file: PurePosixPath) -> str | None:
    """Return where a file of the repository stands among the staged pages, or None if it is not one of them."""
    if file.parts[0] == "docs":
        return str(file.relative_to("docs"))
    return file.name.lower() if str(file) in ROOT_PAGES else None


def resolve(page: PurePosixPath, target: str) -> PurePosixPath:
    """Return the file of the repository to which a page's relative link leads."""
    return PurePosixPath(os.path.normpath(page.parent / target))


def rewrite_link(page: PurePosixPath, link: str, bring: Callable[[PurePosixPath], str]) -> str:
    """Return a page's link as it must be among the staged pages; `bring` takes a picture along and says where it is.

    Raises SiteError where the link leads to nothing.
    """
    target, _, anchor = link.partition("#")
    if not target or "://" in target or target.startswith("mailto:"):
        return link
    file = resolve(page, target)
    if not (ROOT / file).exists():
        raise SiteError(f"{page}: the link {link} leads to nothing")
    staged = staged_name(file)
    if staged is None and file.suffix in PICTURES:
        staged = bring(file)
    if staged is None or (ROOT / file).is_dir():
        return f"{CODE_HOST}/{file}" + (f"#{anchor}" if anchor else "")
    here = staged_name(page)
    assert here is not None, f"{page} is not a page of the site"
    relative = os.path.relpath(staged, PurePosixPath(here).parent)
    return relative + (f"#{anchor}" if anchor else "")


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """Change the lines of a page that are outside of blocks of code."""

    def lines() -> Iterator[str]:
        in_code = False
        for line in text.splitlines(keepends=True):
            if FENCE.match(line):
                in_code = not in_code
            yield line if in_code else change(line)

    return "".join(lines())


def stage_page(page: PurePosixPath, staged: Path) -> None:
    def bring(picture: PurePosixPath) -> str:
        name = "-".join(picture.parts)
        (staged / "pictures").mkdir(exist_ok=True)
        shutil.copyfile(ROOT / picture, staged / "pictures" / name)
        return f"pictures/{name}"

    def rewritten(line: str) -> str:
        return LINK.sub(lambda match: match[1] + rewrite_link(page, match[2], bring) + match[3], line)

    name = staged_name(page)
    assert name is not None
    target = staged / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(outside_code((ROOT / page).read_text(encoding="utf-8"), rewritten), encoding="utf-8")


def commands_page() -> str:
    """Return the help of every verb as a page."""
    from typer.core import TyperGroup
    from typer.main import get_command

    from diffpo.cli.app import app

    program = get_command(app)
    assert isinstance(program, TyperGroup)
    context = program.make_context("diffpo", [], resilient_parsing=True)
    sections = ["# Commands\n\nThe help of each, as `diffpo VERB --help` prints it.\n"]
    for verb in program.list_commands(context):
        command = program.get_command(context, verb)
        assert command is not None
        of_verb = command.make_context(f"diffpo {verb}", [], parent=context, resilient_parsing=True)
        sections.append(f"## diffpo {verb}\n\n```text\n{command.get_help(of_verb).strip()}\n```\n")
    return "\n".join(sections)


def stage(staged: Path) -> None:
    """Write all pages into a new folder.

    Raises SiteError for a link that leads to nothing.
    """
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    for file in sorted((ROOT / "docs").rglob("*")):
        page = PurePosixPath(file.relative_to(ROOT).as_posix())
        if file.suffix == ".md":
            stage_page(page, staged)
        elif file.is_file():
            target = staged / page.relative_to("docs")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    for name in ROOT_PAGES:
        stage_page(PurePosixPath(name), staged)
    (staged / "reference").mkdir(exist_ok=True)
    (staged / "reference" / "commands.md").write_text(commands_page(), encoding="utf-8")


def build(out: Path) -> None:
    """Build the site into `out`, a folder under the root.

    Raises SiteError with what zensical said.
    """
    stage(ROOT / STAGED)
    zensical = Path(sys.executable).parent / "zensical"
    done = subprocess.run([str(zensical), "build", "--strict", "--clean"], cwd=ROOT, text=True, capture_output=True)
    said = COLOURS.sub("", done.stdout + done.stderr)
    if done.returncode or "arning" in said:
        raise SiteError(f"zensical did not build the site:\n{said}")
    if out.resolve() != (ROOT / "build/site").resolve():
        shutil.copytree(ROOT / "build/site", out, dirs_exist_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build/site", help="where to write the site")
    out = parser.parse_args().out
    try:
        build(out)
    except SiteError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"wrote {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
