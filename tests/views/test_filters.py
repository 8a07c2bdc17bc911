"""Filters apply to positions as the tier shows them; aggregates remain those of the whole entry."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ptn_api.http.body import StreamedBody
from ptn_api.views import filters as module
from tests.factories import EURUSD, MINER, OTHER_MINER, order, position, written
from tests.rest.serving import DAY, HOUR, NOW, Served, filled_log, serving


def changes() -> list[Any]:
    """The first miner: closed BTCUSD, open EURUSD, one closed an hour ago; the second: open BTCUSD."""
    closed = [order(1, at=NOW - 9 * DAY), order(2, -0.1, at=NOW - 8 * DAY)]
    recent = [order(4, at=NOW - 3 * DAY), order(5, 0.0, at=NOW - HOUR, order_type="FLAT")]
    return [
        written(position(1, closed, closed=True)),
        written(position(2, [order(3, at=NOW - 2 * DAY)], trade_pair=EURUSD)),
        written(position(3, recent, closed=True)),
        written(position(4, [order(6, at=NOW - 2 * DAY)], miner=OTHER_MINER)),
    ]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("trade_pair=EURUSD", {MINER: [2]}),
        ("trade_pair=EURUSD&trade_pair=BTCUSD", {MINER: [1, 3, 2], OTHER_MINER: [4]}),
        ("status=closed", {MINER: [1, 3]}),
        ("status=open", {MINER: [2], OTHER_MINER: [4]}),
        ("status=open&status=closed", {MINER: [1, 3, 2], OTHER_MINER: [4]}),
        ("status=open&trade_pair=BTCUSD", {OTHER_MINER: [4]}),
        (f"miner={OTHER_MINER}", {OTHER_MINER: [4]}),
        (f"miner={OTHER_MINER}&miner={MINER}&status=closed", {MINER: [1, 3]}),
        ("miner=5Unknown", {}),
        # Tier 0 does not show a close of an hour ago yet: the position is still open there.
        ("tier=0&status=closed", {MINER: [1]}),
        ("tier=0&status=open&trade_pair=BTCUSD", {MINER: [3], OTHER_MINER: [4]}),
    ],
)
async def test_filters_combine(query: str, expected: dict[str, list[int]]) -> None:
    """Filters are AND-ed, repeated values OR-ed; miners without a match are left out."""
    async with serving(filled_log(changes())) as served:
        tier = "?tier=0" if "tier=0" in query else ""
        unfiltered = (await served.get(f"/miner-positions{tier}")).json()
        filtered = (await served.get(f"/miner-positions?{query}")).json()
        numbers = {
            hotkey: [int(p["position_uuid"][-2:], 16) for p in entry["positions"]]
            for hotkey, entry in filtered.items()
        }
        assert numbers == expected
        for hotkey, entry in filtered.items():
            sums = {key: value for key, value in unfiltered[hotkey].items() if key != "positions"}
            assert {key: value for key, value in entry.items() if key != "positions"} == sums
            assert list(entry) == list(unfiltered[hotkey])


async def test_a_filtered_document_has_its_own_tag() -> None:
    """The same filter gives the same tag again."""
    async with serving(filled_log(changes())) as served:
        paths = ["/miner-positions", "/miner-positions?status=open", "/miner-positions?status=open"]
        one, two, three = [(await served.get(path)).headers["etag"] for path in paths]
        assert one != two
        assert two == three


QUERIES = ("trade_pair=EURUSD", "status=closed", "status=open,closed", "tier=0&status=open", "since={}:0")


@pytest.mark.parametrize("query", QUERIES)
async def test_a_streamed_document_is_the_same(query: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every coding; uncompressed with its length, which HTTP/1.0 needs, and compressed in chunks."""
    log = filled_log(changes())
    path = f"/miner-positions?{query.format(log.epoch)}"
    async with serving(log) as served:
        whole = await served.get(path)
        assert "content-length" in whole.headers
        monkeypatch.setattr(module, "_SMALL_BYTES", 0)
        plain = await served.get(path)
        assert (plain.content, plain.headers["etag"]) == (whole.content, whole.headers["etag"])
        assert int(plain.headers["content-length"]) == len(whole.content)
        packed = await served.get(path, accept_encoding="gzip, zstd")
        assert packed.headers["transfer-encoding"] == "chunked"
        assert (packed.headers["content-encoding"], packed.content) == ("gzip", whole.content)
        assert "content-length" not in packed.headers
        old = await asked_as_1_0(served, path)
        head, _, body = old.partition(b"\r\n\r\n")
        assert b"chunked" not in head
        assert b"content-encoding" not in head
        assert body == whole.content


async def asked_as_1_0(served: Served, path: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    lines = "host: x\r\nauthorization: Bearer k100\r\naccept-encoding: gzip"
    writer.write(f"GET {path} HTTP/1.0\r\n{lines}\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize("query", ["status=open", "since={}:0"])
async def test_an_unchanged_document_costs_nothing_to_confirm(
    query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 304 reads no text, like HEAD; a change of a miner in it gives it another tag."""
    log = filled_log(changes())
    path = f"/miner-positions?{query.format(log.epoch)}"
    monkeypatch.setattr(module, "_SMALL_BYTES", 0)
    async with serving(log) as served:
        tag = (await served.get(path)).headers["etag"]
        with monkeypatch.context() as patched:
            patched.setattr(StreamedBody, "encode", None)
            assert (await served.get(path, if_none_match=tag)).status_code == 304
        with monkeypatch.context() as patched:
            patched.setattr(module, "_cut", None)
            head = await served.ask("HEAD", path)
            assert (head.status_code, head.content) == (200, b"")
        log.append([written(position(4, [order(6, at=NOW - 2 * DAY, price=7.0)], miner=OTHER_MINER))], NOW)

        async def changed() -> bool:
            return (await served.get(path, if_none_match=tag)).status_code == 200

        await served.until(changed)


async def test_servers_with_the_same_data_agree_on_the_tag() -> None:
    """Clients may change between them."""
    tags = []
    for epoch in ("a" * 32, "b" * 32):
        async with serving(filled_log(changes(), epoch=epoch)) as served:
            tags.append((await served.get("/miner-positions?status=closed")).headers["etag"])
    assert tags[0] == tags[1]


async def test_a_pair_that_the_table_lacks_is_found_by_its_id() -> None:
    """If the tier shows a position in it; in every form that a file may have it in."""
    odd: list[Any] = ["NEWUSD", ["NEWUSD", "NEW/USD", 0.001, 0.1, 1], {"trade_pair_id": "NEWUSD"}]
    log = filled_log(
        [
            written(position(n, [order(n, at=NOW - DAY)], trade_pair=pair))
            for n, pair in enumerate(odd, start=1)
        ]
    )
    async with serving(log) as served:
        (entry,) = (await served.get("/miner-positions?trade_pair=NEWUSD")).json().values()
        assert len(entry["positions"]) == 3
        assert (await served.get("/miner-positions?trade_pair=NEWUSDX")).status_code == 400
