"""The page in a browser: quiet, complete, in both themes, on a phone."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine to open the report in")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def complaints() -> list[str]:
    """Messages on the console, errors, and requests for anything but the page itself."""
    return []


@pytest.fixture
def page(browser: Browser, complaints: list[str]) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1180, "height": 900}, color_scheme="light")
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message) or dialog.dismiss())
    page.on("request", lambda request: complaints.append(request.url) if not request.url.startswith("file:") else None)
    yield page
    page.close()


def background(page: Page) -> str:
    return page.evaluate("getComputedStyle(document.documentElement).backgroundColor")


def test_full_page_is_quiet_and_loads_nothing(page: Page, complaints: list[str], full_page: Path) -> None:
    page.goto(full_page.as_uri())
    page.locator(".text .t").first.hover()
    page.locator(".strip").first.hover()
    assert complaints == []


def test_a_script_that_slipped_in_would_not_run(page: Page, full_page: Path) -> None:
    page.goto(full_page.as_uri())
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.in = 1'}))"
    )
    assert page.evaluate("window.in") is None


def test_drawings_are_there_and_have_a_size(page: Page, full_page: Path) -> None:
    page.goto(full_page.as_uri())
    sizes = [drawing.bounding_box() for drawing in page.locator(".strip .wide svg").all()]
    assert len(sizes) == 2
    assert all(size is not None and size["width"] > 800 and size["height"] > 400 for size in sizes)


def test_theme_follows_the_system_and_the_button(page: Page, full_page: Path) -> None:
    page.goto(full_page.as_uri())
    light = background(page)
    page.get_by_role("button", name="Light or dark").click()
    dark = background(page)
    page.get_by_role("button", name="Light or dark").click()
    assert dark != light
    assert background(page) == light
    page.emulate_media(color_scheme="dark")
    page.reload()
    assert background(page) == dark


def test_pointer_on_a_drawing_shows_the_step(page: Page, full_page: Path) -> None:
    page.goto(full_page.as_uri())
    page.locator(".strip").first.hover()
    tip = page.locator("#tip")
    assert tip.is_visible()
    assert tip.inner_text().startswith("Step 4")  # the middle of 900, less the labels at the left
    assert "Last validation loss" in tip.inner_text()


def test_pointer_on_a_token_shows_its_probability(page: Page, full_page: Path) -> None:
    page.goto(full_page.as_uri())
    page.locator(".text .t4").last.hover()
    assert page.locator("#tip").inner_text() == "probability 0.4\u202f%"


@pytest.mark.parametrize("name", ["full_page", "interrupted_page", "tiny_page"])
def test_nothing_runs_over_the_edge_of_a_phone(page: Page, request: pytest.FixtureRequest, name: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(request.getfixturevalue(name).as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.locator(".strip .narrow svg").first.is_visible()
    assert not page.locator(".strip .wide svg").first.is_visible()
