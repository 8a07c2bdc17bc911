"""A real server whose processes may open few files: it never runs out, serves on, and recovers."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from ptn_api.access import add_key
from tests.hostile.fortress import raise_file_limit
from tests.hostile.raw import UPGRADE, frame
from tests.system.api import api
from tests.system.follower import Follower
from tests.system.validator import Validator
from tests.waiting import PATIENCE_S, until

SPARE = 200


@contextlib.contextmanager
def clients(port: int, count: int, first: bytes) -> Iterator[list[socket.socket]]:
    """Connections that send `first` and are reset at the end. Those that are not accepted wait."""
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(("127.0.0.1", port))
            opened.append(client)
        for client in opened:
            client.settimeout(PATIENCE_S)
            with contextlib.suppress(OSError):
                client.sendall(first)
        yield opened


@pytest.mark.parametrize("files", [64, 1_024])
def test_connections_never_take_the_last_file(tmp_path: Path, files: int) -> None:
    """Silent ones evict each other; beyond those that have logged in, others wait. Orders go on meanwhile."""
    raise_file_limit(2 * files + SPARE)
    validator = Validator(tmp_path / "validator")
    validator.place()
    keys = tmp_path / "api_keys.json"
    key, unlimited = add_key(keys, "alice", 100), add_key(keys, "bob", 200)
    limited = ("sh", "-c", f'ulimit -n {files}; exec "$@"', "sh")
    settings: dict[str, Any] = {
        "accepts_per_second": 10_000,
        "header_timeout_ms": 60_000,
        "auth_timeout_ms": 60_000,
        "process_silent_ms": 20_000,
    }
    with (
        api(
            tmp_path / "data", validator_dir=validator.root, prefix=limited, metrics_port=0, **settings
        ) as server,
        Follower(server.stream, key) as follower,
        requests.Session() as caller,
    ):
        caller.headers["Authorization"] = f"Bearer {key}"
        rest_port = int(server.rest.rpartition(":")[2])
        pids = {name: process.pid for name, process in server.children().items()}

        def health() -> list[str]:
            problems: list[str] = caller.get(server.rest + "/health", timeout=PATIENCE_S).json()["problems"]
            return problems

        def check_orders() -> None:
            validator.place(3)
            follower.wait_for(len(validator.placed) - 1)

        check_orders()
        for first in (b"", b"GET / HTTP/1.1\r\n"):
            with clients(rest_port, 2 * files, first), clients(server.ws_port, 2 * files, first):
                check_orders()
                assert requests.get(server.rest + "/health", timeout=PATIENCE_S).status_code == 200
        until(lambda: health() == [])

        login = UPGRADE + b"\r\n" + frame(json.dumps({"api_key": unlimited}).encode())
        with contextlib.ExitStack() as stack, clients(server.ws_port, files, login):

            def is_paused() -> bool:
                stack.enter_context(clients(server.ws_port, 1, login))
                return "accept_paused" in health()

            until(is_paused, what="a pause")
            check_orders()
            stream = server.children()["stream"]

            def is_calm() -> bool:  # a loop that tries to accept over and over never is
                cpu_s, began = sum(stream.cpu_times()[:2]), time.monotonic()
                check_orders()
                time.sleep(0.5)
                return bool(sum(stream.cpu_times()[:2]) - cpu_s < 0.7 * (time.monotonic() - began))

            until(is_calm, what="the stream to be calm")
            assert stream.num_fds() < files - 4
            metrics = requests.get(server.stdout[1].split()[-1], timeout=PATIENCE_S).text
            assert 'ptn_accept_paused_seconds_total{process="stream"} 0.0' not in metrics
        until(lambda: health() == [], what="no pause")
        check_orders()
        with Follower(server.stream, key):
            pass
        assert {name: process.pid for name, process in server.children().items()} == pids
        assert len(follower.success) == 1
        log = server.log.read_text()
        assert "Traceback" not in log
        assert '"level": "error"' not in log
        assert log.count('"event": "accept_paused"') == 1
