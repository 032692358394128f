"""The page in a browser: tokens appear, two models stand side by side, nothing hostile is run, axe finds nothing."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from tests.serve.conftest import Served

from diffpo.serve.page import page as page_file

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
EXPLAINED = ("first", "last")
"""Tokens in the page's own words above the form."""
LONG_NAMES = """() => {
  const before = models, folder = "/srv/a-folder-with-a-long-name/runs";
  models = [{ id: `${folder}/base` }, { id: `${folder}/rl/checkpoint-100` }];
  const found = ["", ...models.map((model) => model.id)].map(shortName);
  models = [{ id: "/runs/base" }, { id: "/runs/rl" }];
  found.push(shortName("/runs/base"));
  models = before;
  return found;
}"""
"""What the menus call models, of which some have long names."""
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=document.title='owned'>\u202e\x07\n&amp;"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


class Watched:
    """A page, and what should not happen on it."""

    def __init__(self, browser: Any, served: Served, width: int, scheme: str) -> None:
        self.errors: list[str] = []
        self.hosts: set[str] = set()
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = context.new_page()
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))
        self.page.goto(served.url)
        self.page.locator("#model-0 option").nth(1).wait_for(state="attached")

    def texts(self, selector: str) -> list[str]:
        return [str(text) for text in self.page.locator(selector).all_inner_texts()]


def assert_accessible(page: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    found = axe.Axe().run(page).response["violations"]
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []


@needs_browser
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), pytest.param(1440, "light", marks=pytest.mark.slow)])
def test_two_models_side_by_side(browser: Any, served: Served, width: int, scheme: str) -> None:
    watched = Watched(browser, served, width, scheme)
    page = watched.page
    assert page.get_by_label("Beside it").input_value() == "chat", "two are shown where two are served"
    assert page.locator("#bound-shown").inner_text() == "0: one a call", "there is something to watch"
    assert page.locator("#price:disabled").count() == 1
    assert page.locator("#price-note").inner_text() == (
        "tiny: has no learned sampler that takes a price; chat: has no learned sampler that takes a price"
    )
    page.get_by_label("Beside it").select_option("learned")
    assert page.get_by_label("Beside it").get_attribute("title") == "learned"
    assert page.evaluate(LONG_NAMES) == ["none", "\u2026/base", "\u2026/rl/checkpoint-100", "/runs/base"]
    assert page.locator("#price:disabled").count() == 0
    page.get_by_label("Tokens", exact=True).fill("16")
    assert page.locator("#tokens-note").inner_text() == (
        "tiny: writes 12 tokens as a rule, and asked for more its text may be empty or broken"
    )
    page.get_by_label("Milliseconds a call").fill("0")
    page.get_by_label("Prompt").fill("1234")
    page.keyboard.press("Control+Enter")
    page.locator(".status", has_text="entropy bound").nth(1).wait_for()
    assert watched.texts(".panel h2") == ["tiny", "learned"]
    for name, panel in zip(("tiny", "learned"), page.locator(".panel").all(), strict=True):
        asked = served.client.completions.create(
            model=name, prompt="1234", max_tokens=16, seed=0, extra_body={"entropy_bound": 0.0}
        )
        assert panel.locator(".text").inner_text() == asked.choices[0].text
        assert asked.usage is not None
        nfe = asked.usage.model_dump()["nfe"]
        assert panel.locator(".status").inner_text().startswith(f"{nfe} denoiser calls, ")
        assert panel.locator(".token").count() == 16 and panel.locator(".token.masked").count() == 0

        scrub = panel.get_by_role("slider")
        scrub.focus()
        page.keyboard.press("Home")
        assert panel.locator(".token.masked").count() == 16, "at call 0 all is masked"
        page.keyboard.press("ArrowRight")
        assert panel.locator(".token.masked").count() == 15 and panel.locator(".token.now").count() == 1
        page.keyboard.press("End")
        assert panel.locator(".scrub output").inner_text() == f"{nfe} of {nfe}"

    page.get_by_label("Tokens", exact=True).fill("1")
    page.keyboard.press("Enter")
    page.locator(".status", has_text="1 denoiser call, 1 token, 1.00 a call;").nth(1).wait_for()
    page.get_by_label("let the model choose").check()
    page.get_by_role("button", name="Generate").click()
    page.locator(".status", has_text="chosen by the model").wait_for()
    page.get_by_label("price of a call").first.check()
    page.get_by_role("button", name="Generate").click()
    page.locator(".status", has_text="chosen for price 1").wait_for()
    assert watched.texts(".status")[0] == (
        "has no learned sampler that takes a price: set the entropy bound, or let the model choose"
    )
    kinds = "[{ has_prices: true }, { has_controller: true }, {}]"
    notes = page.evaluate(f"{kinds}.map((model) => [ownChoice(model), withoutPrices(model)])")
    assert notes[0][0] == "its sampler asks for a price of a call, and keeps one token a call without one"
    assert notes[1] == ["its controller", "its controller was trained without prices"]
    assert notes[2][0] == "has no controller, one token a call"
    assert_accessible(page)
    assert page.evaluate("document.documentElement.scrollWidth") == width, "nothing sticks out"
    assert watched.errors == [] and watched.hosts == {f"127.0.0.1:{served.port}"}


@needs_browser
def test_hostile_text_shows_as_text(browser: Any, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = served.models["chat"].policy.tokenizer
    monkeypatch.setattr(tokenizer, "decode", lambda ids, **_: HOSTILE)
    watched = Watched(browser, served, 1440, "dark")
    page = watched.page
    page.get_by_label("Model", exact=True).select_option("chat")
    page.get_by_label("Beside it").select_option("")
    page.get_by_label("Tokens", exact=True).fill("2")
    page.get_by_label("Prompt").fill("<b>")
    page.get_by_role("button", name="Generate").click()
    page.locator(".status", has_text="denoiser calls").wait_for()
    shown = "<script>document.title='owned'</script><img src=x onerror=document.title='owned'>⟨U+202E⟩␇"
    assert watched.texts(".token:not(.masked)")[2] == f"{shown}↵&amp;"
    assert watched.texts(".text") == [f"{shown}\n&amp;"]
    assert page.title() == "diffpo serve" and page.locator("img").count() == 0
    monkeypatch.setattr(tokenizer, "decode", lambda ids, **_: "")
    page.get_by_role("button", name="Generate").click()
    page.locator(".status", has_text="the text is empty: its first token ends it").wait_for()
    assert watched.errors == []


@needs_browser
def test_what_the_server_refuses_is_told_on_the_page(browser: Any, served: Served) -> None:
    watched = Watched(browser, served, 390, "light")
    page = watched.page
    page.get_by_label("Beside it").select_option("")
    page.get_by_label("Prompt").fill("A B")
    page.get_by_label("Prompt").press("End")
    page.keyboard.press("Shift+Enter")
    assert page.locator(".panel").count() == 0, "that is a line break"
    page.keyboard.press("Enter")
    page.locator(".status.wrong", has_text="knows only the characters").wait_for()
    assert watched.texts(".status") == [
        "this model's tokenizer knows only the characters of its training data, and the text has others: line break, "
        "space, 'A', 'B'; remove them"
    ]
    page.get_by_label("Prompt").fill("1")
    page.get_by_label("Tokens", exact=True).fill("100")
    page.get_by_role("button", name="Generate").click()
    page.locator(".status.wrong", has_text="a completion of 100 tokens leaves none").wait_for()
    assert watched.texts(".status")[0].endswith("lower Tokens")
    page.get_by_label("Tokens", exact=True).fill("999999")
    page.get_by_role("button", name="Generate").click()
    page.locator(".status.wrong", has_text="a completion of 999999 tokens leaves none").wait_for(timeout=5_000)
    assert page.locator(".token").count() == len(EXPLAINED), "what is refused is not drawn"
    shown = page.evaluate(
        "() => { const panel = new Panel(models[0]); panel.resize(100_000); return panel.tokens.length; }"
    )
    assert shown == 4096 == page.locator(".panel").last.locator(".token").count()
    assert watched.texts(".canvas + p")[-1] == "the first 4096 of 100000 tokens are shown; the text below has all"
    page.get_by_label("Tokens", exact=True).fill("")
    page.locator("#stop:disabled").wait_for()
    page.get_by_label("Model", exact=True).select_option("gated")
    page.get_by_role("button", name="Generate").click()
    served.wait_for_load("gated", 1, 0)
    page.get_by_role("button", name="Stop").click()
    page.locator(".status", has_text="stopped after 0 calls").wait_for()
    served.wait_for_load("gated", 0, 0)
    served.gated.permits.release()


def test_the_page_is_one_file_that_runs_its_own_script_alone() -> None:
    html, headers = page_file()
    assert "http://" not in html and "https://" not in html and "//" not in html.split("<script>")[0]
    assert len(html) < 40_000
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'" and policy["connect-src"] == "'self'"
    assert policy["script-src"].startswith("'sha256-") and policy["style-src"].startswith("'sha256-")
