"""Pictures of a report for the documentation: at the widths of a phone and a desk, in light and in dark.

    python tools/screenshots.py runs/demo/report.html --out docs/images --name report

Writes NAME-WIDTH-SCHEME.png, of few colours, so that each is about 100 KB. Needs a Chromium on the PATH and the `dev`
extra.
"""

import argparse
import io
import shutil
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import sync_playwright

WIDTHS = {390: 2500, 1440: 1880}
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
COLOURS = 256
"""Of a picture: letters and lines lose nothing that is seen, and it takes a third."""


def main() -> None:
    """Take the pictures that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--name", default="report")
    parser.add_argument("--full", action="store_true", help="the whole page, and not the first screens of it")
    given = parser.parse_args()
    for path in screenshots(given.page, given.out, given.name, given.full):
        print(f"{path}  {path.stat().st_size // 1000} KB")


def screenshots(page: Path, out: Path, name: str, is_full: bool = False) -> list[Path]:
    """Write the pictures of a page to a folder, and return their paths."""
    found = []
    out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for width, height in WIDTHS.items():
            for scheme in SCHEMES:
                tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
                tab.goto(page.resolve().as_uri())
                path = out / f"{name}-{width}-{scheme}.png"
                picture = Image.open(io.BytesIO(tab.screenshot(full_page=is_full)))
                picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
                tab.close()
                found.append(path)
        browser.close()
    return found


if __name__ == "__main__":
    main()
