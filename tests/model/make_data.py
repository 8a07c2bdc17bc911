"""Writes data/*.json: inputs made up here, expected values from `literal`.

Run it by hand after adding a scenario: `python -m tests.model.make_data`. The files are committed, so that a
mistake made in both the package and `literal` shows: read the difference before committing it.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any
from uuid import UUID

from ptn_api.model.trade_pair import Category
from tests.model import literal

DATA = Path(__file__).parent / "data"
DAY = 24 * literal.HOUR
BEFORE_V4 = literal.V4 - 20 * DAY
BEFORE_F = literal.F - 20 * DAY
BEFORE_S = literal.S - 20 * DAY
NOW = 1_760_000_000_000
"""A Thursday, 08:53 UTC, after every change of the rules."""

Row = tuple[int, str, float, float, float, int]
"""processed_ms, order_type, leverage, price, slippage, src."""
ERAS = {"before_v4": BEFORE_V4, "before_carry": BEFORE_F, "before_slippage": BEFORE_S, "now": NOW}
PAIRS: dict[str, tuple[Category, float]] = {
    "BTCUSD": ("crypto", 0.001),
    "EURUSD": ("forex", 0.00007),
    "NVDA": ("equities", 0.00009),
}


def order(row: Row | list[Any], uuid: str) -> dict[str, Any]:
    at, kind, leverage, price, slippage, src = row
    return {
        "order_type": kind,
        "leverage": leverage,
        "price": price,
        "bid": 0.0,
        "ask": 0.0,
        "slippage": slippage,
        "processed_ms": at,
        "order_uuid": uuid,
        "price_sources": [],
        "src": src,
    }


def orders(rows: list[Any]) -> list[dict[str, Any]]:
    return [order(row, str(UUID(int=place + 1))) for place, row in enumerate(rows)]


def shapes(t: int) -> dict[str, list[Row]]:
    """Returns order lists that begin at `t`, by what they show."""
    h, d = literal.HOUR, DAY
    return {
        "one": [(t, "LONG", 0.25, 100.0, 2e-5, 0)],
        "grow": [(t, "LONG", 0.1, 100.0, 1e-5, 0), (t + 9 * d, "LONG", 0.2, 108.0, 1e-5, 0)],
        "flat": [(t, "SHORT", -0.5, 100.0, 1e-5, 0), (t + 3 * h, "FLAT", 0.5, 91.0, 2e-5, 0)],
        "flat_without_leverage": [(t, "LONG", 0.5, 1.1, 1e-5, 0), (t + d, "FLAT", 0.0, 1.2, 2e-5, 0)],
        "reduce": [
            (t, "LONG", 0.4, 50.0, 1e-4, 0),
            (t + 5 * d, "SHORT", -0.3, 60.0, 1e-4, 0),
            (t + 6 * d, "LONG", 0.2, 55.0, 1e-4, 0),
            (t + 6 * d + 1, "FLAT", -0.3, 58.0, 1e-4, 0),
        ],
        "crossing_then_ignored": [
            (t, "LONG", 0.3, 10.0, 1e-5, 0),
            (t + h, "SHORT", -0.5, 11.0, 1e-5, 0),
            (t + 2 * h, "LONG", 0.1, 12.0, 1e-5, 0),
        ],
        "residue": [
            (t, "LONG", 0.1, 10.0, 0.0, 0),
            (t + h, "LONG", 0.2, 10.5, 0.0, 0),
            (t + 2 * h, "SHORT", -0.3, 11.0, 0.0, 0),
        ],
        "eliminated": [(t, "LONG", 0.3, 10.0, 1e-5, 0), (t + 2 * d, "FLAT", -0.3, 0.0, 0.0, 1)],
        "deprecated": [(t, "SHORT", -0.3, 10.0, 1e-5, 0), (t + 2 * d, "FLAT", 0.3, 9.5, 0.0, 2)],
        "liquidated": [
            (t, "LONG", 4.0, 10.0, 1e-5, 0),
            (t + 2 * d, "LONG", 1.0, 7.0, 1e-5, 0),
            (t + 3 * d, "LONG", 1.0, 8.0, 1e-5, 0),
        ],
        "not_in_time_order": [
            (t + 40 * d, "LONG", 0.3, 10.0, 1e-5, 0),
            (t, "LONG", 0.2, 11.0, 1e-5, 0),
            (t + 50 * d, "SHORT", -0.1, 12.0, 1e-5, 0),
        ],
        "all_rules": [(at, "LONG", 0.1, 100.0 + i, 1e-5, 0) for i, at in enumerate(ERAS.values())],
    }


def rebuilds() -> list[dict[str, Any]]:
    cases = []
    for era, start in ERAS.items():
        for place, (shape, rows) in enumerate(shapes(start).items()):
            pair = list(PAIRS)[place % len(PAIRS)]
            uuid = str(UUID(int=1000 + place))
            listed = orders(rows)
            expected = []
            for length in range(1, len(rows) + 1):
                state, appended = literal.state_of(listed[:length], *PAIRS[pair], uuid)
                expected.append(state | {"appended": len(appended)})
            cases.append(
                {"name": f"{era}/{shape}", "pair": pair, "uuid": uuid, "orders": rows, "after": expected}
            )
    return cases


def fees() -> list[dict[str, Any]]:
    cases = []
    for pair, (category, rate) in PAIRS.items():
        for shape in ("one", "reduce", "flat", "not_in_time_order"):
            for era in ("before_carry", "now"):
                rows = shapes(ERAS[era])[shape]
                listed = orders(rows)
                state, _ = literal.state_of(listed, category, rate, "")
                draw = random.Random(f"{pair}/{shape}/{era}")
                times = [rows[0][0], *sorted(rows[0][0] + draw.randrange(60 * DAY) for _ in range(6))]
                table = [
                    [
                        t,
                        *literal.carry_at(t, listed, category, state["open_ms"], state["close_ms"]),
                        literal.spread_at(t, listed, rate),
                    ]
                    for t in times
                ]
                cases.append(
                    {
                        "name": f"{pair}/{shape}/{era}",
                        "pair": pair,
                        "open_ms": state["open_ms"],
                        "close_ms": state["close_ms"],
                        "orders": rows,
                        "table": table,
                    }
                )
    return cases


def tiers() -> list[dict[str, Any]]:
    """Returns positions around the cutoff: what tier 0 shows, and the lowest tier that shows them live."""
    cases = []
    for days_before in (3, 1.5, 0.5):
        for place, (shape, rows) in enumerate(shapes(NOW - int(days_before * DAY)).items()):
            if rows[-1][0] > NOW:
                continue
            pair = list(PAIRS)[place % len(PAIRS)]
            uuid = str(UUID(int=place * 1000 + int(days_before * 10)))
            listed = orders(rows)
            state, appended = literal.state_of(listed, *PAIRS[pair], uuid)
            del state["initial_entry_price"]
            trade_pair = [pair, pair, 0.003, 0.1, 5]
            body = {"miner_hotkey": "5Miner", "position_uuid": uuid, "trade_pair": trade_pair}
            body |= state | {"orders": listed + appended, "remark": days_before}
            as_live = literal.shown(body, 100, NOW, *PAIRS[pair])
            lagging = literal.shown(body, 0, NOW, *PAIRS[pair])
            live_from = next(
                t for t in (0, 30, 50, 100) if literal.shown(body, t, NOW, *PAIRS[pair]) == as_live
            )
            if live_from == 0:
                lagging = None
            cases.append(
                {"name": f"{shape}/{days_before}", "body": body, "live_from": live_from, "lagging": lagging}
            )
    return cases


def main() -> None:
    about = "Made by tests/model/make_data.py; orders: [processed_ms, type, leverage, price, slippage, src]."
    for name, cases in (("rebuilds", rebuilds()), ("fees", fees()), ("tiers", tiers())):
        lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
        (DATA / f"{name}.json").write_text(
            f'{{"about":{json.dumps(about)},"now_ms":{NOW},"cases":[\n{lines}\n]}}\n'
        )


if __name__ == "__main__":
    main()
