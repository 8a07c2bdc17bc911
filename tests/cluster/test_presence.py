"""What passes between the machines of a cluster about their users, over a broker in memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog

from ptn_api.cluster.presence import MOST_UNSENT, PresenceRelay
from tests.cluster.memory_broker import MemoryBroker
from tests.waiting import until_async

Heard = list[tuple[str, bytes | None]]


@contextlib.asynccontextmanager
async def machines(
    *names: str,
) -> AsyncIterator[tuple[MemoryBroker, dict[str, PresenceRelay], dict[str, Heard]]]:
    """Relays of machines, and what each has passed on."""
    broker, heard = MemoryBroker(), {name: Heard() for name in names}
    relays = {
        name: PresenceRelay(broker, name, lambda peer, update, name=name: heard[name].append((peer, update)))
        for name in names
    }
    tasks = [asyncio.create_task(relay.run()) for relay in relays.values()]
    await asyncio.sleep(0)  # all listen
    yield broker, relays, heard
    for task in tasks:
        task.cancel()


async def test_messages_reach_the_other_machines() -> None:
    """In their order, and not the sender itself."""
    async with machines("a", "b", "c") as (_, relays, heard):
        sent: Heard = [("a/stream-1", b'{"users":%d}' % n) for n in range(50)] + [("a/stream-1", None)]
        for peer, update in sent:
            relays["a"].send(peer, update)
        await until_async(lambda: heard["b"] == heard["c"] == sent)
        assert heard["a"] == []


async def test_a_message_is_one_line() -> None:
    """Whatever another machine sends; what cannot be read is skipped, and the next one counts."""
    async with machines("a") as (broker, _, heard):
        with structlog.testing.capture_logs() as logs:
            deep = b'{"peer":"b/stream","update":' + b"[" * 10_000 + b"]" * 10_000 + b"}"
            for nonsense in (b"", b"{}", b'{"peer":7}', b'{"peer":"b/stream","update":{\n', deep):
                broker.send_presence(nonsense)
            broker.send_presence(b'{"peer": "b/stream",\n "update": {"whole":\n\ttrue}}')
            await until_async(lambda: heard["a"])
        assert heard["a"] == [("b/stream", b'{"whole":true}')]
        assert [line["event"] for line in logs] == ["presence_malformed"] * 5


async def test_a_machine_that_stops_is_gone_at_once() -> None:
    """Also if its processes send more while they stop."""
    async with machines("a", "b") as (_, relays, heard):
        for name in ("stream-1", "stream-2"):
            relays["a"].send(f"a/{name}", b"{}")
        relays["a"].send("a/stream-2", None)
        await until_async(lambda: len(heard["b"]) == 3)
        relays["a"].leave()
        relays["a"].send("a/stream-1", b"{}")
        await until_async(lambda: len(heard["b"]) == 4)
        relays["b"].send("b/stream", b"{}")
        await until_async(lambda: heard["a"])
        assert heard["b"][-2:] == [("a/stream-2", None), ("a/stream-1", None)]


async def test_unsent_messages_are_bounded() -> None:
    """The newest are dropped, and made up for by the next table."""
    async with machines("a", "b") as (_, relays, heard):
        for n in range(MOST_UNSENT + 10):
            relays["a"].send("a/stream", b"%d" % n)
        await until_async(lambda: len(heard["b"]) == MOST_UNSENT)
        relays["a"].send("a/stream", b"{}")
        await until_async(lambda: heard["b"][-1] == ("a/stream", b"{}"))
        assert heard["b"][-2] == ("a/stream", b"%d" % (MOST_UNSENT - 1))
