"""`ptn stream` with several addresses."""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec
import pytest

from ptn_api.cli.show.following import state_printer
from ptn_api.client.connection import StreamProblem, StreamState
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
    [line] = [line for line in ended.stderr.splitlines() if "127.0.0.1:1:" in line]
    assert line.startswith("ptn: 127.0.0.1:1: Not connected")
    assert "retrying" not in ended.stderr


def test_an_outage_of_a_server_is_one_line_and_its_end_another(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """However often the reason changes that the client finds meanwhile."""
    show = state_printer()
    for detail in ("refused", "HTTP 503", "timed out", ""):
        state = StreamState("live")
        state.servers = {"ws://a:1": StreamState("live"), "ws://b:2": StreamState("connecting")}
        if detail:
            state.problems = (StreamProblem("unreachable", f"b:2: Not connected: {detail}", "Check b"),)
        show(state)
    assert capsys.readouterr().err.splitlines() == [
        "ptn: live",
        "ptn: b:2: Not connected: refused (unreachable). Check b.",
        "ptn: b:2: connected again",
    ]


def test_a_problem_on_a_terminal_fits_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most 100 columns; the remedy begins a line."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    state = StreamState("live")
    state.problems = (StreamProblem("files_refused", "Some files are refused " * 6, "Look there " * 20),)
    state_printer()(state)
    lines = capsys.readouterr().err.splitlines()
    assert max(map(len, lines)) <= 100
    assert [line.startswith("  Look there") for line in lines].count(True) >= 2


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
