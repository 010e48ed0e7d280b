"""The pages of `dream report` in a real browser: nothing missing, nothing fetched, legible in light, dark and
print."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from experiments.report import render
from tests.experiments.support import SMALL, forked

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
QUIET = (
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
LAPTOP = {"width": 1366, "height": 768}
BODY_TEXT = 4.5  # least contrast of body text, WCAG 2.2, 1.4.3


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The reports of a comparison and of one of its runs."""
    folder = tmp_path_factory.mktemp("report")
    command = [
        "compare",
        "-c",
        "forecasting",
        *SMALL,
        "--models",
        "dream",
        "lstm",
        "--seeds=2",
        "--run.wandb=disabled",
    ]
    done = forked(*command, "--trainer.log_every_n_steps=1", "--trainer.limit_train_batches=6", folder=folder)
    assert done.returncode == 0, done.stderr
    comparison = folder / "runs" / "compare-forecasting"
    found = {}
    for name, path in (("comparison", comparison), ("run", comparison / "dream-seed0")):
        found[name] = folder / f"{name}.html"
        found[name].write_text(render(path))
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *QUIET])
        yield browser
        browser.close()


class Visit:
    """A page as it was opened, and all that went wrong."""

    def __init__(self, browser: Browser, path: Path, **how: Any) -> None:
        self.page: Page = browser.new_page(viewport=LAPTOP, **how)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("requestfailed", lambda request: self.said.append(f"failed: {request.url[:80]}"))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_load_state("networkidle")

    def of(self, selector: str, script: str) -> list[Any]:
        """What `script`, a function of an element, gives for every one that `selector` finds."""
        return self.page.eval_on_selector_all(selector, f"found => found.map({script})")  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["run", "comparison"])
def test_nothing_is_missing_and_nothing_is_fetched(
    browser: Browser, pages: dict[str, Path], name: str
) -> None:
    visit = Visit(browser, pages[name])
    assert visit.said == []
    assert {url for url in visit.asked if not url.startswith("data:")} == {pages[name].as_uri()}
    widths = visit.of("img", "image => image.naturalWidth")
    assert len(widths) == (2 if name == "run" else 3)  # its own, and those of its first run
    assert min(widths) > 100
    assert all(visit.of("img", "image => image.alt.length > 20"))
    boxes = visit.of(
        ".chart svg", "chart => { const box = chart.getBoundingClientRect(); return [box.width, box.height] }"
    )
    assert len(boxes) == 9
    assert all(width > 300 and height > 150 for width, height in boxes)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= LAPTOP["width"]
    outside = "e => { const b = e.getBoundingClientRect(); return b.left < 0 || b.right > innerWidth }"
    assert not any(visit.of("h1, h2, h3, p, dd, figure, .wide, pre", outside))
    texts = visit.of(".chart svg text", "text => text.getBoundingClientRect().height")
    assert min(texts) > 9


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(...)`, as WCAG defines it."""
    parts = [float(part) / 255 for part in re.findall(r"[\d.]+", colour)[:3]]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("name", ["run", "comparison"])
def test_light_dark_and_print_are_legible(browser: Browser, pages: dict[str, Path], name: str) -> None:
    paper = {}
    for scheme, media in (("light", "screen"), ("dark", "screen"), ("dark", "print")):
        visit = Visit(browser, pages[name], color_scheme=scheme)
        visit.page.emulate_media(media=media, color_scheme=scheme)
        background = paper[scheme, media] = visit.of(
            "body", "body => getComputedStyle(body).backgroundColor"
        )[0]
        for selector, kind in (
            ("body, p, dd, td, figcaption, caption", "color"),
            (".chart svg text", "fill"),
        ):
            colours = set(visit.of(selector, f"e => getComputedStyle(e).{kind}"))
            assert colours
            assert min(contrast(colour, background) for colour in colours) >= BODY_TEXT, (
                scheme,
                media,
                selector,
            )
        strokes = {
            colour
            for colour in visit.of(".chart svg path", "e => getComputedStyle(e).stroke")
            if colour != "none"
        }
        lines = sorted(contrast(colour, background) for colour in strokes)
        assert lines[-1] >= 3  # lines, WCAG 1.4.11; the frame is fainter
        assert sum(value >= 3 for value in lines) >= len(lines) - 1
    assert luminance(paper["light", "screen"]) > 0.9 > 0.1 > luminance(paper["dark", "screen"])
    assert paper["dark", "print"] == paper["light", "screen"]


def test_settings_are_folded_on_the_screen_and_open_on_paper(
    browser: Browser, pages: dict[str, Path]
) -> None:
    page = Visit(browser, pages["run"]).page
    settings = "document.querySelector('details pre')"
    shown = f"{settings}.checkVisibility({{contentVisibilityAuto: true}}) && {settings}.offsetHeight > 500"
    assert page.evaluate(shown) is False
    # A page is laid out anew some frames after its medium changed.
    page.emulate_media(media="print")
    page.wait_for_function(shown)
    page.emulate_media(media="screen")
    page.wait_for_function(f"!({shown})")
    page.click("summary")
    page.wait_for_function(shown)
    assert len(page.pdf(format="A4")) > 50_000
