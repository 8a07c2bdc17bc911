"""A browser and a demo server, shared by the tests of the page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.live import Live, serving
from tests.page.browser import launched, missing

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Ends with the module: Playwright keeps an event loop running, in which no other test can start one."""
    if missing():
        pytest.skip(missing())
    with launched() as running:
        yield running


@pytest.fixture(scope="module")
def demo(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Five miners, and ten orders per second."""
    with serving(tmp_path_factory.mktemp("page")) as live:
        yield live
