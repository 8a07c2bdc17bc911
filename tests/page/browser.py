"""A real browser with the page, as a user has it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tests.waiting import PATIENCE_S

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

__all__ = ["PAGE", "Tab", "launched", "missing", "tools_missing"]

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "web" / "page"
PATIENCE_MS = 1000 * PATIENCE_S
_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@cache
def missing() -> str:
    """Returns what keeps the page from being tested in a browser; empty if nothing does."""
    if not (ROOT / "ptn_api" / "page" / "index.html").is_file():
        return "the page is not built; run: make page"
    if find_spec("playwright") is None:
        return "playwright is not installed; run: make setup"
    return "" if _CHROMIUM else "Chromium is not installed (apt-get install chromium)"


@cache
def tools_missing() -> str:
    """Returns what keeps the page from being built; empty if nothing does."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "Node.js 20.19 or newer is not installed"
    return "" if (PAGE / "node_modules").is_dir() else "the page's packages are not installed; run: make page"


@contextmanager
def launched() -> Iterator[Browser]:
    """Starts Chromium with an empty profile; it connects to nothing by itself."""
    from playwright.sync_api import sync_playwright

    environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=[*_OPTIONS], env=environment)
        try:
            yield browser
        finally:
            browser.close()


class Tab:
    """A tab with the page, and what went wrong in it."""

    def __init__(self, browser: Browser, address: str, *, width: int = 1400, scheme: str = "dark") -> None:
        self.address = address
        self.errors: list[str] = []
        self.requested: list[str] = []
        self._context = browser.new_context(
            viewport={"width": width, "height": 800},
            color_scheme=scheme,  # type: ignore[arg-type]
            ignore_https_errors=True,  # certificates of the tests are not in the system's store
        )
        self._context.set_default_timeout(PATIENCE_MS)
        self.page: Page = self._context.new_page()
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.goto(address)

    def _note(self, message: ConsoleMessage) -> None:
        text = f"{message.text} {message.location['url']}"
        # A 503 is how /health tells that something is wrong.
        if message.type == "error" and not re.search(r"status of 503.*/health$", text):
            self.errors.append(text)

    def sign_in(self, key: str) -> None:
        self.page.get_by_label("API key").fill(key)
        self.page.get_by_role("button", name="Open").click()
        self.page.get_by_role("navigation", name="Views").wait_for()

    def show(self, fragment: str, heading: str) -> None:
        """Opens a view by its address."""
        self.page.evaluate("fragment => { location.hash = fragment }", fragment)
        self.page.get_by_role("heading", name=heading, exact=True).first.wait_for()

    def text(self, selector: str) -> str:
        return self.page.locator(selector).first.inner_text()

    def wait_for_text(self, selector: str, pattern: str) -> None:
        self.page.locator(selector).filter(has_text=re.compile(pattern)).first.wait_for()

    def close(self, *expected: str) -> None:
        """Closes the tab. An error in it that does not match is a failure, and so is a foreign request."""
        errors = [error for error in self.errors if not any(re.search(e, error) for e in expected)]
        self._context.close()
        assert errors == [], errors
        assert [url for url in self.requested if not url.startswith((self.address, "data:"))] == []
