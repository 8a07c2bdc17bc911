"""Archived positions: entries for the checkpoint, and joined with live ones."""

from __future__ import annotations

import json
from typing import Any

from ptn_api.event_log import Document
from ptn_api.rest.context import AppContext
from tests.factories import MINER, order, position, uuid, written
from tests.rest.serving import DAY, NOW, FakeClock, context_over, document, encoded, filled_log

SOURCES = [{"source": "Polygon", "open": 1.0}]


def archived(n: int, *, age: int, result: float = 1.1) -> dict[str, Any]:
    orders = [order(n, at=NOW - age, price_sources=SOURCES), order(n + 1, -0.1, at=NOW - age + DAY)]
    return position(n, orders, closed=True, return_at_close=result)


def joined(context: AppContext) -> Any:
    body = context.archive.joined(MINER, context.views.view(MINER))
    return body and json.loads(encoded(body))


async def test_live_and_archived_positions_are_sorted_together() -> None:
    """By close, the open ones last; a position in both places counts once, as the live one."""
    live = [written(archived(20, age=6 * DAY)), written(position(30, [order(30, at=NOW - DAY)]))]
    moved = archived(20, age=6 * DAY, result=1.5)
    listed = [archived(10, age=3 * DAY), moved]
    log = filled_log([*live, document(Document.ARCHIVED_POSITIONS, listed, MINER)])
    context = await context_over(log, FakeClock())
    entry = joined(context)
    assert [p["position_uuid"] for p in entry["positions"]] == [uuid(20), uuid(10), uuid(30)]
    assert (entry["n_positions"], entry["all_time_returns"], entry["tier"]) == (2, 1.1 * 1.1, 100)


async def test_an_archive_ages() -> None:
    """Price sources go after 7 days, and positions leave the lookback, without a change in the log."""
    log, clock = (
        filled_log([document(Document.ARCHIVED_POSITIONS, [archived(10, age=6 * DAY)], MINER)]),
        FakeClock(),
    )
    context = await context_over(log, clock)
    checkpoint = await context.checkpoint.snapshot()
    assert checkpoint is await context.checkpoint.snapshot()
    assert joined(context)["positions"][0]["orders"][0]["price_sources"] == SOURCES
    clock.now_ms += DAY + 1
    assert joined(context)["positions"][0]["orders"][0]["price_sources"] == []
    assert joined(context)["thirty_day_returns"] == 1.1
    clock.now_ms += 180 * DAY
    assert joined(context)["thirty_day_returns"] == 1.0
    aged = await context.checkpoint.snapshot()
    assert aged is not None
    entry = json.loads(encoded(aged))["archived_positions"][MINER]
    assert (entry["thirty_day_returns"], entry["all_time_returns"]) == (1.0, 1.1)


async def test_an_emptied_archive() -> None:
    """The miner has no entry any more; odd positions are left out."""
    log = filled_log([document(Document.ARCHIVED_POSITIONS, [{"x": 1}, archived(10, age=DAY)], MINER)])
    context = await context_over(log, FakeClock())
    assert [p["position_uuid"] for p in joined(context)["positions"]] == [uuid(10)]
    for content in ([], None):
        log.append([document(Document.ARCHIVED_POSITIONS, content, MINER)], NOW)
        assert joined(context) is None
        assert await context.archive.entries() == {}
