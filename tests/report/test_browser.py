"""The page in a browser, straight from the disk: nothing is served to it and nothing may be asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.report.sample import sample, thumbnails
from tests.report.test_page import hostile

from surplus.report import write_report

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytest.importorskip("jinja2")
pytest.importorskip("vl_convert")
pytestmark = pytest.mark.browser
DRAWN = "return document.documentElement.dataset.charts === 'drawn'"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(sample(), tmp_path_factory.mktemp("audit"), thumbnails(sample()))


@pytest.fixture
def chrome(browser: Chrome) -> Iterator[Chrome]:
    """The shared browser, with what a test emulates taken back."""
    browser.get_log("browser"), browser.get_log("performance")
    yield browser
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def visit(chrome: Chrome, path: Path) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    chrome.get(path.as_uri())
    WebDriverWait(chrome, 60).until(lambda c: c.execute_script(DRAWN))


def prefer(chrome: Chrome, scheme: str, media: str = "") -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": [feature]})


def narrow(chrome: Chrome, width: int) -> None:
    size = {"width": width, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def requests(chrome: Chrome) -> list[str]:
    messages = [json.loads(entry["message"])["message"] for entry in chrome.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def style(chrome: Chrome, selector: str, name: str) -> Any:
    script = "return getComputedStyle(document.querySelector(arguments[0])).getPropertyValue(arguments[1])"
    return chrome.execute_script(script, selector, name)


def luminance(colour: str) -> float:
    """Relative luminance of rgb(r, g, b), as WCAG defines it."""
    channels = [int(c) / 255 for c in colour[colour.index("(") + 1 : colour.index(")")].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_every_chart_is_drawn_and_the_console_is_silent(chrome, path):
    visit(chrome, path)
    drawn = chrome.execute_script(
        "return [...document.querySelectorAll('.chart')].map(c => c.querySelectorAll('svg path').length)"
    )
    assert len(drawn) == 10
    assert min(drawn) > 3
    assert chrome.get_log("browser") == []


def test_no_request_leaves_the_page(chrome, path):
    visit(chrome, path)
    asked = requests(chrome)
    assert path.as_uri() in asked
    assert [url for url in asked if url != path.as_uri() and not url.startswith("data:")] == []


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_needs_scrolling_sideways(chrome, path, width):
    narrow(chrome, width)
    visit(chrome, path)
    for details in chrome.find_elements("tag name", "details"):
        chrome.execute_script("arguments[0].open = true", details)
    assert chrome.execute_script("return document.documentElement.scrollWidth") == width
    widest = (
        "return Math.max(...[...document.querySelectorAll('.chart svg')].map(s => s.getBoundingClientRect().right))"
    )
    assert chrome.execute_script(widest) <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_curves_stand_out_in_light_and_dark(chrome, path, scheme):
    prefer(chrome, scheme)
    visit(chrome, path)
    page = style(chrome, "body", "background-color")
    assert (luminance(page) > 0.9) == (scheme == "light")
    for selector in ("body", ".note", ".question", "figcaption", "nav a", "summary", "thead th", ".badge"):
        assert contrast(style(chrome, selector, "color"), page) >= 4.5, selector
    fill = chrome.execute_script(
        "return [...document.querySelectorAll('.chart .role-axis-label text')].map(t => getComputedStyle(t).fill)"
    )
    assert min(contrast(colour, page) for colour in fill) >= 4.5
    strokes = "return [...document.querySelectorAll('.chart .mark-line path')].map(p => getComputedStyle(p).stroke)"
    assert min(contrast(colour, page) for colour in chrome.execute_script(strokes)) >= 3


def test_paper_is_white_even_where_the_screen_is_dark(chrome, path):
    prefer(chrome, "dark", media="print")
    visit(chrome, path)
    assert style(chrome, "body", "background-color") == "rgb(255, 255, 255)"
    assert style(chrome, "nav", "display") == "none"


def test_the_keyboard_reaches_the_skip_link_the_sections_and_the_tables(chrome, path):
    from selenium.webdriver.common.keys import Keys

    visit(chrome, path)
    chrome.execute_script("document.activeElement.blur()")
    seen = []
    for _ in range(20):
        chrome.switch_to.active_element.send_keys(Keys.TAB)
        seen.append(chrome.switch_to.active_element.get_attribute("outerHTML")[:60])
    assert 'class="skip"' in seen[0]
    assert sum('href="#' in html for html in seen[1:7]) == 6
    summary = chrome.find_element("css selector", "figure details summary")
    summary.send_keys(Keys.ENTER)
    assert chrome.find_element("css selector", "figure details").get_attribute("open") is not None


def test_names_that_try_to_break_out_do_not(chrome, tmp_path):
    path = write_report(hostile(), tmp_path)
    visit(chrome, path)
    assert chrome.title == "Audit of <script>document.title='owned'</script>"
    assert chrome.execute_script("return document.scripts.length") == 3
    labels = "return document.querySelector('#chart-correlation').textContent"
    assert "</script><s" in chrome.execute_script(labels)
    assert chrome.get_log("browser") == []


def test_a_script_that_got_in_would_not_run(chrome, path, tmp_path):
    broken = tmp_path / "broken.html"
    injected = "<main><img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    broken.write_text(path.read_text(encoding="utf-8").replace("<main", injected, 1), encoding="utf-8")
    visit(chrome, broken)
    assert chrome.title == "Audit of digits"
    assert all("Content Security Policy" in entry["message"] for entry in chrome.get_log("browser"))
