"""Slow, excessive and malformed connections cost little and end soon. Under both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from ptn_api.event_log import Document
from ptn_api.http.connection import Connection
from tests.memory_log import MemoryLog
from tests.rest.serving import Served, document, filled_log, serving, some_changes
from tests.system.certificates import contexts
from tests.waiting import PATIENCE_S

Run = Callable[[Coroutine[Any, Any, None]], None]
KEY = "Authorization: Bearer k100\r\n"


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """The service's event loop (uvloop) and the standard one."""
    found: Run = request.param
    return found


@contextlib.asynccontextmanager
async def connected(
    served: Served, limit: int = 1 << 16
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=limit)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def everything(reader: asyncio.StreamReader) -> bytes:
    """Returns all bytes until the server closes the connection, or resets it because more was sent."""
    came = []
    with contextlib.suppress(ConnectionError):
        while chunk := await asyncio.wait_for(reader.read(1 << 20), PATIENCE_S):
            came.append(chunk)
    return b"".join(came)


async def one_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Has a request answered. After it, the time starts with the first byte of the next one.

    That of the first request starts with the connection, before a busy machine may have sent anything.
    """
    writer.write(f"GET /me HTTP/1.1\r\nHost: x\r\n{KEY}\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))


def error_of(response: bytes) -> tuple[int, str]:
    head, _, body = response.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    return int(head.split()[1]), json.loads(body)["code"]


def large_log(size: int = 30_000_000) -> MemoryLog:
    """A log with a document that no socket buffer holds."""
    log = filled_log(some_changes())
    log.append([document(Document.STATISTICS, {"data": [], "filler": "x" * size})], 0)
    return log


# --- requests that do not arrive --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"", None),
        (b"GET /me HTT", (408, "request_timeout")),
        (b"GET /me HTTP/1.1\r\nHost: x\r\nX-A: ", (408, "request_timeout")),
        (b"GET /me HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{", (408, "request_timeout")),
    ],
)
def test_a_request_must_come_in_time(run: Run, sent: bytes, expected: tuple[int, str] | None) -> None:
    """Nothing, half a head or half a body: the connection is closed after the timeout."""

    async def test() -> None:
        async with serving(header_timeout_ms=1_000) as served, connected(served) as (reader, writer):
            if sent:
                await one_answer(reader, writer)
            writer.write(sent)
            response = await everything(reader)
            assert (error_of(response) if response else None) == expected

    run(test())


def test_dripping_headers_do_not_extend_the_time(run: Run) -> None:
    """The time counts from the first byte, not from the last."""

    async def test() -> None:
        async with serving(header_timeout_ms=1_000) as served, connected(served) as (reader, writer):
            await one_answer(reader, writer)
            writer.write(b"GET /me HTTP/1.1\r\n")
            reading = asyncio.create_task(everything(reader))
            while not reading.done():
                with contextlib.suppress(ConnectionError):
                    writer.write(b"X-Drip: 1\r\n")
                await asyncio.sleep(0.02)
            assert error_of(reading.result())[0] == 408

    run(test())


def test_each_request_has_its_own_timeout(run: Run) -> None:
    """A kept-alive connection may idle between requests for longer than the timeout."""

    async def test() -> None:
        async with serving(header_timeout_ms=1_000) as served, connected(served) as (reader, writer):
            await one_answer(reader, writer)
            await asyncio.sleep(1.5)  # idle for longer than the timeout
            await one_answer(reader, writer)
            writer.write(b"GET /me")
            assert error_of(await everything(reader))[0] == 408

    run(test())


def test_the_queue_of_pipelined_requests_is_bounded(run: Run) -> None:
    """Parsed requests take a hundred times the memory of their bytes: 64 are queued, then an error."""

    async def test() -> None:
        one = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
        async with serving() as served, connected(served) as (reader, writer):
            writer.write(one * 100)
            responses = await everything(reader)
            assert responses.count(b"HTTP/1.1 200") == 64
            assert error_of(responses[responses.index(b"HTTP/1.1 400") :]) == (400, "bad_request")
        async with serving() as served, connected(served) as (reader, writer):
            writer.write(one * 50 + one.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            assert (await everything(reader)).count(b"HTTP/1.1 200") == 51

    run(test())


def test_pipelined_requests_are_answered_in_order(run: Run) -> None:
    """Several requests in one write, the last one closing the connection."""

    async def test() -> None:
        async with serving() as served, connected(served) as (reader, writer):
            plain = f"GET /me HTTP/1.1\r\nHost: x\r\n{KEY}\r\n"
            last = f"GET /eliminations HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{KEY}\r\n"
            writer.write((plain * 2 + last).encode())
            response = await everything(reader)
            assert response.count(b"HTTP/1.1 200 OK") == 3
            assert response.rindex(b"alias") < response.index(b'"eliminations"')

    run(test())


def test_pipelined_requests_are_answered_one_per_turn(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise, a few connections with many of them would hold up all other clients."""
    turns = []
    answer_line = Connection._answer_queue

    def turn(connection: Connection) -> None:
        turns.append(connection)
        answer_line(connection)

    monkeypatch.setattr(Connection, "_answer_queue", turn)

    async def test() -> None:
        async with serving() as served, connected(served) as (reader, writer):
            one = f"GET /me HTTP/1.1\r\nHost: x\r\n{KEY}\r\n"
            writer.write((one * 20 + one.replace("Host: x", "Host: x\r\nConnection: close")).encode())
            assert (await everything(reader)).count(b"HTTP/1.1 200") == 21

    run(test())
    assert len(turns) >= 21


def test_malformed_bytes_after_a_request_are_rejected_in_turn(run: Run) -> None:
    """Earlier requests are answered first; later bytes are ignored."""

    async def test() -> None:
        async with serving() as served, connected(served) as (reader, writer):
            plain = f"GET /miner-positions HTTP/1.1\r\nHost: x\r\nAccept-Encoding: zstd\r\n{KEY}\r\n".encode()
            writer.write(plain * 2 + b"nonsense\r\n\r\n" + plain)
            response = await everything(reader)
            assert [response.count(b"HTTP/1.1 %d" % status) for status in (200, 400)] == [2, 1]
            assert error_of(response[response.index(b"HTTP/1.1 400") :]) == (400, "bad_request")

    run(test())


def test_expect_100_continue(run: Run) -> None:
    """The client is told to send its body once earlier requests are answered."""

    async def test() -> None:
        async with serving() as served, connected(served) as (reader, writer):
            body = b'{"api_key": "k50"}'
            before = f"GET /miner-positions HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n{KEY}\r\n"
            head = f"GET /me HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\nContent-Length: {len(body)}\r\n"
            writer.write((before + head + "Connection: close\r\n\r\n").encode())
            response = await reader.readuntil(b"HTTP/1.1 100 Continue\r\n\r\n")
            assert response.startswith(b"HTTP/1.1 200 OK")
            writer.write(body)
            assert b'"alias":"user50"' in await everything(reader)

    run(test())


# --- requests too large or malformed ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_text", "expected"),
    [
        (f"GET /me?{'x' * 9000} HTTP/1.1\r\nHost: x\r\n{KEY}\r\n", (414, "uri_too_long")),
        (f"GET /me HTTP/1.1\r\nHost: x\r\nX: {'x' * 33_000}\r\n\r\n", (431, "headers_too_large")),
        ("GET /me HTTP/1.1\r\nHost: x\r\n" + "X: y\r\n" * 20_000, (431, "headers_too_large")),
        ("G" * 100_000, (400, "bad_request")),
        ("\x16\x03\x01\x02\x00\x01", (400, "bad_request")),
        ("GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n", (400, "bad_request")),
        ("GET /me HTTP/1.1\r\n\r\n", (400, "bad_request")),
        ("GET /me HTTP/2.0\r\nHost: x\r\n\r\n", (505, "version_not_supported")),
        ("GET ?x HTTP/1.1\r\nHost: x\r\n\r\n", (400, "bad_request")),
        ("CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", (400, "bad_request")),
        ("GET /me HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", (400, "bad_request")),
    ],
)
def test_malformed_and_oversized_requests(run: Run, request_text: str, expected: tuple[int, str]) -> None:
    """A JSON error, and the connection ends."""

    async def test() -> None:
        async with serving() as served, connected(served) as (reader, writer):
            writer.write(request_text.encode("latin-1"))
            assert error_of(await everything(reader)) == expected

    run(test())


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (f"GET /me HTTP/1.0\r\n{KEY}\r\n", 200),
        (f"GET http://x/me HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{KEY}\r\n", 200),
        ("GET /me HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization:  Bearer k100  \r\n\r\n", 200),
        ("GET /me HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer \r\n\r\n", 401),
        ("GET /me HTTP/1.1\r\nHost: x\r\nConnection: close, Upgrade\r\nUpgrade: websocket\r\n\r\n", 401),
        (
            "GET /me HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
            '13\r\n{"api_key": "k100"}\r\n0\r\n\r\n',
            200,
        ),
        (f"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{KEY}\r\n", 404),
    ],
)
def test_unusual_but_valid_requests(run: Run, request_text: str, status: int) -> None:
    """Old versions, absolute targets, white space, chunked bodies."""

    async def test() -> None:
        async with serving() as served, connected(served) as (reader, writer):
            writer.write(request_text.encode())
            assert int((await everything(reader)).split()[1]) == status

    run(test())


def test_a_large_body_is_not_read(run: Run) -> None:
    """401 as soon as the body exceeds what a key needs, regardless of its announced length."""

    async def test() -> None:
        async with serving() as served, connected(served) as (reader, writer):
            writer.write(b"GET /me HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * 5000)
            assert error_of(await everything(reader)) == (401, "unauthorized")

    run(test())


# --- input that is not read ------------------------------------------------------------------------------


def exchange_bytes(port: int, sent: bytes) -> bytes:
    """Sends everything, then reads until the server closes. Raises ConnectionError for a reset."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
        client.sendall(sent)
        received = []
        while chunk := client.recv(1 << 16):
            received.append(chunk)
    return b"".join(received)


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (b"POST /me HTTP/1.1\r\nHost: x\r\nContent-Length: 700000\r\n\r\n", (405, "method_not_allowed")),
        (
            b"GET /me HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\naae60\r\n",
            (401, "unauthorized"),
        ),
        (b"GET /me HTTP/1.1\r\nHost: x\r\nX: ", (431, "headers_too_large")),
        (b"nonsense\r\n", (400, "bad_request")),
    ],
)
def test_a_client_that_sends_on_receives_the_error(run: Run, start: bytes, expected: tuple[int, str]) -> None:
    """Without a reset, which would lose the response: what it sends is discarded."""

    async def test() -> None:
        async with serving() as served:
            received = await asyncio.to_thread(exchange_bytes, served.port, start + b"x" * 700_000)
            assert error_of(received) == expected

    run(test())


@pytest.mark.parametrize(("limit", "value"), [("_LINGER_S", 0.1), ("_LINGER_BYTES", 1_000)])
def test_a_client_that_sends_on_and_on_is_disconnected(
    run: Run, monkeypatch: pytest.MonkeyPatch, limit: str, value: float
) -> None:
    """After a while, or after too many bytes."""
    monkeypatch.setattr("ptn_api.http.connection._LINGER_S", 3_600)
    monkeypatch.setattr("ptn_api.http.connection._LINGER_BYTES", 1 << 40)
    monkeypatch.setattr(f"ptn_api.http.connection.{limit}", value)

    def send_on(port: int) -> None:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client,
            contextlib.suppress(ConnectionError),
        ):
            client.sendall(b"nonsense\r\n")
            while True:
                client.sendall(b"x" * 100)
                client.settimeout(0.01)
                with contextlib.suppress(TimeoutError):
                    client.recv(1 << 16)
                client.settimeout(PATIENCE_S)

    async def test() -> None:
        async with serving() as served:
            await asyncio.wait_for(asyncio.to_thread(send_on, served.port), PATIENCE_S)

    run(test())


def test_input_after_the_last_request_is_bounded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while a response is in progress: the server stops reading."""
    monkeypatch.setattr("ptn_api.http.connection._LINGER_BYTES", 100_000)
    received: list[int] = []
    data_received = Connection.data_received

    def counted(connection: Connection, data: bytes) -> None:
        received.append(len(data))
        data_received(connection, data)

    monkeypatch.setattr(Connection, "data_received", counted)

    async def test() -> None:
        async with serving(large_log()) as served, connected(served, limit=4096) as (reader, writer):
            await start_download(reader, writer)
            for _ in range(100):
                writer.write(b"x" * 100_000)
            while sum(received) <= 100_000:
                await asyncio.sleep(0.01)
            assert len(await everything(reader)) > 0

    run(test())
    assert sum(received) < 1_000_000


# --- responses that are not read --------------------------------------------------------------------------


async def start_download(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(f"GET /statistics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{KEY}\r\n".encode())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")


def test_a_client_that_stops_reading_is_disconnected(run: Run) -> None:
    """After the rate's window, while other clients are served."""

    async def test() -> None:
        async with (
            serving(large_log(), minimum_rate=100_000_000, rate_window_ms=100) as served,
            connected(served, limit=4096) as (reader, writer),
        ):
            await start_download(reader, writer)
            assert (await served.get("/me")).status_code == 200
            await asyncio.sleep(0.5)  # five windows without reading
            assert len(await everything(reader)) < 30_000_000

    run(test())


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize(("minimum_rate", "factor"), [(20_000, 100), (200_000, 0.2)])
def test_what_the_systems_buffers_hide_is_measured(
    run: Run, tmp_path: Path, encrypted: bool, minimum_rate: int, factor: float
) -> None:
    """Both systems take megabytes at once and then nothing for several windows. Only the rate counts."""
    trust, tls = contexts(tmp_path / "tls") if encrypted else (None, None)

    def read_steadily(port: int) -> int:
        """Returns the bytes read until the connection ends, at most 2 MB."""
        with socket.socket() as plain:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            plain.connect(("127.0.0.1", port))
            client = plain if trust is None else trust.wrap_socket(plain, server_hostname="localhost")
            with client, contextlib.suppress(ConnectionError, ssl.SSLError):
                client.sendall(f"GET /statistics HTTP/1.1\r\nHost: x\r\n{KEY}\r\n".encode())
                received, began = 0, time.monotonic()
                while received < 2_000_000 and (chunk := client.recv(5_000)):
                    received += len(chunk)
                    time.sleep(max(0, began + received / (factor * minimum_rate) - time.monotonic()))
        return received

    async def test() -> None:
        async with serving(large_log(), tls=tls, minimum_rate=minimum_rate, rate_window_ms=100) as served:
            received = await asyncio.to_thread(read_steadily, served.port)
            assert (received >= 2_000_000) == (factor > 1)

    run(test())


def test_a_client_that_reads_slowly_but_steadily_gets_all(run: Run) -> None:
    """Far above the minimum rate, far below what the socket could do: several windows long."""

    async def test() -> None:
        async with (
            serving(large_log(), minimum_rate=1_000, rate_window_ms=500) as served,
            connected(served, limit=65_536) as (reader, writer),
        ):
            await start_download(reader, writer)
            received = 0
            while chunk := await reader.read(1_000_000):
                received += len(chunk)
                await asyncio.sleep(0.005)
            assert received > 30_000_000

    run(test())


def test_a_slow_client_may_send_more_requests(run: Run) -> None:
    """They are answered in turn, once it has read the responses before them."""

    async def test() -> None:
        large, small = (f"GET {path} HTTP/1.1\r\nHost: x\r\n{KEY}" for path in ("/statistics", "/me"))
        async with (
            serving(large_log(3_000_000), minimum_rate=1_000) as served,
            connected(served, limit=4096) as (reader, writer),
        ):
            writer.write(f"{large}\r\n{large}\r\n{small}\r\n".encode())
            assert (await served.get("/me")).status_code == 200
            writer.write(f"{large}\r\n{small}\r\n{small}Connection: close\r\n\r\n".encode())
            kinds = []
            while head := await reader.read(15):
                head += await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                kinds.append((await reader.readexactly(length))[:8])
            assert [kind == b'{"data":' for kind in kinds] == [True, True, False, True, False, False]

    run(test())


def test_without_a_minimum_rate_no_client_is_disconnected(run: Run) -> None:
    """0 means none."""

    async def test() -> None:
        async with (
            serving(large_log(), minimum_rate=0, rate_window_ms=20) as served,
            connected(served, limit=4096) as (reader, writer),
        ):
            await start_download(reader, writer)
            await asyncio.sleep(0.3)  # fifteen windows
            assert len(await everything(reader)) > 30_000_000

    run(test())


# --- stopping ---------------------------------------------------------------------------------------------


def test_a_download_in_progress_is_finished_when_the_server_stops(run: Run) -> None:
    """Stopping waits for it; idle connections are closed at once, new ones are not accepted."""

    async def test() -> None:
        async with (
            serving(large_log(), stop_timeout_ms=20_000) as served,
            connected(served, limit=4096) as (reader, writer),
        ):
            resting, idle = await asyncio.open_connection("127.0.0.1", served.port)
            await start_download(reader, writer)
            stopping = asyncio.create_task(served.stopped())
            assert await everything(resting) == b""
            idle.close()
            with pytest.raises(OSError):
                await asyncio.open_connection("127.0.0.1", served.port)
            assert len(await everything(reader)) > 30_000_000
            await stopping

    run(test())


def test_a_client_that_does_not_read_delays_stopping_until_the_timeout(run: Run) -> None:
    """Then it is disconnected."""

    async def test() -> None:
        async with (
            serving(large_log(), minimum_rate=0, stop_timeout_ms=200) as served,
            connected(served, limit=4096) as (reader, writer),
        ):
            await start_download(reader, writer)
            await served.stopped()
            assert len(await everything(reader)) < 30_000_000

    run(test())


def test_an_idle_connection_is_closed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a response, once no further request has come for the keep-alive time."""
    monkeypatch.setattr("ptn_api.http.connection._KEEP_ALIVE_S", 0.1)

    async def test() -> None:
        async with serving() as served, connected(served) as (reader, writer):
            writer.write(f"GET /me HTTP/1.1\r\nHost: x\r\n{KEY}\r\n".encode())
            assert (await everything(reader)).startswith(b"HTTP/1.1 200 OK")

    run(test())
