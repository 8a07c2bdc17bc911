"""Protocol version 2 over real sockets (docs/protocol.md, 4 and 5)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ptn_api.event_log.contract import SourceStatus
from ptn_api.model.checksum import CHECKSUM_MODULUS, position_checksum
from ptn_api.model.position import PositionText
from tests.factories import EURUSD, MINER, OTHER_MINER, T0, order, position, uuid, written
from tests.stream.live import Client, LiveStream, running, until


async def test_the_success_frame_describes_the_log() -> None:
    """Epoch, floor, version and heartbeat period."""
    async with running(heartbeat_ms=14_000) as live, live.client() as client:
        live.trade(3)
        success = await client.login(version=2)
        assert success["epoch"] == "epoch-1"
        assert success["oldest_sequence"] == live.log.floor()
        assert (success["version"], success["heartbeat_ms"]) == (2, 14_000)
        assert success["current_sequence"] == live.log.head().sequence


async def test_a_resume_sends_all_missed_orders_marked_as_replayed_then_live_ones() -> None:
    """`resumed` follows the subscription_status; orders are marked up to its head."""
    async with running() as live, live.client() as client:
        seen = live.trade(2).sequence
        head = live.trade(3).sequence
        await client.login(version=2, last_sequence=seen, epoch="epoch-1")
        await client.subscribe()
        assert await client.receive() == {"type": "resumed", "after": seen, "head": head}
        live.trade()
        messages = await client.messages(4)
        assert [m["sequence"] for m in messages] == list(range(seen + 1, seen + 5))
        assert [m.get("replay", False) for m in messages] == [True, True, True, False]


@pytest.mark.parametrize(
    ("cursor", "epoch", "reason"),
    [(0, "epoch-1", "too_old"), (+1, "epoch-1", "future"), (-1, "other", "epoch"), (-1, None, "epoch")],
)
async def test_a_resume_that_would_be_incomplete_fails_and_only_live_orders_follow(
    cursor: int, epoch: str | None, reason: str
) -> None:
    """All or nothing: the client takes a snapshot."""
    async with running() as live, live.client() as client:
        head = live.trade(3).sequence
        last = 5 if reason == "too_old" else head + cursor
        fields = {} if epoch is None else {"epoch": epoch}
        success = await client.login(version=2, last_sequence=last, **fields)
        assert success["current_sequence"] == head
        await client.subscribe()
        assert await client.receive() == {
            "type": "resume_failed",
            "reason": reason,
            "epoch": "epoch-1",
            "oldest_sequence": live.log.floor(),
            "head": head,
        }
        live.trade()
        (message,) = await client.messages(1)
        assert message["sequence"] == head + 1
        assert "replay" not in message


async def test_filters_select_miners_and_pairs_live_and_in_a_replay() -> None:
    """AND-ed; the status echoes them."""
    async with running() as live, live.client() as client:
        start = live.log.head().sequence

        def some_orders(first: int) -> None:
            live.append(written(position(first, [order(first)])))
            live.append(written(position(first + 1, [order(first + 1)], trade_pair=EURUSD)))
            live.append(written(position(first + 2, [order(first + 2)], miner=OTHER_MINER)))

        some_orders(10)
        await client.login(version=2, last_sequence=start, epoch="epoch-1")
        status = await client.subscribe(miners=[MINER], trade_pairs=["BTCUSD", "XAUUSD"])
        assert (status["miners"], status["trade_pairs"]) == ([MINER], ["BTCUSD", "XAUUSD"])
        assert status["all"] is False
        assert (await client.receive())["type"] == "resumed"
        some_orders(20)
        messages = await client.messages(2)
        assert [m["sequence"] - start for m in messages] == [1, 4]


async def test_a_second_subscribe_replaces_the_first_from_the_next_order_on() -> None:
    """Without a replay."""
    async with running() as live, live.client() as client:
        await client.login(version=2)
        await client.subscribe(miners=["nobody"])
        live.trade()
        await client.subscribe()
        head = live.trade().sequence
        assert [m["sequence"] for m in await client.messages(1)] == [head]


async def test_delta_messages_stay_small_however_old_the_position_is() -> None:
    """The order, the position without its orders, and the order's place."""
    async with running() as live, live.client() as client:
        await client.login(version=2)
        assert (await client.subscribe(format="delta"))["format"] == "delta"
        orders = [order(n) for n in range(1, 4)]
        live.append(written(position(1, orders[:2])))
        live.append(written(position(1, orders)))
        messages = await client.messages(3)
        assert [m["data"]["n_orders"] for m in messages] == [1, 2, 3]
        assert messages[2]["data"]["order"]["order_uuid"] == orders[2]["order_uuid"]
        assert "orders" not in messages[2]["data"]["position"]
        assert messages[2]["data"]["position"]["position_uuid"] == uuid(1)


@pytest.mark.parametrize(
    ("frame", "named"),
    [
        ({"type": "subscribe", "miner": ["x"]}, "miner"),
        ({"type": "subscribe", "miners": "x"}, "miners"),
        ({"type": "subscribe", "trade_pairs": [1]}, "trade_pairs"),
        ({"type": "subscribe", "format": "tiny"}, "format"),
        ({"type": "subscribe", "updates": 1}, "updates"),
        ({"type": "subscribe", "revision": 3}, "revision"),
        ({"type": "subscribe", "revision": -1, "updates": True}, "revision"),
        ({"type": "what"}, "type"),
        ({"api_key": "again"}, "type"),
    ],
)
async def test_a_bad_frame_is_answered_with_an_error_that_names_the_field(
    frame: dict[str, Any], named: str
) -> None:
    """The connection stays open. A misspelt filter must not mean "no filter"."""
    async with running() as live, live.client() as client:
        await client.login(version=2)
        await client.send(**frame)
        error = await client.receive()
        assert (error["type"], error["code"]) == ("error", "bad_frame")
        assert named in error["message"]
        await client.connection.send("no json")
        assert (await client.receive())["code"] == "not_json"
        await client.send(type="ping", timestamp=1)
        assert (await client.receive())["type"] == "pong"


async def test_late_orders_are_marked_for_version_2_only() -> None:
    """An order that is more than a minute old when first seen."""
    async with running() as live, live.client() as old, live.client() as new:
        await old.login()
        await new.login(version=2)
        for client in (old, new):
            await client.subscribe()
        live.now_ms += 120_000
        live.append(written(position(1, [order(1)])))
        assert "late" not in (await old.messages(1))[0]
        assert (await new.messages(1))[0]["late"] is True


async def test_heartbeats_state_up_to_where_everything_was_sent() -> None:
    """They are sent with or without a subscription, and never ahead of the orders."""
    async with running(heartbeat_ms=30) as live, live.client() as client:
        success = await client.login(version=2)
        live.trade(2)
        beat = await client.next("heartbeat")
        assert beat["head"] == success["current_sequence"]
        assert (beat["stale"], beat["source_ms"]) == (False, None)
        await client.send(type="subscribe")
        await client.next("subscription_status")
        assert len(await client.messages(2)) == 2
        beat = await client.next("heartbeat")
        assert beat["head"] == live.log.head().sequence
        assert beat["revision"] == live.log.head().revision
        assert "checksum" not in beat


async def test_a_heartbeat_is_sent_at_once_when_the_source_becomes_stale() -> None:
    """Long before the next one is due, and again when it is current."""
    async with running() as live, live.client() as client:
        await client.login(version=2)
        live.log.set_source(SourceStatus(swept_ms=T0, stale=True, reason="root_gone"))
        beat = await client.receive()
        assert (beat["type"], beat["stale"], beat["source_ms"]) == ("heartbeat", True, T0)
        live.log.set_source(SourceStatus(swept_ms=T0 + 5))
        assert (await client.receive())["stale"] is False


async def test_heartbeats_name_the_problems() -> None:
    """Those of the source, found at once; without any the field is absent."""
    async with running() as live, live.client() as client:
        await client.login(version=2)
        live.log.set_source(SourceStatus(swept_ms=T0, invalid=3, invalid_documents=1))
        beat = await client.receive()
        assert (beat["type"], beat["stale"]) == ("heartbeat", False)
        assert beat["problems"] == ["files_refused", "documents_refused"]
        live.log.set_source(SourceStatus(swept_ms=T0))
        assert "problems" not in await client.receive()


# --- updates ----------------------------------------------------------------------------------------------


async def _with_updates(live: LiveStream, client: Client, **fields: Any) -> None:
    await client.login(version=2)
    assert (await client.subscribe(updates=True, **fields))["updates"] is True


async def test_a_refresh_is_a_position_frame_not_a_message() -> None:
    """With the summary, no orders, the revision and the preceding sequence."""
    async with running() as live, live.client() as client:
        await _with_updates(live, client)
        head = live.append(written(position(1, [order(1)])))
        await client.messages(1)
        refreshed = live.append(written(position(1, [order(1)], current_return=1.5)))
        frame = await client.receive()
        assert (frame["type"], frame["revision"], frame["after"]) == (
            "position",
            refreshed.revision,
            head.sequence,
        )
        assert frame["position"]["current_return"] == 1.5
        assert frame["orders"] == []
        assert "orders" not in frame["position"]
        assert "order_uuids" not in frame


async def test_a_correction_sends_the_corrected_order() -> None:
    """Only the orders that changed, not the others."""
    async with running() as live, live.client() as client:
        await _with_updates(live, client)
        live.append(written(position(1, [order(1), order(2)])))
        await client.messages(2)
        live.append(written(position(1, [order(1), order(2, price=7.0)])))
        frame = await client.receive()
        assert [(o["order_uuid"], o["price"]) for o in frame["orders"]] == [(order(2)["order_uuid"], 7.0)]


async def test_an_order_precedes_the_change_in_the_same_file() -> None:
    """A rewrite that adds an order and changes an earlier one: first the message, then the frame."""
    async with running() as live, live.client() as client:
        await _with_updates(live, client)
        live.append(written(position(1, [order(1)])))
        await client.messages(1)
        head = live.append(written(position(1, [order(1, price=7.0), order(2)])))
        (message,) = await client.messages(1)
        assert message["sequence"] == head.sequence
        frame = await client.receive()
        assert (frame["type"], frame["after"]) == ("position", head.sequence)
        assert [o["price"] for o in frame["orders"]] == [7.0]


async def test_dropped_orders_are_missing_from_the_list_of_uuids() -> None:
    """So that a mirror can drop them as well."""
    async with running() as live, live.client() as client:
        await _with_updates(live, client)
        live.append(written(position(1, [order(1), order(2)])))
        await client.messages(2)
        live.append(written(position(1, [order(2)])))
        assert (await client.receive())["order_uuids"] == [order(2)["order_uuid"]]


async def test_removals_are_sent_and_filters_apply_to_updates() -> None:
    """One miner's subscriber receives nothing about another's positions."""
    async with running() as live, live.client() as client, live.client() as other:
        await _with_updates(live, client)
        await _with_updates(live, other, miners=[OTHER_MINER])
        live.append(written(position(1, [order(1)])), written(position(2, [order(2)], miner=OTHER_MINER)))
        await client.messages(2)
        await other.messages(1)
        live.append(written(position(1, [order(1)], current_return=2.0)))
        gone = live.remove(MINER, uuid(1))
        frames = [await client.receive()]
        if frames[-1]["type"] == "position":
            frames.append(await client.receive())
        assert frames[-1]["positions"] == [[MINER, uuid(1)]]
        assert frames[-1]["revision"] == gone.revision
        live.remove(OTHER_MINER, uuid(2))
        assert (await other.receive())["positions"] == [[OTHER_MINER, uuid(2)]]


class Mirror:
    """State assembled from frames, as a client does it."""

    def __init__(self) -> None:
        self.positions: dict[tuple[str, str], dict[str, Any]] = {}

    def take(self, frame: dict[str, Any]) -> None:
        if frame.get("type") == "batch":
            for message in frame["messages"]:
                self.take(message)
        elif "sequence" in frame:
            shown = frame["data"]["position"]
            orders = self._orders(shown) | {o["order_uuid"]: o for o in shown["orders"]}
            self._put(shown | {"orders": list(orders.values())})
        elif frame["type"] == "position":
            orders = self._orders(frame["position"]) | {o["order_uuid"]: o for o in frame["orders"]}
            uuids = frame.get("order_uuids", list(orders))
            self._put(frame["position"] | {"orders": [orders[u] for u in uuids]})
        elif frame["type"] == "removed":
            for miner, position_uuid in frame["positions"]:
                self.positions.pop((miner, position_uuid), None)

    def load(self, text: PositionText) -> None:
        """A position of a snapshot."""
        self._put(json.loads(text.json()))

    def checksum(self) -> str:
        total = sum(position_checksum(json.dumps(p).encode()) for p in self.positions.values())
        return f"{total % CHECKSUM_MODULUS:016x}"

    def _orders(self, shown: dict[str, Any]) -> dict[str, Any]:
        kept = self.positions.get((shown["miner_hotkey"], shown["position_uuid"]), {"orders": []})
        return {o["order_uuid"]: o for o in kept["orders"]}

    def _put(self, shown: dict[str, Any]) -> None:
        self.positions[shown["miner_hotkey"], shown["position_uuid"]] = shown


def churn(live: LiveStream, seed: int) -> None:
    """Applies every kind of change that a validator makes to its files."""
    first = 100 * seed
    for n in range(first, first + 4):
        live.append(written(position(n, [order(n)])))
    live.append(written(position(first, [order(first), order(first + 50)])))
    live.append(written(position(first + 1, [order(first + 1)], current_return=1.23)))
    live.append(written(position(first, [order(first, price=3.0), order(first + 50), order(first + 51)])))
    live.append(written(position(first, [order(first + 50), order(first + 51)])))
    live.remove(MINER, uuid(first + 2))
    live.remove(MINER, uuid(first - 100))


async def test_a_mirror_that_follows_updates_agrees_with_the_checksum() -> None:
    """From an empty log, live."""
    async with running(heartbeat_ms=20) as live, live.client() as client:
        mirror = Mirror()
        await client.login(version=2)
        await client.send(type="subscribe", updates=True)
        await client.next("subscription_status")
        for seed in (1, 2, 3):
            churn(live, seed)
            await take_until_summed(client, mirror, live)


async def take_until_summed(client: Client, mirror: Mirror, live: LiveStream) -> None:
    while True:
        frame = await client.receive()
        if frame.get("type") != "heartbeat":
            mirror.take(frame)
        elif frame.get("checksum"):
            assert frame["checksum"] == mirror.checksum()
            if frame["revision"] == live.log.head().revision:
                return


async def test_a_mirror_joins_a_snapshot_to_the_stream() -> None:
    """The orders after S, then the changes and removals after R, then live frames (docs/protocol.md, 5)."""
    async with running(heartbeat_ms=20) as live, live.client() as client:
        churn(live, 1)
        head = live.log.head()
        mirror = Mirror()
        for logged in live.log.positions():
            mirror.load(logged.text)
        live.remove(MINER, uuid(103))
        live.append(written(position(101, [order(101, price=9.0)], current_return=1.4)))
        churn(live, 2)
        await client.login(version=2, last_sequence=head.sequence, epoch="epoch-1")
        await client.send(type="subscribe", updates=True, revision=head.revision)
        await client.next("subscription_status")
        resumed = await client.next("resumed")
        assert resumed["after"] == head.sequence
        churn(live, 3)
        await take_until_summed(client, mirror, live)
        churn(live, 4)
        await take_until_summed(client, mirror, live)


async def test_a_revision_of_the_future_or_older_than_the_tombstones_cannot_be_resumed() -> None:
    """resume_failed with its reason; live frames follow."""
    async with running() as live:
        live.trade(3)
        live.remove(MINER, uuid(1))
        live.log._tombstone_floor = 2
        for revision, reason in ((1, "too_old"), (99, "future")):
            async with live.client() as client:
                await client.login(version=2, last_sequence=live.log.head().sequence, epoch="epoch-1")
                await client.subscribe(updates=True, revision=revision)
                assert (await client.receive())["reason"] == reason
                live.trade()
                await client.messages(1)
        await until(lambda: live.counters.clients == 0)
