"""The web page in a browser, with real servers."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ptn_api.access import add_key
from tests import factories
from tests.live import Live
from tests.page.browser import PAGE, Tab, tools_missing
from tests.ports import reserved_ports
from tests.system.api import Api, api
from tests.system.certificates import certificates
from tests.system.nginx import NGINX, nginx
from tests.system.validator import Validator
from tests.waiting import PATIENCE_S, until

if TYPE_CHECKING:
    from playwright.sync_api import Browser

VIEWS = {
    "#/miners": "Leaderboard",
    "#/orders": "Orders",
    "#/pairs": "Pairs",
    "#/eliminations": "Eliminations",
}
needs_node = pytest.mark.skipif(bool(tools_missing()), reason=tools_missing() or "-")
LOST = r"Failed to load resource: net::ERR_|net::ERR_"
"""What browsers log about a server that is away."""


class Served:
    """A server of a validator's directory with two miners, and a key of each tier."""

    def __init__(self, server: Api, validator: Validator, keys: dict[int, str]) -> None:
        self.server = server
        self.validator = validator
        self.keys = keys


@pytest.fixture
def served(browser: Browser, tmp_path: Path) -> Iterator[Served]:
    validator = Validator(tmp_path / "validator")
    validator.place()
    validator.place(miner=factories.OTHER_MINER)
    validator.document("validation/eliminations.json", {"eliminations": []})
    keys = {tier: add_key(tmp_path / "api_keys.json", f"user-{tier}", tier) for tier in (0, 30, 100)}  # type: ignore[arg-type]
    with api(tmp_path / "data", validator_dir=validator.root) as server:
        yield Served(server, validator, keys)


@needs_node
def test_the_types_and_the_pure_parts_are_sound() -> None:
    """Strictly typed, and its own tests pass."""
    for task in ("check", "test"):
        done = subprocess.run(
            ["npm", "run", "--silent", task], cwd=PAGE, capture_output=True, text=True, timeout=3 * PATIENCE_S
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_an_order_appears_without_a_reload(served: Served, browser: Browser) -> None:
    """On the tape, and in the miner's leverage and open positions on the leaderboard."""
    tab = Tab(browser, served.server.rest + "/")
    tab.sign_in(served.keys[100])
    tab.wait_for_text(".state", "Live")
    row = f"table[aria-label=Leaderboard] tr[data-key='{factories.MINER}']"
    tab.wait_for_text(row, r"\+0\.100")
    tab.page.evaluate("window.same = true")
    placed = factories.order(77, -0.4, at=time.time_ns() // 1_000_000, price=64_321.5)
    served.validator.write(factories.position(77, [placed], trade_pair=factories.EURUSD))
    tab.wait_for_text("table[aria-label='Newest orders'] tbody tr", r"EURUSD\s*SHORT\s*−0\.400\s*64,321\.5")
    tab.wait_for_text(row, "−0.300")
    until(lambda: tab.page.locator(row).locator("td").nth(7).inner_text() == "2")
    assert tab.page.evaluate("window.same")
    tab.show("#/orders", "Orders")
    find = tab.page.get_by_label("Find pair or miner")
    find.fill("eur")
    tab.wait_for_text("main tbody tr", "EURUSD")
    find.fill("btc")
    tab.wait_for_text("[role=status].count", "0 of 1")
    tab.close()


def test_a_young_log_fills_the_tape(served: Served, browser: Browser) -> None:
    """With the orders that it has, also if they are fewer than the tape begins with."""
    placed = factories.order(77, -0.4, at=time.time_ns() // 1_000_000, price=64_321.5)
    served.validator.write(factories.position(77, [placed], trade_pair=factories.EURUSD))
    for _ in range(2):  # live, and as an earlier order
        tab = Tab(browser, served.server.rest + "/")
        tab.sign_in(served.keys[100])
        tab.wait_for_text(
            "table[aria-label='Newest orders'] tbody tr", r"EURUSD\s*SHORT\s*−0\.400\s*64,321\.5"
        )
        tab.wait_for_text(".state", "Live")
        tab.close()


def test_a_killed_server_is_survived_and_shown(served: Served, browser: Browser) -> None:
    """The page says that it reconnects, keeps the last state, and misses no order."""
    tab = Tab(browser, served.server.rest + "/")
    tab.sign_in(served.keys[100])
    tab.wait_for_text(".state", "Live")
    tab.page.evaluate(
        """() => {
            window.words = [];
            const strip = document.querySelector('.strip');
            new MutationObserver(() => window.words.push(strip.querySelector('.state').textContent))
                .observe(strip, {subtree: true, childList: true, characterData: true});
        }"""
    )
    pid = served.server.kill("rest")
    until(lambda: "Reconnecting" in tab.page.evaluate("window.words"), what="the page tells about it")
    served.validator.write(
        factories.position(
            78, [factories.order(78, 0.7, at=time.time_ns() // 1_000_000)], trade_pair=factories.EURUSD
        )
    )
    served.server.wait_restarted("rest", pid)
    tab.wait_for_text(".state", "^Live")
    tab.wait_for_text("table[aria-label='Newest orders'] tbody tr", r"EURUSD\s*LONG\s*\+0\.700")
    until(lambda: tab.page.locator("table[aria-label=Leaderboard] tbody tr[data-key]").count() == 2)
    tab.close(LOST, r"status of 50\d")


def test_orders_of_a_new_log_are_shown(served: Served, browser: Browser, tmp_path: Path) -> None:
    """Its numbers begin again, below those of the orders on the tape."""

    def place(number: int) -> None:
        placed = factories.order(number, 0.7, at=time.time_ns() // 1_000_000)
        served.validator.write(factories.position(number, [placed], trade_pair=factories.EURUSD))

    def count() -> int:
        return tab.page.locator("table[aria-label='Newest orders'] tbody tr[data-key]").count()

    settings = {"validator_dir": served.validator.root, "keys": tmp_path / "api_keys.json"}
    with reserved_ports(1) as (port,):
        with api(tmp_path / "former", **settings, api_rest_port=port) as server:  # type: ignore[arg-type]
            tab = Tab(browser, server.rest + "/")
            tab.sign_in(served.keys[100])
            tab.wait_for_text(".state", "Live")
            for number in (71, 72, 73):
                place(number)
                until(lambda shown=number - 70: count() == shown, what="an order")  # type: ignore[misc]
        with api(tmp_path / "new", **settings, api_rest_port=port):  # type: ignore[arg-type]
            tab.wait_for_text("[role=alert]", "Some orders were missed")
            tab.wait_for_text(".state", "^Live")
            place(74)
            until(lambda: count() == 1, what="the order alone")
            tab.close(LOST, r"status of 50\d")


def test_a_leaderboard_that_cannot_be_loaded_is_not_live(served: Served, browser: Browser) -> None:
    """Although the server answers and orders arrive: returns may be old."""
    tab = Tab(browser, served.server.rest + "/")
    tab.sign_in(served.keys[100])
    tab.wait_for_text(".state", "^Live")
    tab.page.route("**/miners", lambda route: route.fulfill(status=500, json={"error": "internal error"}))
    tab.wait_for_text(".state", "Orders live")
    tab.wait_for_text(".why", "leaderboard cannot be loaded")
    tab.page.unroute("**/miners")
    tab.wait_for_text(".state", "^Live")
    tab.close(r"status of 500")


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_it_works_through_nginx(served: Served, browser: Browser, tmp_path: Path) -> None:
    """With the project's own configuration, over TLS: also the stream arrives without delay."""
    files = certificates(tmp_path / "tls")
    with nginx(tmp_path / "nginx", files, served.server.rest, served.server.stream) as (_, port):
        tab = Tab(browser, f"https://localhost:{port}/")
        tab.sign_in(served.keys[100])
        tab.wait_for_text(".state", "Live")
        placed = factories.order(79, 0.9, at=time.time_ns() // 1_000_000)
        served.validator.write(factories.position(79, [placed], trade_pair=factories.EURUSD))
        tab.wait_for_text("table[aria-label='Newest orders'] tbody tr", r"EURUSD\s*LONG\s*\+0\.900")
        tab.close()


def test_an_unknown_key_is_refused(served: Served, browser: Browser) -> None:
    """With a sentence; it is not kept, and the right one works afterwards."""
    tab = Tab(browser, served.server.rest + "/")
    tab.page.get_by_label("API key").fill("wrong-key-of-this-test")
    tab.page.keyboard.press("Enter")
    tab.wait_for_text("[role=alert]", "does not know this key")
    assert "wrong-key" not in tab.page.evaluate("JSON.stringify([{...sessionStorage}, {...localStorage}])")
    tab.sign_in(served.keys[100])
    tab.close(r"status of 401")


def test_the_key_stays_in_its_tab(served: Served, browser: Browser) -> None:
    """A reload keeps it; it is in no address and not in the storage of other tabs; signing out forgets it."""
    tab = Tab(browser, served.server.rest + "/")
    key = served.keys[100]
    tab.sign_in(key)
    tab.page.reload()
    tab.wait_for_text(".state", "Live")
    assert not [url for url in [*tab.requested, tab.page.url] if key in url]
    assert key not in tab.page.evaluate("JSON.stringify([{...localStorage}, document.cookie])")
    tab.page.get_by_role("button", name="Sign out").click()
    tab.page.get_by_label("API key").wait_for()
    assert key not in tab.page.evaluate("JSON.stringify({...sessionStorage})")
    tab.close()


def test_a_revoked_key_ends_the_session(served: Served, browser: Browser, tmp_path: Path) -> None:
    """The page asks for a key again, and says why."""
    tab = Tab(browser, served.server.rest + "/")
    tab.sign_in(served.keys[100])
    tab.wait_for_text(".state", "Live")
    file = tmp_path / "api_keys.json"
    content = json.loads(file.read_text())
    del content["user-100"]
    other = file.with_suffix(".new")
    other.write_text(json.dumps(content))
    other.replace(file)
    tab.wait_for_text("[role=alert]", "no longer valid")
    tab.close(r"status of 401")


@pytest.mark.parametrize(("tier", "exception"), [(0, ""), (30, "except 30 %")])
def test_below_tier_100_the_age_is_in_large_letters(
    served: Served, browser: Browser, tier: int, exception: str
) -> None:
    """The page requests nothing that such a key may not have."""
    tab = Tab(browser, served.server.rest + "/")
    tab.sign_in(served.keys[tier])
    tab.wait_for_text(".asof strong", "As of 24 h ago")
    assert exception in tab.text(".asof span")
    assert (
        tab.page.evaluate("parseFloat(getComputedStyle(document.querySelector('.asof strong')).fontSize)")
        > 20
    )
    for fragment, heading in VIEWS.items():
        tab.show(fragment, "Newest order of each miner" if fragment == "#/orders" else heading)
    assert not [url for url in tab.requested if "/stream" in url or "/messages" in url]
    tab.close()


def test_a_miner(demo: Live, browser: Browser) -> None:
    """By keyboard from the leaderboard to the miner and back; with charts, positions, orders, statistics."""
    tab = Tab(browser, demo.rest + "/")
    tab.sign_in(demo.key)
    rows = tab.page.locator("table[aria-label=Leaderboard] tbody tr[data-key]")
    rows.nth(4).wait_for()
    rows.first.focus()
    tab.page.keyboard.press("ArrowDown")
    tab.page.keyboard.press("ArrowDown")
    tab.page.keyboard.press("Enter")
    # Which row that was may change at any moment: the leaderboard is live, and the focus follows the keys.
    tab.page.wait_for_url("**/#/miners/*")
    hotkey = tab.page.url.rpartition("/")[2]
    tab.page.get_by_role("heading", name=hotkey).wait_for()
    tab.page.get_by_role("img", name="Equity curve").locator("canvas").wait_for()
    tab.page.get_by_role("img", name="Fills of").locator("canvas").wait_for()
    tab.wait_for_text("table[aria-label='Statistics with rank'] tbody", "Sharpe")
    tab.page.locator("table[aria-label='Closed positions'] tbody tr[data-key]").first.click()
    tab.wait_for_text(".count", "closed, ")
    tab.page.keyboard.press("Escape")
    tab.page.get_by_role("heading", name="Leaderboard").wait_for()
    tab.close()


def test_the_leaderboard_is_sorted_and_searched(demo: Live, browser: Browser) -> None:
    """Headers sort, with `aria-sort`; the search field is one key away."""
    tab = Tab(browser, demo.rest + "/")
    tab.sign_in(demo.key)
    table = tab.page.get_by_role("table", name="Leaderboard")
    rows = table.locator("tbody tr[data-key]")
    rows.nth(4).wait_for()
    table.get_by_role("button", name="Miner").click()
    header = table.get_by_role("columnheader", name="Miner")
    until(lambda: header.get_attribute("aria-sort") == "ascending")
    hotkeys = [row.get_attribute("data-key") or "" for row in rows.all()]
    assert hotkeys == sorted(hotkeys)
    table.get_by_role("button", name="Miner").click()
    until(lambda: [row.get_attribute("data-key") for row in rows.all()] == hotkeys[::-1])
    tab.page.keyboard.press("/")
    tab.page.keyboard.type(hotkeys[3][2:20])
    until(lambda: [row.get_attribute("data-key") for row in rows.all()] == [hotkeys[3]])
    tab.close()


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_nothing_is_inaccessible_or_too_wide(demo: Live, browser: Browser, scheme: str) -> None:
    """At 360 px nothing scrolls sideways, and axe-core has no serious finding, in every view and theme."""
    axe = PAGE / "node_modules" / "axe-core" / "axe.min.js"
    if not axe.is_file():
        pytest.skip("axe-core is not installed; run: make page")
    tab = Tab(browser, demo.rest + "/", width=360, scheme=scheme)
    tab.page.evaluate(axe.read_text())

    def examine(view: str, width: int) -> None:
        found = tab.page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        serious = [
            (v["id"], [(node["html"][:200], node["any"]) for node in v["nodes"]][:3])
            for v in found
            if v["impact"] in ("serious", "critical")
        ]
        assert serious == [], (view, width)
        wide = "element => element.scrollWidth > element.clientWidth"
        for selector in ("html", "main"):
            assert not tab.page.locator(selector).evaluate(wide), (view, width, selector)

    examine("the login", 360)
    tab.sign_in(demo.key)
    tab.page.locator("table[aria-label=Leaderboard] tbody tr[data-key]").first.wait_for()
    hotkey = tab.page.locator("table[aria-label=Leaderboard] tbody tr[data-key]").first.get_attribute(
        "data-key"
    )
    tab.page.emulate_media(reduced_motion="reduce")
    for width in (360, 1280):
        tab.page.set_viewport_size({"width": width, "height": 740})
        for fragment, heading in {
            **VIEWS,
            "#/pairs/BTCUSDC": "BTCUSDC",
            f"#/miners/{hotkey}": str(hotkey),
        }.items():
            tab.show(fragment, heading)
            if "/miners/" in fragment:
                tab.wait_for_text("table[aria-label='Statistics with rank'] tbody", "Sharpe")
            examine(fragment, width)
    tab.close()


def test_a_table_draws_only_what_is_in_view(demo: Live, browser: Browser) -> None:
    """However long the tape is; with the keyboard, one reaches its end."""
    tab = Tab(browser, demo.rest + "/")
    tab.sign_in(demo.key)
    tab.show("#/orders", "Orders")
    rows = tab.page.locator("table[aria-label='Orders, newest first'] tbody tr[data-key]")
    table = tab.page.get_by_role("table", name="Orders, newest first")
    until(lambda: int(table.get_attribute("aria-rowcount") or 0) > 80, what="a long tape")
    tab.page.get_by_role("button", name="Hold").click()
    rows.first.focus()

    def at_end() -> bool:
        tab.page.keyboard.press("End")
        index = tab.page.evaluate(
            "document.activeElement.ariaRowIndex ?? document.activeElement.getAttribute('aria-rowindex')"
        )
        return bool(index == table.get_attribute("aria-rowcount"))

    until(at_end, what="the last row")
    assert rows.count() < 60
    tab.close()
