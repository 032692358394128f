"""The page in headless Chromium: it plays, by pointer and keys, asks no other host, and shows hostile text as text."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.report_runs import fake_run

from diffpo.report.write import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (the dev extra)")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is found on the PATH")

LAST = 16
GRIDS = 4
HOSTILE = [
    '<script>window.hurt = 1</script><img src=x onerror="window.hurt = 2">',
    "\0\x1b[31m",
    "\u202eesrever",
    "zero\u200bwidth",
    "\nnew line\ttab  two",
    "w" * 400,
    "</style></title><svg onload=window.hurt=3>",
    "<|endoftext|>",
]


@dataclass
class Opened:
    """A page, with all that it said and asked for."""

    tab: Any
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def text(self, selector: str) -> str:
        return str(self.tab.locator(selector).first.inner_text())

    def now(self) -> int:
        words = self.text(".controls output").split()
        assert words[0] == "call" and words[2:] == ["of", str(LAST)]
        return int(words[1])

    def masked(self) -> int:
        return int(self.tab.locator(".masked").count())


def hostile_run(where: Path) -> Path:
    """A run of two arms with grids, and texts that mean harm."""
    run = fake_run(where)
    (run / "eval" / "base.json").unlink()
    for arm in ("d1", "diffpo"):
        file = run / "eval" / f"{arm}.json"
        found = json.loads(file.read_text())
        text = {
            "prompt": f"{HOSTILE[0]} \u202e Solve\nthis",
            "completion": "".join(HOSTILE[:-1]),
            "answer": "7",
            "tokens": HOSTILE,
            "special": [7],
            "unmask_step": [3, 0, 1, 2, 5, 4, 2, 6],
            "nfe": 7,
            "solved": False,
            "entropy_bound": 0.21,
            "rule": "<script>window.hurt = 4</script>",
            "difficulty": "level <b>3</b>\u202e",
        }
        if arm == "d1":
            found["playback"][0]["completion"] = "\0\u202e<&" + found["playback"][0]["completion"][4:]
        grid = found["playback"][0]
        others = [grid | {"prompt": grid["prompt"][:16] + f"({i})"} for i in range(1, GRIDS)]
        file.write_text(json.dumps(found | {"playback": [grid, *others, text], "task": HOSTILE[0]}))
    return run


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(hostile_run(tmp_path_factory.mktemp("browser") / "demo"))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def opened(chromium: Any, page: Path) -> Iterator[Callable[..., Opened]]:
    """Opens the page; at the end of the module none may have complained, or asked for anything but itself."""
    every: list[Opened] = []

    def open_page(width: int = 1000, **options: Any) -> Opened:
        tab = chromium.new_page(viewport={"width": width, "height": 900}, **options)
        found = Opened(tab)
        tab.on("console", lambda message: found.complaints.append(message.text))
        tab.on("pageerror", lambda error: found.complaints.append(str(error)))
        tab.on("request", lambda request: found.asked.append(request.url))
        tab.route("**/*", lambda route: route.continue_() if route.request.url == page.as_uri() else route.abort())
        tab.goto(page.as_uri())
        every.append(found)
        return found

    yield open_page
    for found in every:
        assert found.complaints == []
        assert set(found.asked) == {page.as_uri()}


@pytest.fixture(scope="module")
def shared(opened: Callable[..., Opened]) -> Opened:
    return opened(reduced_motion="reduce")


@pytest.fixture
def desk(shared: Opened) -> Opened:
    """A page that stands still after the last call; one for all tests, since opening takes longer than most of them."""
    shared.tab.get_by_role("slider").fill(str(LAST))
    return shared


def test_the_page_is_small_and_speaks_to_nobody(page: Path, desk: Opened) -> None:
    assert page.stat().st_size < 300_000
    assert desk.asked == [page.as_uri()] and desk.complaints == []
    assert desk.tab.evaluate("fetch('https://example.org').then(() => 'sent', () => 'refused')") == "refused"
    desk.tab.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {text: 'window.hurt = 5'}))"
    )
    assert desk.tab.evaluate("window.hurt") is None
    assert len(desk.complaints) >= 2, "both are refused by the page itself"
    desk.complaints.clear()
    desk.asked[:] = [page.as_uri()]


def test_playing_ends_at_the_last_call_with_the_whole_text(opened: Callable[..., Opened]) -> None:
    found = opened(reduced_motion="no-preference")
    whole = found.text(".answers .text")
    assert found.now() == LAST and found.masked() == 0
    found.tab.clock.install(time=0)
    found.tab.clock.pause_at(1)
    found.tab.get_by_role("button", name="Play").click()
    assert found.now() == 0 and found.tab.get_by_role("button", name="Pause").is_visible()
    seen = []
    for _ in range(LAST):
        found.tab.clock.run_for(600)
        seen.append((found.now(), found.masked()))
    assert [call for call, _ in seen] == list(range(1, LAST + 1))
    assert [count for _, count in seen] == sorted((count for _, count in seen), reverse=True)
    assert seen[-1] == (LAST, 0) and seen[0][1] > 0
    assert found.tab.get_by_role("button", name="Play").is_visible()
    assert found.text(".answers .text") == whole and found.tab.locator(".pending").count() == 0
    found.tab.get_by_role("button", name="Play").click()
    found.tab.clock.run_for(1200)
    found.tab.get_by_role("button", name="Pause").click()
    found.tab.clock.run_for(6000)
    assert found.now() == 2, "a pause holds"
    found.tab.close()


def test_with_less_motion_playing_is_slower_and_nothing_fades(opened: Callable[..., Opened]) -> None:
    desk = opened(reduced_motion="reduce")
    desk.tab.clock.install(time=0)
    desk.tab.clock.pause_at(1)
    desk.tab.get_by_role("button", name="Play").click()
    desk.tab.clock.run_for(1199)
    assert desk.now() == 0
    desk.tab.clock.run_for(2)
    assert desk.now() == 1
    assert desk.tab.evaluate("getComputedStyle(document.querySelector('.cell')).transitionDuration") == "0s"
    desk.tab.close()


def test_before_the_first_call_prompt_and_clues_show_and_nothing_else(desk: Opened) -> None:
    desk.tab.locator(".lanes").focus()
    desk.tab.keyboard.press("Home")
    tokens = desk.tab.locator("[data-call]").count()
    assert desk.now() == 0 and desk.masked() == tokens == 2 * (16 * GRIDS + len(HOSTILE))
    shown = "e => getComputedStyle(e, '::before').content"
    clues = desk.tab.locator(".board >> nth=0 >> .clue")
    assert [clue.evaluate(shown) for clue in clues.all()] == [f'"{digit}"' for digit in "143131"]
    assert desk.tab.locator(".board bdi:visible").count() == 0 and "Solve" in desk.text(".prompt")
    assert desk.tab.locator(".right:visible, .bad:visible").count() == 0, "no verdict before the end"
    colour = "e => getComputedStyle(e).color"
    assert {i.evaluate(colour) for i in desk.tab.locator(".text i").all()} == {"rgba(0, 0, 0, 0)"}


def test_keys_play_and_step(desk: Opened) -> None:
    lanes = desk.tab.locator(".lanes")
    lanes.focus()
    press = desk.tab.keyboard.press
    press("Shift+Tab")  # by keys, so that the focus is to be seen
    press("Tab")
    assert lanes.evaluate("e => document.activeElement === e && getComputedStyle(e).outlineStyle") == "solid"
    for key, call in (
        ("Home", 0),
        ("ArrowLeft", 0),
        ("ArrowRight", 1),
        ("ArrowRight", 2),
        ("ArrowLeft", 1),
        ("End", LAST),
    ):
        press(key)
        assert desk.now() == call, key
    press("Space")
    assert desk.now() == 0 and desk.tab.get_by_role("button", name="Pause").is_visible()
    press("Space")
    assert desk.tab.get_by_role("button", name="Play").is_visible()
    desk.tab.get_by_role("button", name="One call forward").focus()
    press("Space")
    assert desk.now() == 1, "a button keeps its own key"
    press("Control+End")
    assert desk.now() == 1, "keys of the browser stay its own"


def test_the_scrub_goes_to_any_call(desk: Opened) -> None:
    slider = desk.tab.get_by_role("slider", name="Denoiser calls shown")
    for call in (5, 0, LAST, 3):
        slider.fill(str(call))
        assert desk.now() == call and slider.get_attribute("aria-valuetext") == f"call {call} of {LAST}"
        late = desk.tab.locator("[data-call]").evaluate_all(f"all => all.filter(e => e.dataset.call > {call}).length")
        assert desk.masked() == late
    slider.focus()
    desk.tab.keyboard.press("ArrowRight")
    desk.tab.keyboard.press("Space")
    assert desk.now() == 4 and desk.tab.get_by_role("button", name="Pause").is_visible()


def test_tallies_count_what_is_finished(desk: Opened) -> None:
    slider = desk.tab.get_by_role("slider")
    told = []
    for call in (4, 5, LAST):
        slider.fill(str(call))
        told.append(desk.tab.locator(".lanes .tally").all_inner_texts())
    none, all_of_them = f"0 of {GRIDS} solved", f"{GRIDS} of {GRIDS} solved"
    assert told == [[none, none], *[[none, all_of_them]] * 2]
    assert desk.tab.locator(".writers .tally").all_inner_texts() == ["0 of 1 solved", "0 of 1 solved"]


def test_hostile_completions_are_text_and_move_nothing(desk: Opened) -> None:
    assert desk.tab.evaluate("window.hurt") is None and desk.tab.locator("main img, main b b, i script").count() == 0
    text = desk.text(".answers .text")
    for written in ("<script>window.hurt = 1</script>", "␀", "␛[31m", "U+202E", "zeroU+200Bwidth", "</style></title>"):
        assert written in text
    assert "⏎\nnew line\ttab  two" in desk.tab.locator(".answers .text").first.text_content()
    assert desk.tab.locator(".special").first.text_content() == "<|endoftext|>"
    assert "\u202e" not in desk.tab.content() and "\0" not in desk.tab.content()
    assert desk.tab.locator(".board >> nth=0 >> bdi").all_inner_texts()[:4] == ["␀", "U+202E", "<", "&"]
    boxes = "e => [e.scrollWidth - e.clientWidth, getComputedStyle(e).unicodeBidi]"
    assert desk.tab.locator(".answers .text").first.evaluate(boxes) == [0, "isolate"]


def test_a_tokens_call_is_read_without_its_colour(desk: Opened) -> None:
    numbers = "all => all.map(e => getComputedStyle(e, '::before').content)"
    assert desk.tab.locator(".answers figure:first-child .first").evaluate_all(numbers) == [
        f'"{call}"' for call in (4, 1, 2, 3, 6, 5, 3, 7)
    ]
    corners = desk.tab.locator(".board >> nth=0 >> small").all_inner_texts()
    assert corners == [str(call) for call in range(1, 17)]
    tints = desk.tab.locator(".board >> nth=0 >> .cell").evaluate_all(
        "all => all.map(e => getComputedStyle(e).backgroundColor)"
    )
    assert len(set(tints)) == 16


def test_axe_finds_no_serious_violation_in_light_and_in_dark(opened: Callable[..., Opened]) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed (the dev extra)")
    found = opened(color_scheme="light", reduced_motion="reduce", bypass_csp=True)
    found.tab.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    bad = []
    for scheme, rules in (("light", {}), ("dark", {"runOnly": ["color-contrast"]})):  # the other rules know no colour
        found.tab.emulate_media(color_scheme=scheme)
        results = axe.Axe().run(found.tab, options={"resultTypes": ["violations"], **rules}).response
        assert len(results["passes"]) >= 1
        for rule in results["violations"]:
            if rule["impact"] in ("serious", "critical"):
                bad.append((scheme, rule["id"], rule["nodes"][0]["html"]))
    assert bad == []
    found.tab.close()


@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_is_cut_off_or_sticks_out(opened: Callable[..., Opened], width: int) -> None:
    found = opened(width, reduced_motion="reduce")
    found.tab.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    assert found.tab.evaluate("document.documentElement.scrollWidth") == width
    assert found.text("h1").split()[:3] == ["DiFFPO", "solves", "72"]
    cells = found.tab.locator(".tables td:visible")
    assert any("[" in cell and "]" in cell for cell in cells.all_inner_texts())
    right = "all => Math.max(...all.map(e => e.getBoundingClientRect().right))"
    for selector in (".tables td", ".pair", "svg text", ".answers .text"):
        assert found.tab.locator(f"{selector}:visible").evaluate_all(right) <= width, selector
    clipped = """all => all.filter(e => {
        const [text, picture] = [e, e.ownerSVGElement].map(part => part.getBoundingClientRect());
        return text.left < picture.left - 1 || text.right > picture.right + 1;
    }).map(e => e.textContent)"""
    assert found.tab.locator("svg text:visible").evaluate_all(clipped) == []
    assert found.tab.locator("svg text:visible").first.evaluate("e => getComputedStyle(e).fontSize") == "12px"
    found.tab.close()


def test_a_special_token_has_room_within_its_border_and_before_it(opened: Callable[..., Opened]) -> None:
    style = (
        opened()
        .tab.locator(".text .special")
        .first.evaluate(
            "e => [getComputedStyle(e).paddingLeft, getComputedStyle(e).paddingRight, getComputedStyle(e).marginLeft]"
        )
    )
    assert all(float(width.removesuffix("px")) >= 3 for width in style)
