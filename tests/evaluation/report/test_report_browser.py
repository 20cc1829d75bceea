"""`report.html` opened from disk in a browser: wide and on a phone, light and dark."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from headless import headless_chromium
from report_helpers import content_encoder, write_example

pytestmark = pytest.mark.slow

DARK_PAGE, LIGHT_PAGE = "rgb(20, 23, 26)", "rgb(255, 255, 255)"
SUBSET = "details.subset:nth-of-type(2)"  # pictures
MISS = f"document.querySelector('{SUBSET} details.miss')"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_example(tmp_path_factory.mktemp("report"), content_encoder(), model_name="a/model")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with headless_chromium() as made:
        yield made


def show(browser: Any, page: Path, width: int, scheme: str = "light") -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(page.as_uri())


def ask(browser: Any, script: str) -> Any:
    return browser.execute_script(f"return {script}")


def open_first_miss(browser: Any) -> None:
    for part in (SUBSET, f"{SUBSET} details.miss"):
        browser.find_element("css selector", f"{part} > summary").click()


@pytest.mark.parametrize("width", [375, 768, 1280])
def test_nothing_is_wider_than_the_window(browser: Any, page: Path, width: int) -> None:
    show(browser, page, width)
    browser.execute_script("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    assert ask(browser, "innerWidth") == width
    assert ask(browser, "document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    # what sticks out of the window without scrolling it: text cut off at the edge
    outside = "[...document.querySelectorAll('main *')].filter((e) => !e.closest('.scroll, svg') && "
    outside += "e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 80))"
    assert ask(browser, outside) == []


def test_a_miss_opens_and_shows_five_pictures(browser: Any, page: Path) -> None:
    show(browser, page, 1280)
    assert not ask(browser, f"{MISS}.open")
    open_first_miss(browser)
    assert ask(browser, f"{MISS}.open")
    browser.execute_script(f"{MISS}.scrollIntoView()")
    pictures = f"[...{MISS}.querySelectorAll('ol.top img')]"
    browser.execute_async_script(f"Promise.all({pictures}.map((p) => p.decode())).then(arguments[0])")
    widths = ask(browser, f"{pictures}.map((picture) => picture.complete && picture.naturalWidth)")
    assert widths == [160] * 5
    assert ask(browser, f"{pictures}.every((picture) => picture.getBoundingClientRect().width > 100)")
    assert "weight" in ask(browser, f"{MISS}.innerText") and "cosine" in ask(browser, f"{MISS}.innerText")


def test_the_page_asks_for_nothing_and_runs_nothing_but_its_own_script(browser: Any, page: Path) -> None:
    browser.get_log("browser"), browser.get_log("performance")
    show(browser, page, 1280)
    open_first_miss(browser)
    assert browser.title == "a/model on small"  # texts of the data try to change it
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith("data:image/jpeg")} == {page.as_uri()}
    browser.execute_script(
        "const added = document.createElement('script'); added.textContent = 'document.title = \"taken\"';"
        "document.body.append(added)"
    )
    assert browser.title == "a/model on small"


def test_misses_are_found_by_their_words(browser: Any, page: Path) -> None:
    show(browser, page, 1280)
    shown = "[...document.querySelectorAll('details.miss')].filter((miss) => miss.offsetParent !== null).length"
    box = browser.find_element("css selector", ".tools input")
    box.send_keys("PNEUMONO")
    assert ask(browser, shown) == 1
    assert "1 of" in ask(browser, "document.querySelector('.tools output').textContent")
    browser.find_element("css selector", ".tools button").click()
    assert ask(browser, "document.querySelectorAll('details[open]').length") == 0


@pytest.mark.parametrize(("scheme", "colour"), [("light", LIGHT_PAGE), ("dark", DARK_PAGE)])
def test_colours_follow_the_system_and_texts_can_be_read(browser: Any, page: Path, scheme: str, colour: str) -> None:
    show(browser, page, 1280, scheme)
    assert ask(browser, "getComputedStyle(document.body).backgroundColor") == colour
    for selector in ("h1", "p", ".note", "thead th", "figcaption", "nav a", "td.number", "summary", "dl.numbers dt"):
        assert contrast(browser, selector) >= 4.5, selector


def contrast(browser: Any, selector: str) -> float:
    """WCAG's contrast of an element's text and the nearest background that is painted."""
    colours = browser.execute_script(
        "let e = document.querySelector(arguments[0]); const ink = getComputedStyle(e).color; let paper;"
        "do { paper = getComputedStyle(e).backgroundColor; e = e.parentElement; } "
        "while (paper === 'rgba(0, 0, 0, 0)'); return [ink, paper]",
        selector,
    )
    light, dark = sorted(map(luminance, colours), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
