"""No logger of any library prints a key, at any level, on either side of a connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import structlog

from ptn_api.client import AsyncPTNClient, PTNClient, Retries
from ptn_api.client.arguments import Timing
from ptn_api.client.stream import Stream
from ptn_api.client.testing import FakeServer
from ptn_api.errors import ClientError
from tests.answering import answering
from tests.client.other_server import OtherServer
from tests.stream.live import LiveStream, running
from tests.waiting import until_async

KEY = "key-that-nobody-may-see"


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every record of every logger that a program can reach, as text: all are at DEBUG."""
    lines: list[str] = []
    formatter = logging.Formatter("%(name)s %(levelname)s %(message)s %(args)s")

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(formatter.format(record))

    root, collector = logging.getLogger(), Collector()
    monkeypatch.setattr(logging.Logger, "isEnabledFor", lambda logger, level: level >= logger.level)
    monkeypatch.setattr(root, "level", logging.DEBUG)
    for name in list(logging.root.manager.loggerDict):
        logger = logging.getLogger(name)
        monkeypatch.setattr(logger, "level", logging.DEBUG)
        monkeypatch.setattr(logger, "propagate", True)
    root.addHandler(collector)
    with structlog.testing.capture_logs() as structured:
        yield lines
    root.removeHandler(collector)
    lines += map(str, structured)
    assert lines, "nothing was captured"
    assert not [line for line in lines if KEY in line]


@pytest.fixture
async def debugging() -> None:
    """Lets asyncio log every callback, with its arguments."""
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.0


async def _follow_one_order(url: str, timing: Timing, tmp_path: Path, trade: Any) -> None:
    async with Stream(url, KEY, timing=timing, state_dir=tmp_path) as stream:
        await until_async(lambda: stream.state == "live")
        trade()
        await anext(stream)


async def test_the_stream_at_our_server(
    log: list[str], debugging: None, timing: Timing, tmp_path: Path
) -> None:
    """Both sides run here."""
    live = LiveStream()
    live.keys.replace([("alice", KEY, 100)])
    async with running(live):
        await _follow_one_order(f"ws://127.0.0.1:{live.port}", timing, tmp_path, live.trade)
        async with live.client(
            additional_headers={"Authorization": KEY}, logger=logging.Logger("quiet", logging.CRITICAL)
        ) as client:
            assert (await client.receive())["status"] == "success"


async def test_the_stream_at_a_fake_server(
    log: list[str], debugging: None, timing: Timing, tmp_path: Path
) -> None:
    """Whose logins a test's author may want to see, but not the key in them."""
    with FakeServer() as server:
        server.keys = {KEY}
        await _follow_one_order(server.url, timing, tmp_path, server.order)


async def test_the_stream_where_the_key_is_refused(
    log: list[str], debugging: None, timing: Timing, tmp_path: Path
) -> None:
    """By our server or another; or nobody answers."""
    with FakeServer() as server, OtherServer("header") as other:
        for url in (server.url, other.url, "ws://127.0.0.1:1"):
            async with Stream(url, KEY, timing=timing, state_dir=tmp_path):
                await until_async(lambda url=url: any("retrying" in line and url in line for line in log))
    assert sum("login refused" in line for line in log) >= 2


async def test_an_address_with_a_login_or_parameters(log: list[str], timing: Timing, tmp_path: Path) -> None:
    """As of a proxy that asks for a password or a token: what is logged names the address without them."""
    shown = "ws://127.0.0.1:1/stream: no connection"
    for address in (f"ws://user:{KEY}@127.0.0.1:1/stream", f"ws://127.0.0.1:1/stream?token={KEY}"):
        before = len(log)
        async with Stream(address, "a-key", timing=timing, state_dir=tmp_path):
            await until_async(lambda n=before: any(shown in line for line in log[n:]), what=shown)


def _refuse(request: BaseHTTPRequestHandler) -> None:
    request.send_response(401 if request.path == "/me" else 500)
    request.send_header("content-length", "0")
    request.end_headers()


async def test_the_rest_clients(log: list[str], debugging: None) -> None:
    """Their library describes requests and answers at DEBUG."""
    retries = Retries(times=0)
    with answering(_refuse) as url:
        for address in (url, "http://127.0.0.1:1"):
            with PTNClient(address, KEY, retries=retries) as client:
                for call in (client.me, client.statistics):
                    with pytest.raises(ClientError) as raised:
                        await asyncio.to_thread(call)
                    assert KEY not in repr(raised.value)
            async with AsyncPTNClient(address, KEY, retries=retries) as async_client:
                with pytest.raises(ClientError):
                    await async_client.me()
    assert any(line.startswith("httpcore") for line in log)


def test_http_2_where_a_program_uses_it(log: list[str]) -> None:
    """Its library logs each header that it compresses; it is not among our dependencies."""
    with PTNClient("http://127.0.0.1:1", KEY):
        logger = logging.getLogger("hpack.hpack")
        logger.setLevel(logging.DEBUG)
        logger.debug("Adding %s to the header table", (b"authorization", KEY))
        logger.warning("something else")
    assert log == ["hpack.hpack WARNING something else ()"]
