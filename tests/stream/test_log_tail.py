"""The log tail: behind, overtaken by pruning, and its checksum."""

from __future__ import annotations

from typing import Any

from structlog.testing import capture_logs

from ptn_api.errors import LogError, LogPrunedError
from ptn_api.event_log.contract import Event
from ptn_api.model.checksum import CHECKSUM_MODULUS, position_checksum
from ptn_api.wire import close_codes
from tests.factories import T0, order, position, written
from tests.memory_log import MemoryLog
from tests.stream.live import KEY, Client, LiveStream, running, until


class TroubledLog(MemoryLog):
    """A log whose reads fail with this error as long as it is set."""

    trouble: LogError | None = None

    def read(self, after: int, limit: int, *, orders: bool = True) -> list[Event]:
        if self.trouble:
            raise self.trouble
        return super().read(after, limit, orders=orders)


def _troubled() -> tuple[TroubledLog, LiveStream]:
    log = TroubledLog(created_ms=T0, epoch="epoch-1")
    return log, LiveStream(log=log)


async def test_an_unreadable_log_costs_time_and_no_order() -> None:
    """The tail retries, at the latest with the next commit."""
    log, stream = _troubled()
    async with running(stream) as live, live.client() as client:
        start = log.head().sequence
        await client.login()
        await client.subscribe()
        with capture_logs() as lines:
            log.trouble = LogError("trouble")
            live.trade(3)
            await until(lambda: any(line["event"] == "log_unreadable" for line in lines))
            log.trouble = None
            live.trade()
            assert [m["sequence"] - start for m in await client.messages(4)] == [1, 2, 3, 4]


async def test_live_clients_are_closed_with_come_back_when_pruning_overtakes_the_tail() -> None:
    """Continuing would leave a silent gap."""
    log, stream = _troubled()
    async with running(stream) as live, live.client() as client, live.client() as later:
        await client.login()
        await client.subscribe()
        log.trouble = LogPrunedError("trouble")
        live.trade()
        assert await client.close_code() == close_codes.REPLAY_OVERTAKEN.code
        log.trouble = None
        await later.login()
        await later.subscribe()
        live.trade()
        assert len(await later.messages(1)) == 1


async def test_a_tail_far_behind_catches_up_in_steps_orders_before_changes() -> None:
    """A thousand orders in one append, with a subscription to updates."""
    async with running() as live, live.client(max_size=None) as client:
        start = live.log.head().sequence
        await client.login(version=2)
        await client.subscribe(format="delta", updates=True)
        bodies = [position(n, [order(n)]) for n in range(1, 1_001)]
        live.append(*(written(body) for body in bodies), written(bodies[0] | {"current_return": 2.0}))
        assert [m["sequence"] - start for m in await client.messages(1_000)] == list(range(1, 1_001))
        frame = await client.receive()
        assert (frame["type"], frame["after"]) == ("position", start + 1_000)


async def test_opening_and_closing_are_logged_once_each_without_the_key() -> None:
    """With alias, fingerprint, address and version; reason, code and message count."""
    with capture_logs() as lines:
        async with running() as live:
            async with live.client() as client, live.client() as stranger:
                await client.login()
                await client.subscribe()
                live.trade(3)
                await client.messages(3)
                await stranger.login("not-a-key-of-anybody")
                await stranger.close_code()
            await until(lambda: live.counters.clients == 0)
            await until(lambda: sum(line["event"] == "connection_closed" for line in lines) == 2)
    said: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        said.setdefault(line["event"], []).append(line)
    (opened,) = said["connection_opened"]
    assert (opened["alias"], opened["version"]) == ("alice", 1)
    assert opened["address"].startswith("127.0.0.1:")
    (closed,) = [line for line in said["connection_closed"] if line["alias"] == "alice"]
    assert (closed["code"], closed["messages"], closed["fingerprint"]) == (1000, 3, opened["fingerprint"])
    assert said["login_refused"][0]["fingerprint"]
    assert KEY not in str(lines)
    assert "not-a-key-of-anybody" not in str(lines)


async def test_the_checksum_is_right_after_pruning_overtook_the_tail() -> None:
    """The old checksum is not used for the new state."""
    log, stream = _troubled()
    async with running(stream, heartbeat_ms=20) as live, live.client() as client, live.client() as later:
        live.trade()
        await client.login(version=2)
        await client.subscribe(updates=True)
        await _summed(client)
        log.trouble = LogPrunedError("trouble")
        live.trade()
        assert await client.close_code() == close_codes.REPLAY_OVERTAKEN.code
        log.trouble = None
        await later.login(version=2)
        await later.subscribe(updates=True)
        live.trade()
        total = sum(position_checksum(position.text) for position in log.positions())
        while (beat := await _summed(later))["revision"] < log.head().revision:
            pass
        assert beat["checksum"] == f"{total % CHECKSUM_MODULUS:016x}"


async def test_a_mirror_receives_the_checksum_as_soon_as_it_is_available() -> None:
    """Without waiting for the next heartbeat."""
    async with running(heartbeat_ms=3_600_000) as live, live.client() as client:
        live.trade()
        await client.login(version=2)
        await client.subscribe(updates=True)
        assert (await _summed(client))["head"] == live.log.head().sequence


async def _summed(client: Client) -> dict[str, Any]:
    while "checksum" not in (frame := await client.receive()):
        pass
    return frame
