"""The page of the service in a real browser, driven with keys and clicks."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import BROWSER
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

PATIENCE_MS = 30_000
"""What a busy machine may take; nothing waits longer than it must."""
EXPECTED = ("Failed to load resource", "net::ERR_")
"""What a browser writes to its console of a server that is away, or refuses a call."""
BLOCKED = "violates the following Content Security Policy"


@contextmanager
def open_browser() -> Iterator[Browser]:
    """A browser without a window."""
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu"]
        made = playwright.chromium.launch(executable_path=BROWSER, args=flags)
        yield made
        made.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all tests of a module: it takes a second to start."""
    with open_browser() as made:
        yield made


@dataclass
class WebPage:
    """A tab with the page of a server, and what went wrong in it."""

    page: Page
    problems: list[str] = field(default_factory=list)
    """Errors of scripts, what the security policy blocked, and requests to other origins."""

    def go(self, address: str) -> None:
        """Show what lies behind a "#" of the page."""
        self.page.evaluate("(to) => { location.hash = to }", address)

    def press(self, *keys: str) -> None:
        """One key after the other."""
        for key in keys:
            self.page.keyboard.press(key)

    def shown_item(self) -> str:
        """The number of the item whose crop is painted; waits for one."""
        return str(self.page.locator("canvas.crop:not([data-item=''])").get_attribute("data-item"))

    def say(self, *keys: str) -> None:
        """Keys about the box that is asked about, once its crop is painted: before, they say
        nothing."""
        self.shown_item()
        self.press(*keys)

    def wait_sent(self) -> None:
        """Until the server has confirmed everything that was said."""
        self.page.locator("[data-waiting='0']").wait_for(state="attached")

    def violations(self) -> list[str]:
        """What axe finds wrong with what is shown, in words."""
        found: Any = Axe().run(self.page).response["violations"]
        return [f"{one['id']}: {one['nodes'][0]['html']:.200}" for one in found]


@contextmanager
def open_page(
    browser: Browser, origin: str, person: str = "ada", dark: bool = False
) -> Iterator[WebPage]:
    """The page at ``origin``, in a profile of its own; ``person`` has said their name before."""
    scheme: Any = "dark" if dark else "light"
    context = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme=scheme)
    context.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    tab = WebPage(context.new_page())

    def heard(message: ConsoleMessage) -> None:
        ours = message.type == "error" and not any(one in message.text for one in EXPECTED)
        if ours or BLOCKED in message.text:
            tab.problems.append(message.text)

    tab.page.on("console", heard)
    tab.page.on("pageerror", lambda error: tab.problems.append(str(error)))
    tab.page.on(
        "request",
        lambda request: (
            tab.problems.append(request.url)
            if not request.url.startswith((f"{origin}/", f"blob:{origin}/"))
            else None
        ),
    )
    if person:
        context.add_init_script(f"localStorage.setItem('secondlook.person', '{person}')")
    tab.page.goto(origin)
    yield tab
    context.close()
