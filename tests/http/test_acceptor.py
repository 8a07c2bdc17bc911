"""Connections are accepted as long as there are files for them; then they wait, and nothing else fails."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import aiofastnet
import pytest
import structlog
import uvloop

from ptn_api.http import acceptor as module
from ptn_api.http.acceptor import Acceptor, AcceptPauses
from tests.system.certificates import contexts
from tests.waiting import PATIENCE_S, until_async

Run = Callable[[Coroutine[Any, Any, None]], None]
MOST = 5
RESERVE = 16


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    found: Run = request.param
    return found


@pytest.fixture(autouse=True)
def short_periods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY_S", 0.01)
    monkeypatch.setattr(module, "_LASTING_S", 0.05)


@contextlib.contextmanager
def file_limit(files: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Accepting:
    """An acceptor and its connections, of which `evictable` many may be closed to make room."""

    def __init__(self, *, fast: bool = False, tls: ssl.SSLContext | None = None) -> None:
        self.open: list[asyncio.Transport] = []
        self.accepted = 0
        self.evictable = 0
        self.pauses = AcceptPauses()
        self.closes_when_made = False
        self.closing: asyncio.Task[None] | None = None
        self._fast = fast
        self._tls = tls

    @contextlib.asynccontextmanager
    async def running(self, most: int = MOST) -> AsyncIterator[int]:
        """Yields the port."""
        loop = asyncio.get_running_loop()
        connect = (
            partial(aiofastnet.connect_accepted_socket, loop) if self._fast else loop.connect_accepted_socket
        )
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.acceptor = Acceptor(
                sock,
                partial(connect, lambda: _Protocol(self), ssl=self._tls),
                make_room=self._make_room,
                pauses=self.pauses,
                tls=self._tls is not None,
            )
            with file_limit(len(os.listdir("/dev/fd")) + RESERVE + most):
                self.acceptor.start()
            yield sock.getsockname()[1]
            await (self.closing or self.acceptor.close())
            for transport in self.open:
                transport.abort()
            await until_async(lambda: not self.open)

    def _make_room(self) -> bool:
        if not (self.evictable and self.open):
            return False
        self.evictable -= 1
        self.open[0].abort()
        return True


class _Protocol(asyncio.Protocol):
    def __init__(self, accepting: Accepting) -> None:
        self._accepting = accepting

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # aiofastnet's is of another class
        self._accepting.accepted += 1
        self._accepting.open.append(self._transport)
        if self._accepting.closes_when_made:
            self._accepting.closing = asyncio.create_task(self._accepting.acceptor.close())

    def connection_lost(self, exc: Exception | None) -> None:
        self._accepting.open.remove(self._transport)


@contextlib.contextmanager
def clients(port: int, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S))
            for _ in range(count)
        ]


@pytest.mark.parametrize("fast", [False, True], ids=["transports of the loop", "aiofastnet"])
def test_connections_beyond_the_limit_wait_for_others_to_close(run: Run, fast: bool) -> None:
    """Not one too many; one line in the log, and a problem while it lasts."""

    async def test() -> None:
        accepting = Accepting(fast=fast)
        with structlog.testing.capture_logs() as logged:
            async with accepting.running() as port:
                with clients(port, MOST) as first, clients(port, MOST) as second:
                    await until_async(lambda: accepting.pauses.lasting)
                    assert len(accepting.open) == accepting.accepted == MOST
                    first[0].close()
                    await until_async(lambda: accepting.accepted == MOST + 1)
                    await until_async(lambda: accepting.pauses.total_s > 0.2)
                    assert accepting.pauses.lasting
                    for client in first[1:]:
                        client.close()
                    second[0].close()
                    await until_async(lambda: accepting.accepted == 2 * MOST)
                    await until_async(lambda: not accepting.pauses.lasting)
        assert [line["event"] for line in logged] == ["accept_paused"]

    run(test())


def test_a_connection_that_may_be_closed_makes_room(run: Run) -> None:
    """Then no connection has to wait."""

    async def test() -> None:
        accepting = Accepting()
        accepting.evictable = 100
        async with accepting.running() as port:
            with clients(port, 4 * MOST):
                await until_async(lambda: accepting.accepted == 4 * MOST)
                assert len(accepting.open) <= MOST
        assert accepting.pauses.total_s == 0

    run(test())


def test_a_connection_that_is_made_while_accepting_ends_is_told_of_its_end(run: Run) -> None:
    """uvloop closes it silently if its accept is cancelled at that moment; a stop would wait forever."""

    async def test() -> None:
        accepting = Accepting()
        accepting.closes_when_made = True
        async with accepting.running() as port:
            with clients(port, 1):
                await until_async(lambda: accepting.closing is not None and accepting.closing.done())
                accepting.open[0].abort()
                await until_async(lambda: not accepting.open)

    run(test())


def test_clients_that_stop_waiting_end_the_pause(run: Run) -> None:
    async def test() -> None:
        accepting = Accepting()
        async with accepting.running() as port:
            with clients(port, MOST):
                with clients(port, 1):
                    await until_async(lambda: accepting.pauses.lasting)
                accepting.evictable = 1  # to accept the one that has gone
                await until_async(lambda: not accepting.pauses.lasting)
                assert len(accepting.open) <= MOST

    run(test())


def test_files_that_run_out_for_another_reason(run: Run) -> None:
    """The process opens more of them itself: accepting waits, and goes on once there are some."""

    async def test() -> None:
        accepting = Accepting()
        errors: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        with structlog.testing.capture_logs() as logged:
            async with accepting.running() as port:
                client = socket.socket()
                client.setblocking(False)
                lowest_free = os.dup(0)
                os.close(lowest_free)
                with file_limit(lowest_free), contextlib.closing(client):
                    with contextlib.suppress(BlockingIOError):
                        client.connect(("127.0.0.1", port))
                    await until_async(lambda: accepting.pauses.lasting)
                    assert accepting.accepted == 0
                with clients(port, 1):
                    await until_async(lambda: accepting.accepted >= 1)
                    await until_async(lambda: not accepting.pauses.lasting)
        assert [line["reason"] for line in logged] == ["Too many open files"]
        assert errors == []

    run(test())


def test_unfinished_handshakes_count_and_evict_each_other(run: Run, tmp_path: Path) -> None:
    """The oldest goes first; established connections stay, and a client that speaks TLS gets in."""
    trust, tls = contexts(tmp_path / "tls")

    async def test() -> None:
        accepting = Accepting(tls=tls)
        errors: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        with structlog.testing.capture_logs() as logged:
            async with accepting.running() as port:
                _, early = await asyncio.open_connection("localhost", port, ssl=trust)
                await until_async(lambda: accepting.accepted == 1)
                for n in range(3):
                    with clients(port, 2 * MOST) as silent:
                        _, late = await asyncio.open_connection("localhost", port, ssl=trust)
                        await until_async(lambda n=n: accepting.accepted == 2 + n)  # type: ignore[misc]
                        assert await asyncio.to_thread(silent[0].recv, 1) == b""
                        late.close()
                        await late.wait_closed()
                assert accepting.accepted == 4
                assert not early.is_closing()
                early.close()
        assert [line for line in logged if line["log_level"] != "debug"] == []
        assert errors == []
        assert accepting.pauses.total_s == 0
        assert accepting.pauses.handshakes["evicted"] >= 3

    run(test())
