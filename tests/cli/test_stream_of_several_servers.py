"""`ptn stream` with several addresses."""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec

from ptn_api.client.testing import FakeServer, fake_order, fake_position
from tests.cli.ptn import Ptn


def test_every_order_is_printed_once(stranger: Ptn, tmp_path: Path) -> None:
    """With a key file for each; a server that is away, and another price, are told on standard error."""
    with FakeServer(heartbeat_ms=100) as one, FakeServer(heartbeat_ms=100, first_sequence=901) as two:
        one.keys, two.keys = {"key-one"}, {"key-two"}
        orders = [fake_order(0.1, 100.0 + n) for n in range(3)]

        def place() -> None:
            for server in (one, two):
                server.wait_until_live(seconds=60)
            for order in orders:
                position = fake_position("BTCUSD", [order])
                one.publish(position)
                two.publish(position | {"orders": [order | {"price": 1.0}]})

        for server in ("one", "two"):
            (tmp_path / server).write_text(f"key-{server}\n")
        arguments: list[object] = ["--url", one.url, "--url", two.url, "--url", "ws://127.0.0.1:1"]
        for server in ("one", "two", "one"):
            arguments += ["--api-key-file", tmp_path / server]
        thread = threading.Thread(target=place)
        thread.start()
        ended = stranger("stream", *arguments, "--count", 3, "--json")
        thread.join()
    assert ended.status == 0, ended.stderr
    printed = [msgspec.json.decode(line)["data"]["position"]["orders"][-1] for line in ended.lines]
    assert [order["order_uuid"] for order in printed] == [order["order_uuid"] for order in orders]
    assert "127.0.0.1:1: Not connected" in ended.stderr


def test_too_many_keys_are_refused(stranger: Ptn, tmp_path: Path) -> None:
    """In one line, without naming a key."""
    arguments: list[object] = ["--url", "ws://127.0.0.1:1", "--url", "ws://127.0.0.1:2"]
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(f"secret-{name}")
        arguments += ["--api-key-file", tmp_path / name]
    ended = stranger("stream", *arguments, "--wait")
    assert (ended.status, ended.stderr) == (
        2,
        "ptn: 3 API keys for 2 servers: pass one key, or one for each server\n",
    )
