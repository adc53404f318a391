"""A browser on a fake server, and everything that the browser complained about."""

import shutil
from collections.abc import Iterator

import pytest
from fake_chat_server import FakeServer, running
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium")
WAIT = 10_000  # ms; a machine with much else to do


@pytest.fixture(scope="module")  # while Playwright is open its event loop runs, which other modules would meet
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine to open the page in")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    expect.set_options(timeout=WAIT)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def running_server() -> Iterator[FakeServer]:
    with running(FakeServer()) as server:
        yield server


@pytest.fixture
def server(running_server: FakeServer) -> FakeServer:
    running_server.reset()
    return running_server


@pytest.fixture
def complaints() -> list[str]:
    """Errors, warnings, violations of the policy, dialogs, and requests for anything but the server."""
    return []


@pytest.fixture
def context(browser: Browser, server: FakeServer) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1440, "height": 900}, color_scheme="light")
    context.set_default_timeout(WAIT)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, server: FakeServer, complaints: list[str]) -> Page:
    page = context.new_page()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message) or dialog.dismiss())
    page.on("request", lambda request: None if ours(request.url, server) else complaints.append(request.url))
    page.goto(server.url)
    page.locator(".greeting").wait_for()
    return page


def ours(url: str, server: FakeServer) -> bool:
    return url.startswith((server.url, "data:", "blob:"))
