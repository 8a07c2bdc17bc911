"""Positions as they were: rebuilt from their orders up to a time, removed and archived ones included."""

from __future__ import annotations

from typing import Any

import pytest

from ptn_api import tasks
from ptn_api.event_log import Change, Document, PositionRemoved
from ptn_api.model.position import Position
from ptn_api.model.tiers import is_live
from ptn_api.views.past import Choice
from tests.factories import EURUSD, MINER, OTHER_MINER, order, position, uuid, written
from tests.memory_log import MemoryLog
from tests.rest.serving import (
    DAY,
    HOUR,
    NOW,
    FakeClock,
    Served,
    context_over,
    document,
    filled_log,
    serving,
)

LIVE = next(n for n in range(100, 300) if is_live(uuid(n), 30))
"""A position that every paid tier sees live."""
GONE = "5Gone"
ARCHIVED = position(90, [order(90, at=NOW - 5 * DAY), order(91, -0.1, at=NOW - 4 * DAY)], closed=True)


def flat(n: int, at: int) -> dict[str, Any]:
    return order(n, 0.0, at=at, order_type="FLAT")


def some_changes() -> list[Change]:
    """Closed, open, live and archived positions, whose orders are days apart."""
    return [
        written(position(1, [order(1, at=NOW - 9 * DAY), flat(2, NOW - 8 * DAY)], closed=True)),
        written(
            position(2, [order(3, at=NOW - 5 * DAY), order(4, at=NOW - 3 * DAY), order(5, at=NOW - HOUR)])
        ),
        written(position(LIVE, [order(6, at=NOW - 4 * DAY), order(7, at=NOW - 2)], trade_pair=EURUSD)),
        written(position(3, [order(8, at=NOW - 2 * DAY)], miner=OTHER_MINER)),
        written(position(4, [order(9, at=NOW - 6 * DAY)], miner=GONE)),
        document(Document.ARCHIVED_POSITIONS, [ARCHIVED], MINER),
        document(Document.MINERS, [MINER, OTHER_MINER, "5Nobody"]),
    ]


def past_log() -> MemoryLog:
    """Two positions have been removed: one yesterday, with its miner, and one a minute ago."""
    clock = FakeClock(NOW - 3 * DAY)
    log = filled_log(some_changes(), now_ms=clock())
    log.append([PositionRemoved(miner_hotkey=GONE, position_uuid=uuid(4))], NOW - DAY - 1)
    log.append([PositionRemoved(miner_hotkey=OTHER_MINER, position_uuid=uuid(3))], NOW - 60_000)
    return log


def shown(entry: dict[str, Any]) -> dict[str, list[str]]:
    return {body["position_uuid"]: [o["order_uuid"] for o in body["orders"]] for body in entry["positions"]}


def placed(*orders: int) -> list[str]:
    return [uuid(1000 + n) for n in orders]


async def entry(served: Served, at: int | str, miner: str = MINER, key: str = "k100") -> dict[str, Any]:
    response = await served.get(f"/miner-positions/{miner}?at={at}", key)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


async def test_a_miner_as_it_was() -> None:
    """Each position with its orders before the time; those of the archive with a key of tier 100."""
    async with serving(past_log()) as served:
        archived = {uuid(90): placed(90, 91)}
        now = {uuid(1): placed(1, 2), uuid(2): placed(3, 4, 5), uuid(LIVE): placed(6, 7)} | archived
        assert shown(await entry(served, NOW)) == now
        assert shown(await entry(served, NOW - HOUR)) == now | {uuid(2): placed(3, 4), uuid(LIVE): placed(6)}
        earlier = await entry(served, NOW - 4 * DAY)
        assert shown(earlier) == {uuid(1): placed(1, 2), uuid(2): placed(3), uuid(90): placed(90)}
        assert [body.get("return_as_of") for body in earlier["positions"]] == [None, *["last_order"] * 2]
        assert [body["close_ms"] for body in earlier["positions"]] == [NOW - 8 * DAY, 0, 0]
        assert earlier["n_positions"] == 1
        assert shown(await entry(served, NOW - 9 * DAY + 1)) == {uuid(1): placed(1)}
        assert list(earlier) == list((await served.get(f"/miner-positions/{MINER}")).json())
        lower = await entry(served, NOW - DAY, key="k50")
        assert shown(lower) == {uuid(1): placed(1, 2), uuid(2): placed(3, 4), uuid(LIVE): placed(6)}
        assert lower["tier"] == 50
        empty = await entry(served, NOW - 7 * DAY, "5Nobody")
        assert (empty["positions"], empty["n_positions"], empty["tier"]) == ([], 0, 100)


async def test_removed_positions_were_there_until_then() -> None:
    """For a week after their removal, for every tier; a position that returns counts as present."""
    async with serving(past_log()) as served:
        for key in ("k0", "k100"):
            assert shown(await entry(served, NOW - 2 * DAY, GONE, key)) == {uuid(4): placed(9)}
            gone = await served.get(f"/miner-positions/{GONE}?at={NOW - DAY}", key)
            assert (gone.status_code, gone.json()["error"]) == (404, "Miner ID not found")
        assert shown(await entry(served, NOW - 60_001, OTHER_MINER)) == {uuid(3): placed(8)}
        assert (await entry(served, NOW, OTHER_MINER))["positions"] == []
        served.clock.now_ms = NOW + 7 * DAY
        assert (await served.get(f"/miner-positions/{GONE}?at={NOW - 2 * DAY}")).status_code == 404
        served.clock.now_ms = NOW
        served.log.append([written(position(4, [order(9, at=NOW - 6 * DAY)], miner=GONE))], NOW)

        async def returned() -> bool:
            return (await served.get(f"/miner-positions/{GONE}")).status_code == 200

        await served.until(returned)
        assert shown(await entry(served, NOW - HOUR, GONE)) == {uuid(4): placed(9)}


async def test_all_miners_as_they_were() -> None:
    """The same entries, by hotkey, in every coding; miners without a position then are absent."""
    async with serving(past_log()) as served:
        for at in (NOW, NOW - HOUR, NOW - DAY - 2, NOW - 5 * DAY, NOW - 8 * DAY):
            for key in ("k0", "k100") if at <= NOW - DAY else ("k100",):
                path = f"/miner-positions?at={at}&tier={key[1:]}"
                answer = await served.get(path, key)
                body = answer.json()
                assert list(body) == sorted(body)
                assert answer.headers["x-ptn-as-of"] == str(at)
                assert "x-ptn-revision" not in answer.headers
                for hotkey in (MINER, OTHER_MINER, GONE):
                    one = await served.get(f"/miner-positions/{hotkey}?at={at}", key)
                    alone = one.json() if one.status_code == 200 else {"positions": []}
                    assert body.get(hotkey, {"positions": []})["positions"] == alone["positions"]
                assert (await served.get(path, key, accept_encoding="gzip")).json() == body
                again = await served.get(path, key, if_none_match=answer.headers["etag"])
                assert again.status_code == 304
        gone = (await served.get(f"/miner-positions?at={NOW - DAY - 2}")).json()
        assert sorted(gone) == sorted([MINER, OTHER_MINER, GONE])


async def test_filters_choose_positions_of_the_past() -> None:
    """By what they were: a position that is closed now was open then."""
    async with serving(past_log()) as served:

        async def chosen(query: str) -> dict[str, Any]:
            body = (await served.get(f"/miner-positions?at={NOW - 8 * DAY - 1}&{query}")).json()
            return {hotkey: list(shown(found)) for hotkey, found in body.items()}

        assert await chosen("status=open") == {MINER: [uuid(1)]}
        assert await chosen("status=closed") == {}
        assert await chosen("trade_pair=BTCUSD") == {MINER: [uuid(1)]}
        assert await chosen("trade_pair=EURUSD") == {}
        assert await chosen(f"miner={OTHER_MINER}") == {}


async def test_the_past_of_a_lower_tier_is_what_it_has_seen() -> None:
    """At its cutoff, the positions are those that tier 0 shows now, apart from the mark."""
    async with serving(past_log()) as served:
        now = (await served.get("/miner-positions?tier=0", "k0")).json()
        then = (await served.get(f"/miner-positions?tier=0&at={NOW - DAY}", "k0")).json()
        for found in then.values():
            for body in found["positions"]:
                body.pop("return_as_of", None)
        assert {hotkey: found["positions"] for hotkey, found in then.items()} == {
            hotkey: found["positions"] for hotkey, found in now.items()
        } | {OTHER_MINER: then[OTHER_MINER]["positions"]}  # removed a minute ago


@pytest.mark.parametrize(
    ("at", "sentence"),
    [
        *((text, "is not a time") for text in ("NaN", "x", "-1", "1e12", "inf", "9" * 20, "2026-13-01", "²")),
        (NOW + 1, "in the future"),
        ("2999-01-01", "in the future"),
        (NOW - 9 * DAY, "before the first order"),
        (0, "before the first order"),
        ("1969-01-01", "before the first order"),
    ],
)
async def test_a_time_that_has_no_answer(at: int | str, sentence: str) -> None:
    """A 400 that says why, for one miner and for all."""
    async with serving(past_log()) as served:
        for path in ("/miner-positions", f"/miner-positions/{MINER}", "/miner-positions/5Unknown"):
            refused = await served.get(f"{path}?at={at}")
            assert (refused.status_code, refused.json()["parameter"]) == (400, "at")
            assert sentence in refused.json()["error"]


async def test_times_may_be_written_in_iso_8601() -> None:
    """UTC unless they have an offset; below tier 100 nothing younger than a day."""
    async with serving(past_log()) as served:
        expected = await entry(served, NOW - 8 * DAY)
        for text in ("2025-10-06", "2025-10-06T00:00Z", "2025-10-06T02:00%2B02:00", "2025-10-06T02:00+02:00"):
            assert await entry(served, text) == expected
        for path in ("/miner-positions?tier=50&", f"/miner-positions/{MINER}?"):
            early = await served.get(f"{path}at={NOW - DAY + 1}", "k50")
            assert (early.status_code, early.json()["error"]) == (
                400,
                "Below tier 100, at is at most 24 hours ago",
            )
        both = await served.get(f"/miner-positions?at={NOW}&since=x:1")
        assert (both.status_code, both.json()["parameter"]) == (400, "since")


async def test_corrections_and_the_archive_count_as_they_stand_now() -> None:
    """An order that was corrected later has its present price; what moved to the archive is found there."""
    log = filled_log(some_changes(), now_ms=NOW - 2 * DAY)
    log.append(
        [written(position(3, [order(8, at=NOW - 2 * DAY, price=55.5)], miner=OTHER_MINER))], NOW - HOUR
    )
    moved = position(1, [order(1, at=NOW - 9 * DAY), flat(2, NOW - 8 * DAY)], closed=True)
    log.append([document(Document.ARCHIVED_POSITIONS, [moved], MINER)], NOW - HOUR)
    log.append([PositionRemoved(miner_hotkey=MINER, position_uuid=uuid(1))], NOW - HOUR)
    async with serving(log) as served:
        [body] = (await entry(served, NOW - DAY, OTHER_MINER))["positions"]
        assert body["orders"][0]["price"] == 55.5
        for at in (NOW, NOW - DAY):
            assert list(shown(await entry(served, at))).count(uuid(1)) == 1


async def test_the_positions_decode_as_positions() -> None:
    """With the mark as a field."""
    import msgspec

    async with serving(past_log()) as served:
        found = await entry(served, NOW - 4 * DAY)
        positions = msgspec.convert(found["positions"], list[Position])
        assert [one.return_as_of for one in positions] == [None, "last_order", "last_order"]


async def test_an_http_1_0_client_gets_one_miner_only() -> None:
    """All of them come in chunks, which it cannot read."""
    import asyncio

    async with serving(past_log()) as served:
        for path, status in ((f"/miner-positions/{MINER}", b"200"), ("/miner-positions", b"505")):
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            lines = f"GET {path}?at={NOW} HTTP/1.0\r\nAuthorization: Bearer k100\r\n\r\n"
            writer.write(lines.encode())
            assert (await reader.read()).split()[1] == status
            writer.close()


@pytest.mark.parametrize("removed", [False, True])
@pytest.mark.parametrize(
    "choice",
    [
        Choice(NOW, 100, trade_pairs=frozenset({"ETHUSD"})),
        Choice(NOW - 2 * HOUR, 100),
        Choice(NOW, 100, miners=frozenset({"5Nobody"})),
    ],
)
async def test_what_matches_nothing_lets_others_run(
    monkeypatch: pytest.MonkeyPatch, choice: Choice, removed: bool
) -> None:
    """The work is counted across miners, each of which is done sooner than a slice of time is over."""
    changes = [written(position(n, [order(n, at=NOW - HOUR)], miner=f"5Miner{n}")) for n in range(1, 61)]
    log = filled_log(changes, now_ms=NOW - HOUR)
    context = await context_over(log, FakeClock())
    if removed:
        removals = [PositionRemoved(miner_hotkey=f"5Miner{n}", position_uuid=uuid(n)) for n in range(1, 61)]
        log.append(removals, NOW + 1)
        await context.follower.catch_up()
    looks = 0

    def monotonic() -> float:
        """A millisecond passes between two looks at the clock."""
        nonlocal looks
        looks += 1
        return looks / 1000

    monkeypatch.setattr(tasks, "monotonic", monotonic)
    looked, longest = 0, 0
    for part in context.past.document(choice).parts():
        assert part in (b"", b"{}")
        longest, looked = max(longest, looks - looked), looks
    assert longest <= 10


async def test_the_past_of_all_miners_reads_no_list_of_present_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log would read every position for it, in one step."""
    context = await context_over(past_log(), FakeClock())

    def hotkeys() -> list[str]:
        raise AssertionError("the whole log is read")

    monkeypatch.setattr(context.log, "hotkeys", hotkeys)
    parts = [*context.past.document(Choice(NOW - 2 * DAY, 100)).parts()]
    assert sum(b"position_uuid" in part for part in parts if isinstance(part, bytes)) == 5
