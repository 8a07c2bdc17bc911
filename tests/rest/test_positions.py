"""A mirror that applies changes holds what a complete response holds."""

from __future__ import annotations

from typing import Any

from ptn_api.event_log import PositionRemoved
from tests.factories import MINER, OTHER_MINER, order, position, uuid, written
from tests.memory_log import MemoryLog
from tests.rest.serving import DAY, HOUR, NOW, Served, filled_log, serving


def apply(mirror: dict[tuple[str, str], Any], changes: dict[str, Any]) -> None:
    """As described: `removed` first, then the positions."""
    for hotkey, removed in changes["removed"]:
        mirror.pop((hotkey, removed), None)
    for hotkey, positions in changes["positions"].items():
        for body in positions:
            mirror[hotkey, body["position_uuid"]] = body


async def complete(served: Served) -> dict[tuple[str, str], Any]:
    entries = (await served.get("/miner-positions")).json()
    return {(h, p["position_uuid"]): p for h, entry in entries.items() for p in entry["positions"]}


async def until_shown(served: Served) -> None:
    async def shown() -> bool:
        response = await served.get("/miner-positions")
        return int(response.headers["x-ptn-revision"]) == served.log.head().revision

    await served.until(shown)


async def test_changes_add_up_to_the_complete_document() -> None:
    """New, changed, closed and removed positions; aggregates of all miners; the cursor advances."""
    old = [order(1, at=NOW - 9 * DAY, price_sources=[{"source": "old"}]), order(2, -0.1, at=NOW - 8 * DAY)]
    log = filled_log(
        [
            written(position(1, old, closed=True)),
            written(position(2, [order(3, at=NOW - HOUR)], miner=OTHER_MINER)),
        ]
    )
    steps: list[list[Any]] = [
        [],
        [written(position(3, [order(4, at=NOW - 5)]))],
        [
            written(position(3, [order(4, at=NOW - 5), order(5, at=NOW - 4)])),
            PositionRemoved(miner_hotkey=OTHER_MINER, position_uuid=uuid(2)),
        ],
        [written(position(2, [order(3, at=NOW - HOUR, price=5.0)], miner=OTHER_MINER))],
    ]
    async with serving(log) as served:
        mirror: dict[tuple[str, str], Any] = {}
        cursor = f"{log.epoch}:0"
        for step in steps:
            log.append(step, NOW)
            await until_shown(served)
            changes = (await served.get(f"/miner-positions?since={cursor}")).json()
            apply(mirror, changes)
            cursor = changes["cursor"]
            assert mirror == await complete(served)
            assert changes["sequence"] == log.head().sequence
            entries = (await served.get("/miner-positions")).json()
            assert changes["miners"] == {
                hotkey: {k: v for k, v in entry.items() if k not in ("positions", "tier")}
                for hotkey, entry in entries.items()
            }
        nothing = (await served.get(f"/miner-positions?since={cursor}")).json()
        assert (nothing["positions"], nothing["removed"], nothing["cursor"]) == ({}, [], cursor)


async def test_the_revision_header_is_a_cursor() -> None:
    """Changes continue from a snapshot's headers."""
    async with serving(filled_log([written(position(1, [order(1, at=NOW - HOUR)]))])) as served:
        snapshot = await served.get("/miner-positions")
        cursor = f"{snapshot.headers['x-ptn-epoch']}:{snapshot.headers['x-ptn-revision']}"
        served.log.append([written(position(2, [order(2, at=NOW - 9)]))], NOW)
        changes = (await served.get(f"/miner-positions?since={cursor}")).json()
        assert [p["position_uuid"] for p in changes["positions"][MINER]] == [uuid(2)]


class Pruned(MemoryLog):
    """A log that has dropped tombstones."""

    def oldest_revision(self) -> int:
        return 2


async def test_cursors_that_cannot_be_used() -> None:
    """410 with the oldest valid cursor."""
    log = Pruned(created_ms=NOW, epoch="e" * 32)
    log.baseline([written(position(n, [order(n, at=NOW - HOUR)])) for n in range(1, 4)], NOW)
    async with serving(log) as served:
        for cursor in ("f" * 32 + ":2", ":2", "e" * 32 + ":1", "e" * 32 + ":99"):
            response = await served.get(f"/miner-positions?since={cursor}")
            assert response.status_code == 410
            assert response.json()["oldest_cursor"] == "e" * 32 + ":2"
            assert (await served.ask("HEAD", f"/miner-positions?since={cursor}")).status_code == 410
        assert (await served.get("/miner-positions?since=" + "e" * 32 + ":2")).status_code == 200
