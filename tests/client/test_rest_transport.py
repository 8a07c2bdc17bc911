"""The REST clients over real connections: processes, event loops, bodies without a length, long queries."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import multiprocessing
import pickle
import shutil
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop

from ptn_api.client.rest import AsyncPTNClient, PTNClient, Retries
from ptn_api.errors import ClientError, ServerUnreachableError, SettingsError
from tests.answering import answering
from tests.factories import order, position, written
from tests.ports import reserved_ports
from tests.rest.serving import HOUR, NOW, filled_log, serving
from tests.system.certificates import certificates
from tests.system.nginx import NGINX, run_nginx

ONCE = Retries(times=0)
CHECKPOINT = json.dumps({"positions": {f"5Miner{n}": {"positions": []} for n in range(2_000)}}).encode()


def named_after_path(handler: BaseHTTPRequestHandler) -> None:
    """Answers with the requested hotkey as a position's, over a connection that is kept."""
    hotkey = handler.path.rpartition("/")[2]
    body = json.dumps({"positions": [position(1, [order(1)], miner=hotkey)]}).encode()
    handler.send_response(200)
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def ask(api: PTNClient, hotkey: str, times: int = 100) -> set[str]:
    return {api.miner(hotkey).positions[0].miner_hotkey for _ in range(times)}


# --- processes and event loops ----------------------------------------------------------------------------


def in_children(api: PTNClient, hotkeys: list[str], times: int = 100) -> list[set[str]]:
    """What forked processes read, while this one reads too."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()

    def run(hotkey: str) -> None:
        results.put((hotkey, ask(api, hotkey, times)))

    children = [context.Process(target=run, args=(hotkey,)) for hotkey in hotkeys]
    for child in children:
        child.start()
    assert ask(api, "parent", times) == {"parent"}
    read = dict(results.get() for _ in children)
    for child in children:
        child.join()
        assert child.exitcode == 0
    return [read[hotkey] for hotkey in hotkeys]


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process_does_not_share_its_parents_connections() -> None:
    """As under `gunicorn --preload`: each would read the other's responses, with status 200."""
    with answering(named_after_path) as url, PTNClient(url, "k") as api:
        assert ask(api, "before") == {"before"}
        assert in_children(api, ["first", "second"]) == [{"first"}, {"second"}]
        assert ask(api, "after") == {"after"}


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_locks_are_not_inherited() -> None:
    """Threads that hold them at the time of the fork do not exist in the child."""
    stop = threading.Event()

    def poll(api: PTNClient) -> None:
        while not stop.is_set():
            api.miner("thread")

    with answering(named_after_path) as url, PTNClient(url, "k") as api:
        threads = [threading.Thread(target=poll, args=(api,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(3):
                assert in_children(api, ["child"], times=10) == [{"child"}]
        finally:
            stop.set()
            for thread in threads:
                thread.join()


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_transport_of_the_parents_is_refused_in_the_child() -> None:
    """Its connections cannot be told apart from the parent's."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    with (
        answering(named_after_path) as url,
        PTNClient(url, "k", transport=httpx.HTTPTransport(retries=1)) as api,
    ):
        api.miner("before")

        def run() -> None:
            try:
                api.miner("child")
            except ClientError as error:
                results.put(error.code)

        child = context.Process(target=run)
        child.start()
        assert results.get() == "other_process"
        child.join()


def test_an_asynchronous_client_in_several_event_loops() -> None:
    """One after the other, and in two threads at once; each loop has connections of its own."""
    with answering(named_after_path) as url:
        api = AsyncPTNClient(url, "k")

        async def read(hotkey: str) -> str:
            return (await api.miner(hotkey)).positions[0].miner_hotkey

        async def read_and_close(hotkey: str) -> str:
            try:
                return await read(hotkey)
            finally:
                await api.close()

        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(read("first")) == "first"
        assert asyncio.run(read_and_close("second")) == "second"
        found: list[str] = []
        thread = threading.Thread(target=lambda: found.append(asyncio.run(read_and_close("third"))))
        thread.start()
        assert loop.run_until_complete(read("fourth")) == "fourth"
        thread.join()
        assert found == ["third"]
        loop.run_until_complete(api.close())
        loop.close()


def test_results_survive_pickling() -> None:
    """So that process pools can return them."""
    with answering(named_after_path) as url, PTNClient(url, "k") as api:
        entry = api.miner("5A")
    assert pickle.loads(pickle.dumps(entry)) == entry


# --- bodies that end early --------------------------------------------------------------------------------


def half(
    coding: str, *, length: bool = False, chunked: bool = False
) -> Callable[[BaseHTTPRequestHandler], None]:
    """Sends half a checkpoint."""
    body = gzip.compress(CHECKPOINT) if coding == "gzip" else CHECKPOINT

    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("content-type", "application/json")
        if coding != "identity":
            handler.send_header("content-encoding", coding)
        if length:
            handler.send_header("content-length", str(len(body)))
        if chunked:
            handler.send_header("transfer-encoding", "chunked")
        handler.end_headers()
        part = body[: len(body) // 2]
        handler.wfile.write(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
        handler.close_connection = True

    return respond


def check_refused(url: str, folder: Path, **options: Any) -> None:
    target = folder / "checkpoint.json"
    target.write_text("before")
    with PTNClient(url, "k", retries=ONCE, **options) as api:
        for ask_for in (lambda: api.validator_checkpoint(target), api.validator_checkpoint):
            with pytest.raises(ServerUnreachableError):
                ask_for()
    assert [file.name for file in folder.iterdir()] == ["checkpoint.json"]
    assert target.read_text() == "before"


@pytest.mark.parametrize("coding", ["identity", "gzip"])
@pytest.mark.parametrize(
    ("protocol", "framing"),
    [("HTTP/1.0", {}), ("HTTP/1.0", {"length": True}), ("HTTP/1.1", {}), ("HTTP/1.1", {"chunked": True})],
)
def test_half_a_checkpoint_is_never_taken_for_the_whole(
    tmp_path: Path, protocol: str, framing: dict[str, bool], coding: str
) -> None:
    """Whatever frames the body: a length, chunks, or nothing but the end of the connection."""
    with answering(half(coding, **framing), protocol) as url:
        check_refused(url, tmp_path)


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
@pytest.mark.parametrize("coding", ["identity", "gzip"])
@pytest.mark.parametrize("framing", [{}, {"length": True}])
@pytest.mark.parametrize("how", ["", "gunzip on; gzip on; gzip_types *;", "proxy_buffering off;"])
def test_half_a_checkpoint_through_nginx(
    tmp_path: Path, how: str, framing: dict[str, bool], coding: str
) -> None:
    """nginx gives a body without a length new frames, which end as those of a complete one do."""
    folder = tmp_path / "files"
    folder.mkdir()
    with answering(half(coding, **framing), "HTTP/1.0") as url, reserved_ports(1) as (port,):
        server = f"server {{ listen 127.0.0.1:{port}; {how} location / {{ proxy_pass {url}; }} }}"
        with run_nginx(tmp_path / "nginx", server, port):
            check_refused(f"http://127.0.0.1:{port}", folder)


# --- certificates -----------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_errors_about_certificates_name_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A private authority: SSL_CERT_FILE, which then works. Another name: the one to use."""
    files = certificates(tmp_path / "tls")
    with answering(named_after_path) as url:
        pass
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        url = f"https://localhost:{server.server_port}"
        with (
            PTNClient(url, "k", retries=ONCE) as api,
            pytest.raises(ServerUnreachableError, match="set SSL_CERT_FILE to"),
        ):
            api.hotkeys()
        monkeypatch.setenv("SSL_CERT_FILE", str(files.authority))
        with PTNClient(url, "k", retries=ONCE) as api, pytest.raises(ClientError) as caught:
            api.hotkeys()
        assert "certificate" not in str(caught.value)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# --- long queries -----------------------------------------------------------------------------------------


async def test_many_miners_and_pairs_are_asked_for_in_parts() -> None:
    """More than a request line holds; the result is as if it had been asked for at once."""
    hotkeys = [f"5Miner{n:043}" for n in range(130)]
    some = hotkeys[:125]
    pairs = [["BTCUSD", "BTC/USD", 0.001, 0.01, 0.5], ["EURUSD", "EUR/USD", 0.00007, 0.1, 5.0]]
    changes = [
        written(
            position(
                2 * n + m, [order(2 * n + m, 0.001 * n, at=NOW - HOUR + n)], miner=hotkey, trade_pair=pair
            )
        )
        for n, hotkey in enumerate(hotkeys, 1)
        for m, pair in enumerate(pairs)
    ]
    async with (
        serving(filled_log(changes, created_ms=NOW - 2 * HOUR)) as served,
        AsyncPTNClient(served.url, "k100", retries=ONCE) as api,
    ):
        everything = await api.miner_positions()
        chosen = await api.miner_positions(miner=some)
        assert list(chosen) == [hotkey for hotkey in everything if hotkey in some]
        assert all(chosen[hotkey] == everything[hotkey] for hotkey in chosen)
        assert (chosen.cursor, chosen.sequence) == (everything.cursor, everything.sequence)
        listed = await api.trade_pairs()
        every_pair = [pair.trade_pair_id for pair in (*listed.allowed, *listed.disabled)]
        assert await api.miner_positions(trade_pair=every_pair) == everything
        both = await api.miner_positions(miner=some, trade_pair=every_pair)
        assert list(both.items()) == list(chosen.items())
        floor = served.log.floor()
        page = await api.messages(floor - 1, miner=some, trade_pair=["btc/usd"] * 900)
        assert {m.position.miner_hotkey for m in page.messages} == set(some)
        assert {m.new_order.trade_pair for m in page.messages} == {"BTCUSD"}
        assert page.next == page.head


@pytest.mark.parametrize("choice", [[], (), "", [""], [" , "]])
async def test_an_empty_choice_is_an_error(choice: Any) -> None:
    """It comes from a search without a result, and means neither everything nor nothing."""
    async with AsyncPTNClient("http://server", "k") as api:
        for arguments in ({"miner": choice}, {"trade_pair": choice}):
            with pytest.raises(SettingsError, match="empty choice"):
                await api.miner_positions(**arguments)
            with pytest.raises(SettingsError, match="empty choice"):
                await api.messages(**arguments)


def test_a_connection_that_is_lost_at_once() -> None:
    """On uvloop too, whose socket is gone before httpx asks for it."""

    async def request_often(port: int) -> None:
        async with AsyncPTNClient(f"http://127.0.0.1:{port}", "k", retries=ONCE) as api:
            for _ in range(10):
                found = await asyncio.gather(*[api.me() for _ in range(20)], return_exceptions=True)
                assert {type(error) for error in found} == {ServerUnreachableError}

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def reset_all() -> None:
            with contextlib.suppress(OSError):  # closed
                while True:
                    connection, _ = listener.accept()
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    connection.close()

        resetting = threading.Thread(target=reset_all, daemon=True)
        resetting.start()
        uvloop.run(request_often(listener.getsockname()[1]))
        listener.shutdown(socket.SHUT_RDWR)
        resetting.join()
