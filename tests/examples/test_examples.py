"""Every example, unchanged, against a live server."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from ptn_api.client import PTNClient, PTNWebSocketMessage, Replay
from ptn_api.client.testing import FakeServer, fake_order, fake_position
from tests.examples.running import EXAMPLES, run, running
from tests.live import Live
from tests.waiting import PATIENCE_S, until


@pytest.fixture
def server(live: Live) -> Iterator[PTNClient]:
    """A client of the server, for comparison."""
    with PTNClient(live.rest, live.key) as client:
        yield client


def test_every_example_is_tested() -> None:
    """Every script is run here."""
    here = Path(__file__).read_text()
    assert [path.name for path in EXAMPLES.glob("*.py") if f'"{path.name}"' not in here] == []


def test_follow_orders(live: Live, tmp_path: Path) -> None:
    """The script prints the documented line and ends with Ctrl-C."""
    with running(EXAMPLES / "follow_orders.py", live, tmp_path) as script:
        until(lambda: "BTCUSDC: (" in script.output, what="an order in BTCUSDC")
        assert script.interrupt() == 0, script.output


def test_two_servers(live: Live, tmp_path: Path) -> None:
    """Two addresses of a server here: every order is printed once, also after kill -9."""
    urls = f"{live.stream} {live.stream.replace('127.0.0.1', 'localhost')}"
    for count in (15, 30):
        with running(EXAMPLES / "two_servers.py", live, tmp_path, PTN_WS_URLS=urls) as script:
            script.wait_for_lines(count)
            script.kill()
            assert "stopped" not in script.output
            uuids = [line.split()[0] for line in script.lines if " from ws://" in line]
    assert len(uuids) >= 10
    # What was printed last before the kill may not have been saved.
    assert len(uuids) - len(set(uuids)) <= 1


def test_two_servers_without_a_key(live: Live, tmp_path: Path) -> None:
    with running(EXAMPLES / "two_servers.py", live, tmp_path, PTN_API_KEY="") as script:
        assert script.process.wait(PATIENCE_S) == 1
    assert script.output.startswith("no API key: set PTN_API_KEY")


def test_poll_positions(live: Live, server: PTNClient, tmp_path: Path) -> None:
    """A line per miner; one may come or go between two requests."""
    hotkeys = set(server.hotkeys())
    lines = [line.split() for line in run(EXAMPLES / "poll_positions.py", live, tmp_path).splitlines()]
    assert len(hotkeys & {hotkey for hotkey, *_ in lines}) >= len(hotkeys) - 1
    assert all(float(returns) > 0 for _, returns, _ in lines)


def test_the_paper_copy_trader_trades_once_however_often_it_is_killed(
    live: Live, server: PTNClient, tmp_path: Path
) -> None:
    """After kill -9 at any moment every order is filled once, and every position is right."""
    trades = tmp_path / "paper_trades.sqlite3"
    for _ in range(4):
        with running(EXAMPLES / "paper_copy_trader.py", live, tmp_path) as script:
            before = len(script.lines)
            script.wait_for_lines(before + 15)
            script.kill()
    with sqlite3.connect(trades) as database:
        fills = database.execute("SELECT sequence, order_uuid FROM fills ORDER BY sequence").fetchall()
        query = "SELECT position_uuid, TOTAL(leverage) FROM fills GROUP BY position_uuid"
        leverages = dict(database.execute(query).fetchall())
    database.close()
    past = [m for m in Replay(server) if fills[0][0] <= m.sequence <= fills[-1][0]]
    assert fills == [(m.sequence, m.new_order.order_uuid) for m in past]
    targets = {m.position.position_uuid: _wanted(m) for m in past}
    assert leverages == pytest.approx(targets, abs=1e-9)


def test_the_paper_copy_trader_closes_what_was_closed_late(tmp_path: Path) -> None:
    """As after an outage. A late order that precedes one that has been filled changes nothing."""
    opened = [fake_order(0.5), fake_order(0.2)]
    position = fake_position(orders=opened)
    inserted = fake_order(0.1, processed_ms=opened[0]["processed_ms"] - 1)
    closed = {"is_closed_position": True, "close_ms": opened[0]["processed_ms"], "net_leverage": 0.0}
    with FakeServer() as server:
        live = Live("", server.url, server.api_key, tmp_path)
        with running(EXAMPLES / "paper_copy_trader.py", live, tmp_path) as script:
            server.wait_until_live(seconds=PATIENCE_S)
            server.publish(position)
            script.wait_for_lines(1)
            server.publish(position | {"orders": [inserted]}, late=True)
            server.publish(position | {"orders": [*opened, fake_order(0)]} | closed, late=True)
            script.wait_for_lines(2)
    with sqlite3.connect(tmp_path / "paper_trades.sqlite3") as database:
        fills = [leverage for (leverage,) in database.execute("SELECT leverage FROM fills ORDER BY sequence")]
    database.close()
    assert fills == pytest.approx([0.07, -0.07])


def _wanted(message: PTNWebSocketMessage) -> float:
    return 0.0 if message.position.is_closed_position else 0.1 * message.position.net_leverage


def test_the_database_has_every_position_however_often_it_is_killed(
    live: Live, server: PTNClient, tmp_path: Path
) -> None:
    """After kill -9 at any moment, what was closed meanwhile is there with all orders, and nothing twice."""
    path = tmp_path / "positions.sqlite3"

    def stored() -> dict[tuple[str, str], int]:
        with sqlite3.connect(path) as database:
            query = "SELECT miner_hotkey, position_uuid, orders FROM positions WHERE closed_ms IS NOT NULL"
            rows = database.execute(query).fetchall()
        database.close()
        return {(hotkey, uuid): orders for hotkey, uuid, orders in rows}

    for _ in range(3):
        with running(EXAMPLES / "mirror_database.py", live, tmp_path, PTN_INTERVAL_S="0.01") as script:
            script.wait_for_lines(len(script.lines) + 3)
    closed = {
        (position.miner_hotkey, position.position_uuid): len(position.orders)
        for position in server.miner_positions(status="closed").positions()
    }
    with running(EXAMPLES / "mirror_database.py", live, tmp_path, PTN_INTERVAL_S="0.01") as script:
        script.wait_for_lines(len(script.lines) + 1)
        until(lambda: closed.items() <= stored().items(), what="every closed position")
        assert script.interrupt() == 0, script.output


def test_leaderboard(live: Live, tmp_path: Path) -> None:
    """It is redrawn as orders come; the last table stays when it ends."""
    with running(EXAMPLES / "leaderboard.py", live, tmp_path, FORCE_COLOR="1", COLUMNS="120") as script:
        titles = re.compile(r"as of order (\d+)")
        until(lambda: len(set(titles.findall(script.output))) > 3, what="some tables")
        assert script.interrupt() == 0, script.output
    assert "│ 5" in script.output
    assert "Traceback" not in script.output


def test_research(live: Live, tmp_path: Path) -> None:
    """The script prints its tables."""
    output = run(EXAMPLES / "research.py", live, tmp_path)
    assert re.match(r"\d+ miners, \d+ positions, \d+ orders\n", output)
    assert "hour_utc" in output


def test_the_restoring_validator_has_every_order(live: Live, server: PTNClient, tmp_path: Path) -> None:
    """No order is missing between checkpoint and stream, or later."""
    with running(EXAMPLES / "restoring_validator.py", live, tmp_path) as script:
        script.wait_for_lines(15)
        assert script.interrupt() == 0, script.output
    first, *followed = script.lines
    start = int(first.removeprefix("restored up to "))
    assert [int(line) for line in followed] == list(range(start + 1, start + 1 + len(followed)))
    restored = {
        order["order_uuid"]
        for path in (tmp_path / "restored").glob("*/positions/*/*/*")
        for order in json.loads(path.read_bytes())["orders"]
    }
    last = int(followed[-1])
    announced = {m.new_order.order_uuid for m in Replay(server) if m.sequence <= last}
    assert announced <= restored
