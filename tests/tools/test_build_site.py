"""The documentation site: its links lead somewhere; it is built without a warning, and asks no other host."""

import re
from pathlib import Path, PurePosixPath

import pytest

import build_site
from build_site import SiteError, outside_code, rewrite_link


def no_picture(picture: PurePosixPath) -> str:
    raise AssertionError(f"{picture} is no picture from elsewhere")


@pytest.mark.parametrize(
    ("page", "link", "there"),
    [
        ("docs/a.md", "math.md#rules", "math.md#rules"),
        ("docs/decisions/b.md", "../math.md", "../math.md"),
        ("docs/a.md", "#here", "#here"),
        ("docs/a.md", "https://arxiv.org/abs/2510.02212", "https://arxiv.org/abs/2510.02212"),
        ("docs/a.md", "../CONTRIBUTING.md#words", "contributing.md#words"),
        ("docs/decisions/b.md", "../../CHANGELOG.md", "../changelog.md"),
        ("CONTRIBUTING.md", "docs/runs.md#torture", "runs.md#torture"),
        ("docs/a.md", "../README.md#a-map", f"{build_site.CODE_HOST}/README.md#a-map"),
        ("docs/a.md", "../src/diffpo/core/canvas.py", f"{build_site.CODE_HOST}/src/diffpo/core/canvas.py"),
        ("docs/a.md", "decisions", f"{build_site.CODE_HOST}/docs/decisions"),
    ],
)
def test_a_link_leads_where_it_led(page: str, link: str, there: str) -> None:
    assert rewrite_link(PurePosixPath(page), link, no_picture) == there


def test_a_link_that_leads_to_nothing_is_told() -> None:
    with pytest.raises(SiteError, match=r"docs/a\.md: the link no-such\.md leads to nothing"):
        rewrite_link(PurePosixPath("docs/a.md"), "no-such.md", no_picture)


def test_a_picture_from_elsewhere_is_brought_along() -> None:
    brought: list[PurePosixPath] = []

    def bring(picture: PurePosixPath) -> str:
        brought.append(picture)
        return "pictures/kl.svg"

    assert (
        rewrite_link(PurePosixPath("docs/results.md"), "../results/likelihood/kl-walk.svg", bring) == "pictures/kl.svg"
    )
    assert brought == [PurePosixPath("results/likelihood/kl-walk.svg")]


def test_code_is_left_as_it_is() -> None:
    assert outside_code("a\n```sh\nb\n```\nc\n", str.upper) == "A\n```sh\nb\n```\nC\n"


def test_the_site_is_built_and_asks_no_other_host(tmp_path: Path) -> None:
    pytest.importorskip("zensical")
    build_site.build(tmp_path / "site")
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert {"index.html", "tutorial.html", "changelog.html"} <= {page.name for page in pages}
    assert "class-attribute" in (tmp_path / "site/reference/python.html").read_text()  # made of docstrings
    assert "diffpo eval" in (tmp_path / "site/reference/commands.html").read_text()
    asked = re.compile(
        r"<(?:script|img|iframe)[^>]+src=\"(?:https?:)?//|<link[^>]+rel=\"stylesheet\"[^>]+href=\"(?:https?:)?//"
    )
    assert [page.name for page in pages if asked.search(page.read_text())] == []
