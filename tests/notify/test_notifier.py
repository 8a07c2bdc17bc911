"""A notifier between a server that fails on command and a target that does too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ptn_api.client import PTNWebSocketMessage, Stream
from ptn_api.client.testing import FakeServer, fake_order, fake_position, quick_timing
from ptn_api.notify.notifier import Notifier, NotifyOptions
from ptn_api.notify.targets import NotDeliveredError
from tests.waiting import until_async


class Chat:
    """A target that takes orders, or fails while `failure` is set."""

    is_limited = False

    def __init__(self) -> None:
        self.taken: list[list[int]] = []
        self.attempts = 0
        self.failure: NotDeliveredError | None = None
        self.closed = False

    async def send(self, messages: Sequence[PTNWebSocketMessage]) -> None:
        self.attempts += 1
        if self.failure is not None:
            raise self.failure
        self.taken.append([message.sequence for message in messages])

    async def send_test(self) -> None: ...

    async def close(self) -> None:
        self.closed = True

    @property
    def sequences(self) -> list[int]:
        return [sequence for group in self.taken for sequence in group]


class Running:
    def __init__(self, stream: Stream, task: asyncio.Task[None], said: list[str]) -> None:
        self.stream = stream
        self.task = task
        self.said = said


@asynccontextmanager
async def notifying(server: FakeServer, chat: Chat, folder: Path, **options: Any) -> AsyncIterator[Running]:
    said: list[str] = []
    more = {name: options.pop(name) for name in ("max_age_ms", "on_stale") if name in options}
    stream = Stream(
        server.url, server.api_key, state_dir=folder, timing=quick_timing(), format="delta", **more
    )
    chosen = NotifyOptions(**{"retry_first_s": 0.01, "retry_max_s": 0.02} | options)
    task = asyncio.create_task(Notifier(stream, chat, chosen, report=said.append).run())
    await asyncio.to_thread(server.wait_until_live)
    yield Running(stream, task, said)
    stream.stop()
    await task


async def test_every_order_is_delivered_in_order(tmp_path: Path) -> None:
    chat = Chat()
    async with FakeServer() as server, notifying(server, chat, tmp_path):
        await asyncio.to_thread(lambda: [server.order() for _ in range(5)])
        await until_async(lambda: len(chat.sequences) == 5)
    assert chat.sequences == [1, 2, 3, 4, 5]
    assert chat.closed


async def test_a_failure_is_retried_until_it_succeeds(tmp_path: Path) -> None:
    """Reported once when it begins, when its reason changes, and when it is over."""
    chat = Chat()
    async with FakeServer() as server, notifying(server, chat, tmp_path) as running:
        chat.failure = NotDeliveredError("status 503")
        await asyncio.to_thread(lambda: [server.order() for _ in range(3)])
        await until_async(lambda: chat.attempts > 3)
        chat.failure = NotDeliveredError("status 401")
        await until_async(lambda: len(running.said) == 2)
        chat.failure = None
        await until_async(lambda: chat.sequences == [1, 2, 3])
        assert running.said == [
            "not delivered: status 503; trying again until it succeeds",
            "not delivered: status 401; trying again until it succeeds",
            "delivered again",
        ]


async def test_what_was_not_delivered_comes_in_the_next_run(tmp_path: Path) -> None:
    """The cursor moves only after a delivery."""
    chat = Chat()
    async with FakeServer() as server:
        async with notifying(server, chat, tmp_path):
            await asyncio.to_thread(server.order)
            await until_async(lambda: chat.sequences == [1])
            chat.failure = NotDeliveredError("status 503")
            await asyncio.to_thread(lambda: [server.order() for _ in range(3)])
            await until_async(lambda: chat.attempts > 2)
        chat.failure = None
        async with notifying(server, chat, tmp_path):
            await until_async(lambda: chat.sequences == [1, 2, 3, 4])


async def test_retry_after_is_obeyed(tmp_path: Path) -> None:
    """A stop ends the wait at once."""
    chat = Chat()
    async with FakeServer() as server, notifying(server, chat, tmp_path):
        chat.failure = NotDeliveredError("status 429", retry_after_s=3600)
        await asyncio.to_thread(server.order)
        await until_async(lambda: chat.attempts == 1)
        chat.failure = None
        await asyncio.sleep(0.1)  # several times the longest delay without Retry-After
        assert chat.attempts == 1
    assert chat.taken == []


async def test_a_target_that_is_gone_ends_its_notifier(tmp_path: Path) -> None:
    chat = Chat()
    chat.failure = NotDeliveredError("status 410", gone=True)
    async with FakeServer() as server:
        with pytest.raises(NotDeliveredError, match="410"):
            async with notifying(server, chat, tmp_path) as running:
                await asyncio.to_thread(server.order)
                await asyncio.wait([running.task])
    assert chat.closed


async def test_many_orders_become_a_digest(tmp_path: Path) -> None:
    """At most `per_minute` messages; every order is in one of them, in order."""
    chat = Chat()
    chat.is_limited = True
    async with FakeServer() as server, notifying(server, chat, tmp_path, per_minute=3, window_s=1.0):
        await asyncio.to_thread(server.publish, *[position() for _ in range(40)])
        await until_async(lambda: len(chat.sequences) == 40)
        assert chat.taken[0] in ([1], [*range(1, 41)])
        assert len(chat.taken) <= 6
        assert any(len(group) > 10 for group in chat.taken)
    assert chat.sequences == list(range(1, 41))


async def test_orders_during_the_wait_are_summed_up_together(tmp_path: Path) -> None:
    """One digest per free place, although they came one by one."""
    chat = Chat()
    chat.is_limited = True
    async with FakeServer() as server, notifying(server, chat, tmp_path, per_minute=1, window_s=2.0):
        await asyncio.to_thread(server.order)
        await until_async(lambda: chat.taken == [[1]])
        await asyncio.to_thread(lambda: [server.order() for _ in range(10)])
        await until_async(lambda: len(chat.sequences) == 11)
        assert len(chat.taken) < 9


async def test_a_failed_digest_is_repeated_as_a_whole(tmp_path: Path) -> None:
    chat = Chat()
    chat.is_limited = True
    async with FakeServer() as server, notifying(server, chat, tmp_path, per_minute=1, window_s=0.05):
        chat.failure = NotDeliveredError("status 503")
        await asyncio.to_thread(server.publish, *[position() for _ in range(5)])
        await until_async(lambda: chat.attempts > 2)
        assert chat.taken == []
        chat.failure = None
        await until_async(lambda: len(chat.sequences) == 5)
    assert chat.sequences == [1, 2, 3, 4, 5]


async def test_small_orders_are_left_out_unless_they_close(tmp_path: Path) -> None:
    """By the absolute leverage; their places count as delivered."""
    chat = Chat()
    async with FakeServer() as server:
        async with notifying(server, chat, tmp_path, min_leverage=0.2):
            for leverage, kind in (
                (0.1, "LONG"),
                (-0.3, "SHORT"),
                (0.0, "FLAT"),
                (-0.1, "SHORT"),
                (0.2, "LONG"),
            ):
                await asyncio.to_thread(server.publish, position(leverage, kind))
            await until_async(lambda: len(chat.sequences) == 3)
        assert chat.sequences == [2, 3, 5]
        async with notifying(server, chat, tmp_path, min_leverage=0.0):
            await asyncio.to_thread(server.order)
            await until_async(lambda: len(chat.sequences) == 4)
    assert chat.sequences[-1] == 6


async def test_orders_that_grow_old_while_a_target_fails_are_skipped(tmp_path: Path) -> None:
    """With `max_age_ms`, and each is reported."""
    chat = Chat()
    stale: list[int] = []
    on_stale = lambda message: stale.append(message.sequence)  # noqa: E731
    options = {"max_age_ms": 400, "on_stale": on_stale}
    async with FakeServer() as server, notifying(server, chat, tmp_path, **options):
        chat.failure = NotDeliveredError("status 503")
        await asyncio.to_thread(server.order)
        await until_async(lambda: stale == [1])
        chat.failure = None
        await asyncio.to_thread(server.order)
        await until_async(lambda: chat.sequences == [2])


def position(leverage: float = 0.5, kind: str = "LONG") -> dict[str, Any]:
    order = fake_order(leverage or 0.1, 100.0)
    order |= {"leverage": leverage, "order_type": kind}
    return fake_position("BTCUSD", [order])
