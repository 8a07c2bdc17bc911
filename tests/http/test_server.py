"""Any handler can be served: one that answers at once, waits, fails or is cancelled. Under both loops."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop

from ptn_api.http.body import StreamedBody, body_of
from ptn_api.http.connection import Connection
from ptn_api.http.connection_limit import ConnectionLimit
from ptn_api.http.errors import HTTPError
from ptn_api.http.request import ConnectionInfo, Limits
from ptn_api.http.response import Exchange, Response
from ptn_api.http.server import Server
from tests.waiting import PATIENCE_S

Run = Callable[[Coroutine[Any, Any, None]], None]
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    found: Run = request.param
    return found


class FakeHandler:
    """Responds with what `work` returns; without one, at once."""

    def __init__(self, work: Callable[[], Awaitable[bytes]] | None = None) -> None:
        self.work = work
        self.log: list[tuple[int, int]] = []
        """(status, sent bytes) of each finished exchange."""

    def handle(self, exchange: Exchange) -> Coroutine[Any, Any, None] | None:
        if self.work is not None:
            return self._respond(exchange, self.work)
        exchange.respond(Response(body_of(b"done")), private=False, store=True)
        return None

    async def _respond(self, exchange: Exchange, work: Callable[[], Awaitable[bytes]]) -> None:
        exchange.respond(Response(body_of(await work())), private=False, store=True)

    def finished(self, exchange: Exchange) -> None:
        self.log.append((exchange.status, exchange.sent_bytes))


class OpenLimiter:
    """Admits every connection, or rejects every one with an error."""

    def __init__(self, error: HTTPError | None = None) -> None:
        self.error = error
        self.reasons: list[str] = []
        self.causes: list[str] = []

    def opened(self, connection: ConnectionInfo) -> HTTPError | None:
        return self.error

    def refused(self, connection: ConnectionInfo, cause: str) -> None:
        self.causes.append(cause)

    def closed(self, connection: ConnectionInfo, reason: str) -> None:
        self.reasons.append(reason)


@contextlib.asynccontextmanager
async def serving(
    handler: FakeHandler, limiter: OpenLimiter | None = None, **limits: int
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server with this handler."""
    connections: ConnectionLimit[Connection] = ConnectionLimit(10, lambda: None)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        server = Server(
            handler,
            sock,
            Limits(**limits),
            limiter=limiter or OpenLimiter(),
            connections=connections,
            drain_ms=100,
        )
        async with server:
            reader, writer = await asyncio.open_connection(*sock.getsockname())
            try:
                yield reader, writer
            finally:
                writer.close()


async def wait_for_timeout() -> bytes:
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), 0.01)
    return b"done"


async def timeout_context() -> bytes:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()
    return b"done"


async def task_group() -> bytes:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(asyncio.sleep(0, b"done"))
    return task.result()


async def current_task() -> bytes:
    assert asyncio.current_task() is not None
    return b"done"


def test_no_write_waits_for_an_acknowledgement(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A response's head and body may be two writes, and the second would wait 40 ms."""
    options = []
    made = Connection.connection_made

    def connection_made(connection: Connection, transport: asyncio.BaseTransport) -> None:
        sock = transport.get_extra_info("socket")
        options.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0)
        made(connection, transport)

    async def check() -> None:
        async with serving(FakeHandler()) as (reader, writer):
            writer.write(LAST)
            await reader.read()

    monkeypatch.setattr(Connection, "connection_made", connection_made)
    run(check())
    assert options == [True]


@pytest.mark.parametrize("work", [wait_for_timeout, timeout_context, task_group, current_task])
def test_a_handler_may_use_all_of_asyncio(run: Run, work: Callable[[], Awaitable[bytes]]) -> None:
    """From its first line it runs in a task: timeouts and task groups need one."""
    needed = {timeout_context: "timeout", task_group: "TaskGroup"}.get(work, "sleep")
    if not hasattr(asyncio, needed):
        pytest.skip(f"asyncio.{needed} is of Python 3.11")

    async def test() -> None:
        handler = FakeHandler(work)
        async with serving(handler) as (reader, writer):
            writer.write(GET + LAST)
            received = await asyncio.wait_for(reader.read(), PATIENCE_S)
        assert received.count(b"HTTP/1.1 200 OK") == received.count(b"\r\n\r\ndone") == 2
        assert handler.log == [(200, 4), (200, 4)]

    run(test())


def test_an_answer_at_once_needs_no_task(run: Run) -> None:
    """Requests that arrive together are answered in one turn of the event loop."""

    async def test() -> None:
        handler = FakeHandler()
        async with serving(handler) as (reader, writer):
            tasks = len(asyncio.all_tasks())
            writer.write(GET * 3)
            await asyncio.wait_for(reader.readuntil(b"done"), PATIENCE_S)
            assert len(handler.log) == 3
            assert len(asyncio.all_tasks()) <= tasks

    run(test())


def test_an_exception_in_a_handler_ends_the_connection(run: Run) -> None:
    """Handlers respond to their own errors; one that does not must not leave the client waiting."""

    async def failing() -> bytes:
        raise ValueError

    async def test() -> None:
        handler = FakeHandler(failing)
        async with serving(handler) as (reader, writer):
            writer.write(GET)
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
            assert handler.log == [(0, 0)]

    run(test())


def test_a_client_that_disconnects_cancels_the_handler(run: Run) -> None:
    """And the exchange is counted as unanswered."""

    async def test() -> None:
        started, cancelled = asyncio.Event(), asyncio.Event()

        async def waiting() -> bytes:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            return b""

        handler = FakeHandler(waiting)
        async with serving(handler) as (_, writer):
            writer.write(GET)
            await asyncio.wait_for(started.wait(), PATIENCE_S)
            writer.transport.abort()
            await asyncio.wait_for(cancelled.wait(), PATIENCE_S)
            while not handler.log:
                await asyncio.sleep(0)
        assert handler.log == [(0, 0)]

    run(test())


@pytest.mark.parametrize("sent", [b"", GET])
def test_a_rejected_connection_receives_the_error_and_ends(run: Run, sent: bytes) -> None:
    """When its request arrives; a silent client after the timeout."""

    async def test() -> None:
        limiter = OpenLimiter(HTTPError("too_many_connections", "Too many connections"))
        handler = FakeHandler()
        async with serving(handler, limiter, request_ms=100) as (reader, writer):
            writer.write(sent)
            received = await asyncio.wait_for(reader.read(), PATIENCE_S)
        assert received.startswith(b"HTTP/1.1 429")
        assert b"connection: close" in received
        assert handler.log == []
        assert limiter.reasons == ["Too many connections"]

    run(test())


class HeldWork:
    """A handler's work that waits until the test releases it."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.released = asyncio.Event()

    async def __call__(self) -> bytes:
        self.started.set()
        await self.released.wait()
        return b"done"

    async def once(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Has one request answered. After it, the time starts with the first byte of the next one."""
        self.released.set()
        writer.write(GET)
        await reader.readuntil(b"done")
        self.started.clear()
        self.released.clear()


def test_a_request_is_not_timed_while_the_server_does_not_read(run: Run) -> None:
    """The third of three pipelined requests comes at once, but is read after a response that takes longer."""

    async def test() -> None:
        work = HeldWork()
        async with serving(FakeHandler(work), request_ms=100) as (reader, writer):
            await work.once(reader, writer)
            writer.write(GET * 2 + LAST[:20])
            await asyncio.wait_for(work.started.wait(), PATIENCE_S)
            writer.write(LAST[20:])
            await asyncio.sleep(0.3)  # three timeouts
            work.released.set()
            received = await asyncio.wait_for(reader.read(), PATIENCE_S)
        assert received.count(b"HTTP/1.1 200 OK") == received.count(b"HTTP/1.1") == 3

    run(test())


def test_after_a_pause_a_request_must_come_in_time_again(run: Run) -> None:
    """The timeout starts when the server reads on."""

    async def test() -> None:
        work = HeldWork()
        async with serving(FakeHandler(work), request_ms=100) as (reader, writer):
            await work.once(reader, writer)
            writer.write(GET * 2 + LAST[:20])
            await asyncio.wait_for(work.started.wait(), PATIENCE_S)
            work.released.set()
            received = await asyncio.wait_for(reader.read(), PATIENCE_S)
        assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"200", b"408"]

    run(test())


def test_a_body_is_asked_for_after_the_response_in_progress(run: Run) -> None:
    """`100 Continue` is no part of that response, and the client may wait for it beyond the timeout."""

    async def test() -> None:
        work = HeldWork()
        head = LAST[:-2] + b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        async with serving(FakeHandler(work), request_ms=1_000) as (reader, writer):
            await work.once(reader, writer)
            writer.write(GET)
            await asyncio.wait_for(work.started.wait(), PATIENCE_S)
            writer.write(head)
            await asyncio.sleep(1.5)  # longer than the timeout
            work.released.set()
            before = await asyncio.wait_for(reader.readuntil(b"100 Continue\r\n\r\n"), PATIENCE_S)
            assert before.startswith(b"HTTP/1.1 200 OK")
            assert before.endswith(b"doneHTTP/1.1 100 Continue\r\n\r\n")
            writer.write(b"body")
            assert (await asyncio.wait_for(reader.read(), PATIENCE_S)).startswith(b"HTTP/1.1 200 OK")

    run(test())


class StreamingHandler(FakeHandler):
    """Responds with a body of a thousand parts, made while it is sent."""

    made = 0
    part = bytes(range(256)) * 256

    def parts(self) -> Iterator[bytes]:
        for _ in range(1_000):
            self.made += len(self.part)
            yield self.part

    def handle(self, exchange: Exchange) -> Coroutine[Any, Any, None] | None:
        body = StreamedBody(self.parts, 1_000 * len(self.part), "tag")
        exchange.respond(Response(body), private=False, store=True)
        return None


def test_a_streamed_body_is_made_no_faster_than_it_is_read(run: Run) -> None:
    """What is made and not read yet is in the sockets' buffers, however long the body."""

    async def main() -> None:
        handler = StreamingHandler()
        async with serving(handler) as (reader, writer):
            writer.write(LAST)
            await reader.readuntil(b"\r\n\r\n")
            received = 0
            while part := await reader.read(65_536):
                received += len(part)
                assert handler.made - received < 32 << 20
            assert received == 1_000 * len(handler.part)
        assert handler.log == [(200, received)]

    run(main())


def test_a_streamed_body_that_fails_is_cut_off(run: Run) -> None:
    """The client sees a body without its end."""

    class Failing(StreamingHandler):
        def parts(self) -> Iterator[bytes]:
            yield b"begun" * 100_000
            raise ValueError

    async def main() -> None:
        async with serving(Failing()) as (reader, writer):
            writer.write(LAST.replace(b"Host", b"Accept-Encoding: gzip\r\nHost"))
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"transfer-encoding: chunked" in head
            with contextlib.suppress(ConnectionError):
                assert not (await reader.read()).endswith(b"0\r\n\r\n")

    run(main())


@pytest.mark.parametrize(
    ("sent", "cause"),
    [
        (b"nonsense\r\n\r\n", "bad_request"),
        (b"GET /" + b"x" * 9_000, "uri_too_long"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 40_000, "headers_too_large"),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", "version_not_supported"),
        (b"GET / HTTP/1.1\r\n", "request_timeout"),
    ],
)
async def test_input_that_is_not_a_request_is_counted_by_its_cause(sent: bytes, cause: str) -> None:
    """No handler sees it."""
    limiter = OpenLimiter()
    async with serving(FakeHandler(), limiter, request_ms=1_000) as (reader, writer):
        writer.write(GET)  # the time of the next one starts with its first byte
        await reader.readuntil(b"done")
        writer.write(sent)
        assert cause.encode() in await asyncio.wait_for(reader.read(), PATIENCE_S)
    assert limiter.causes == [cause]
