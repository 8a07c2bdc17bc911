"""Renews the pictures of docs/page.md: `make screenshots`.

They show the demo, whose hotkeys and figures are made up. They look best with the font Inter (fonts-inter).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ptn_api.access import add_key  # noqa: E402
from tests.page.browser import Tab, launched  # noqa: E402
from tests.system.api import api  # noqa: E402

PICTURES = ROOT / "docs" / "pictures"
LARGEST_BYTES = 200_000


def take(folder: Path) -> None:
    keys = folder / "api_keys.json"
    key, delayed = (add_key(keys, f"user-{tier}", tier) for tier in (100, 30))
    demo = {"demo_miners": 60, "demo_positions": 40, "demo_orders_per_minute": 120}
    with (
        api(folder / "data", keys=keys, demo=True, overload_ms=60_000, **demo) as server,
        launched() as browser,
    ):
        wide = Tab(browser, server.rest + "/", width=1200)
        wide.page.set_viewport_size({"width": 1200, "height": 540})
        wide.sign_in(key)
        wide.wait_for_text(".state", "^Live$")
        rows = wide.page.locator("table[aria-label=Leaderboard] tbody tr[data-key]")
        rows.nth(20).wait_for()
        hotkey = rows.nth(1).get_attribute("data-key")
        orders = wide.page.locator("table[aria-label='Newest orders']")
        long = "table => Number(table.getAttribute('aria-rowcount')) > 40"
        wide.page.wait_for_function(long, arg=orders.element_handle())
        wide.page.mouse.move(0, 0)
        save(wide, "leaderboard")
        wide.show("#/pairs", "Pairs")
        save(wide, "pairs")
        wide.page.emulate_media(color_scheme="light")
        wide.show(f"#/miners/{hotkey}", str(hotkey))
        wide.wait_for_text("table[aria-label='Statistics with rank'] tbody", "Sharpe")
        wide.page.set_viewport_size({"width": 1200, "height": 900})
        save(wide, "miner")
        wide.close()
        for name, its_key, scheme in (("phone", key, "dark"), ("phone-delayed", delayed, "light")):
            narrow = Tab(browser, server.rest + "/", width=360, scheme=scheme)
            narrow.sign_in(its_key)
            narrow.page.locator("table[aria-label=Leaderboard] tbody tr[data-key]").nth(5).wait_for()
            save(narrow, name)
            narrow.close()


def save(tab: Tab, name: str) -> None:
    tab.page.wait_for_timeout(1_000)  # charts are drawn
    path = PICTURES / f"{name}.png"
    tab.page.screenshot(path=path)
    size = path.stat().st_size
    sys.stdout.write(f"{path.relative_to(ROOT)}: {size // 1000} kB\n")
    assert size < LARGEST_BYTES, name


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        take(Path(folder))
