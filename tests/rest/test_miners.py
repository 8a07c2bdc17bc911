"""`/miners` over HTTP: by key, cached by ETag, and made once however many ask."""

from __future__ import annotations

import asyncio

import pytest

from ptn_api.event_log import Document
from ptn_api.views import leaderboard
from tests.factories import MINER, OTHER_MINER, order, position, written
from tests.rest.serving import DAY, HOUR, NOW, document, filled_log, serving
from tests.waiting import PATIENCE_S


async def test_by_the_keys_tier() -> None:
    """Without a key 401; each key its tier, those of more rights tier 100."""
    async with serving() as served:
        assert (await served.get("/miners", None)).status_code == 401
        for key, tier in {"k0": 0, "k30": 30, "k50": 50, "k100": 100, "k200": 100}.items():
            response = await served.get("/miners", key)
            shown = response.json()
            assert (shown["tier"], shown["delay_ms"]) == (tier, 0 if tier == 100 else DAY)
            assert ("x-ptn-as-of" in response.headers) == (tier < 100)
            assert ("x-ptn-sequence" in response.headers) == (tier == 100)
            listed = (await served.get(f"/miner-positions?tier={tier}", key)).json()
            assert [row["hotkey"] for row in shown["miners"]] == list(listed)
            for row in shown["miners"]:
                entry = listed[row["hotkey"]]
                assert row["all_time_returns"] == entry["all_time_returns"]
                assert row["open_positions"] == sum(not p["is_closed_position"] for p in entry["positions"])


async def test_an_unchanged_leaderboard() -> None:
    """304 as time passes, until something in it changes; HEAD has the same headers."""
    log = filled_log([written(position(1, [order(1, at=NOW - HOUR)]))])
    async with serving(log) as served:
        first = await served.get("/miners", accept_encoding="gzip")
        tag = first.headers["etag"]
        served.clock.now_ms += HOUR
        assert (await served.get("/miners", accept_encoding="gzip", if_none_match=tag)).status_code == 304
        head = await served.ask("HEAD", "/miners", accept_encoding="gzip")
        assert (head.headers["etag"], head.headers["content-length"]) == (
            tag,
            first.headers["content-length"],
        )
        log.append([written(position(2, [order(2, at=NOW)], miner=OTHER_MINER))], NOW)

        async def changed() -> bool:
            again = await served.get("/miners", accept_encoding="gzip", if_none_match=tag)
            return again.status_code == 200 and len(again.json()["miners"]) == 2

        await served.until(changed)


async def test_concurrent_requests_share_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each ledger is read once per version, in steps between which others are served."""
    ledgers = {f"5Miner{n}": {"cps": [{"last_update_ms": n, "prev_portfolio_ret": 1.5}]} for n in range(40)}
    changes = [written(position(n, [order(n, at=NOW - HOUR)], miner=f"5Miner{n}")) for n in range(40)]
    read: list[bytes] = []
    compute = leaderboard.performance_of
    monkeypatch.setattr(leaderboard, "performance_of", lambda text: read.append(bytes(text)) or compute(text))
    monkeypatch.setattr("ptn_api.tasks.SLICE_S", 0.0)
    log = filled_log([*changes, document(Document.PERF_LEDGERS, ledgers)])
    async with serving(log) as served:
        asked = [served.get("/miners", key) for key in ("k0", "k100", "k200", "k100", "k100")]
        responses = await asyncio.wait_for(asyncio.gather(*asked), PATIENCE_S)
        assert len(read) == 40
        assert {response.status_code for response in responses} == {200}
        assert len({response.content for response in responses[1:]}) == 1
        assert responses[1].json()["miners"][7]["curve"][0][1] == 1.5
        assert (await served.get("/miners")).json() == responses[1].json()
        assert len(read) == 40


async def test_a_miner_that_leaves() -> None:
    """It is absent, and so is its ledger from a new document; another's row stays."""
    log = filled_log(
        [
            written(position(1, [order(1, at=NOW - HOUR)])),
            document(Document.MINERS, [MINER, OTHER_MINER]),
            document(Document.PERF_LEDGERS, {OTHER_MINER: {"cps": [{"last_update_ms": 1, "mdd": 0.5}]}}),
        ]
    )
    async with serving(log) as served:
        rows = {row["hotkey"]: row for row in (await served.get("/miners")).json()["miners"]}
        assert (rows[MINER]["drawdown"], rows[OTHER_MINER]["drawdown"]) == (None, 0.5)
        assert (rows[OTHER_MINER]["open_positions"], rows[OTHER_MINER]["last_order"]) == (0, None)
        log.append([document(Document.MINERS, [MINER]), document(Document.PERF_LEDGERS, {})], NOW)

        async def gone() -> bool:
            shown = (await served.get("/miners")).json()["miners"]
            return [row["hotkey"] for row in shown] == [MINER]

        await served.until(gone)
