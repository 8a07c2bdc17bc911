"""A damaged or missing event log, and a full disk at the start, with real processes."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from ptn_api.cli.doctor import check_event_log
from ptn_api.event_log.database import log_path
from ptn_api.process.settings import load_settings
from tests import factories
from tests.system.api import Api, api
from tests.system.test_faults import bot_epoch, following, health, limit_files, problems
from tests.system.validator import Validator
from tests.waiting import PATIENCE_S, until, until_async


def change(data_dir: Path, *statements: str) -> None:
    """Changes the file of a log that is closed, behind its back."""
    with contextlib.closing(sqlite3.connect(log_path(data_dir))) as db:
        for statement in statements:
            assert db.execute(statement).rowcount, statement
        db.commit()


def lines(server: Api, event: str) -> list[dict[str, Any]]:
    parsed = (json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{"))
    return [line for line in parsed if line["event"] == event]


def rest_address(server: Api) -> str:
    """The address of REST, before the server is ready and prints it; a restarted process has another one."""

    def listening() -> list[int]:
        rest = server.children().get("rest")
        found = rest.net_connections() if rest is not None else []
        return [connection.laddr.port for connection in found if connection.status == psutil.CONN_LISTEN]

    return f"http://127.0.0.1:{until(listening, what='REST to listen')[0]}"


def health_at(address: str) -> dict[str, Any]:
    with contextlib.suppress(requests.ConnectionError):
        answer: dict[str, Any] = requests.get(address + "/health", timeout=PATIENCE_S).json()
        return answer
    return {"problems": []}


def served(server: Api, key: str) -> dict[str, int]:
    """The served positions of the miner, each with its number of orders."""
    headers = {"Authorization": f"Bearer {key}"}
    answer = requests.get(server.rest + "/miner-positions", headers=headers, timeout=PATIENCE_S).json()
    positions = answer.get(factories.MINER, {"positions": []})["positions"]
    return {position["position_uuid"]: len(position["orders"]) for position in positions}


def position(n: int) -> str:
    return f"uuid = '{factories.uuid(n)}'"


def orders(n: int) -> str:
    return f"(SELECT id FROM positions WHERE {position(n)}) << 32"


DAMAGE = (
    f"UPDATE positions SET header = x'ff' WHERE {position(2)}",
    f"UPDATE positions SET revision = 1 << 40 WHERE {position(3)}",
    f"UPDATE positions SET miner = 'nobody' WHERE {position(4)}",
    f"UPDATE orders SET text = x'c3' WHERE id = {orders(5)}",
    f"DELETE FROM orders WHERE id = ({orders(6)}) + 1",
    f"UPDATE orders SET uuid = CAST(x'ff' AS TEXT) WHERE id = {orders(7)}",
    f"UPDATE positions SET removed_ms = 1 WHERE {position(8)}",
    f"UPDATE seen SET uuid = 'x' WHERE uuid = (SELECT uuid FROM orders WHERE id = {orders(1)})",
    "UPDATE chunks SET content = x'ff'",
    "UPDATE log SET source = x'ff'",
)


def test_damage_is_repaired_from_the_validators_files(
    validator: Validator, data_dir: Path, keys: dict[int, str]
) -> None:
    """Every kind of it is named and written again, and no order is announced a second time."""
    validator.document("validation/eliminations.json", {"eliminations": [{"hotkey": "x", "reason": "MDD"}]})
    headers = {"Authorization": f"Bearer {keys[100]}"}

    def eliminations(server: Api) -> Any:
        return requests.get(server.rest + "/eliminations", headers=headers, timeout=PATIENCE_S).json()

    with api(data_dir, validator_dir=validator.root) as server:
        for _ in range(8):
            validator.place(2, closed=True)
        until(lambda: len(served(server, keys[100])) == 8)
        expected = (served(server, keys[100]), eliminations(server))
        server.stop()
    settings = load_settings({"data_dir": str(data_dir)})
    assert check_event_log(settings) == 0
    change(data_dir, *DAMAGE)
    assert check_event_log(settings) == 1
    with api(data_dir, validator_dir=validator.root) as server:
        until(lambda: lines(server, "log_damaged"), what="the damage to be found")
        until(lambda: (served(server, keys[100]), eliminations(server)) == expected, what="the repair")
        until(lambda: not problems(server))
        assert check_event_log(settings) == 0  # beside the running server
        assert not lines(server, "process_ended")
        assert "Traceback" not in server.log.read_text()
    with contextlib.closing(sqlite3.connect(log_path(data_dir))) as db:
        assert db.execute("SELECT events FROM log").fetchone() == (16,)


async def test_a_damaged_event_is_a_gap(
    validator: Validator, data_dir: Path, keys: dict[int, str], tmp_path: Path
) -> None:
    """It cannot be restored: clients are told of the gap and get the others, /health counts it."""
    validator.place()
    with api(data_dir, validator_dir=validator.root) as server:
        async with following(server.stream, keys[100], tmp_path) as bot:
            validator.place()
            await until_async(lambda: len(bot.messages) == 1)
        for _ in range(3):
            validator.place()
        headers = {"Authorization": f"Bearer {keys[100]}"}
        url = f"/messages?after={bot.messages[0].sequence}&epoch={bot_epoch(tmp_path)}"

        def following_messages(server: Api) -> list[int]:
            answer = requests.get(server.rest + url, headers=headers, timeout=PATIENCE_S).json()
            return [message["sequence"] - bot.messages[0].sequence for message in answer["messages"]]

        await until_async(lambda: following_messages(server) == [1, 2, 3])
        server.stop()
    change(data_dir, f"UPDATE events SET order_text = x'ff' WHERE sequence = {bot.messages[0].sequence + 2}")
    with api(data_dir, validator_dir=validator.root) as server:
        async with following(server.stream, keys[100], tmp_path) as bot_again:
            await until_async(lambda: len(bot_again.messages) == 2)
            assert bot_again.order_uuids == [validator.placed[2], validator.placed[4]]
            assert [gap.reason for gap in bot_again.gaps] == ["hole"]
        assert following_messages(server) == [1, 3]
        await until_async(lambda: problems(server) == ["log_damaged"])
        assert health(server)["details"]["log_damaged"]["count"] == 1
        assert health(server)["status"] == "degraded"
        assert "Traceback" not in server.log.read_text()


def garbage(path: Path) -> None:
    path.write_bytes(b"\0garbage" * 1_000)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def first_page_of_positions(path: Path) -> None:
    """What intake reads first, though the log itself can be opened."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'positions'").fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"garbage " * (size // 8))


def counters(path: Path) -> None:
    change(path.parent, "UPDATE log SET sequence = sequence + 5")


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("damage", [garbage, truncated, first_page_of_positions, counters])
def test_a_log_that_cannot_be_used_is_said(
    damage: Callable[[Path], None], validator: Validator, data_dir: Path
) -> None:
    """No process ends; /health says it; once the log is moved away, the server goes on without a restart."""
    validator.place(5)
    with api(data_dir, validator_dir=validator.root) as server:
        server.stop()
    damage(log_path(data_dir))
    (data_dir.parent / "server.log").unlink()
    with api(data_dir, validator_dir=validator.root, wait=False) as server:
        health = lambda: health_at(rest_address(server))  # noqa: E731
        until(lambda: {"log_unusable"} <= {*health()["problems"]}, what="/health says it")
        assert health()["status"] == "failing"
        assert check_event_log(load_settings({"data_dir": str(data_dir)})) == 1
        for path in data_dir.glob("log.sqlite3*"):
            path.rename(data_dir / f"old-{path.name}")
        server.wait_ready()
        until(lambda: not problems(server))
        assert "Traceback" not in server.log.read_text()


@pytest.mark.usefixtures("keys")
def test_a_log_that_is_damaged_for_a_while(validator: Validator, data_dir: Path) -> None:
    """Intake goes on reporting that it lives although the log's counters cannot be read."""
    validator.place(5)
    with api(data_dir, validator_dir=validator.root) as server:
        intake = server.children()["intake"]
        change(data_dir, "UPDATE log SET sequence = sequence + 5")
        until(lambda: "log_unusable" in problems(server), what="/health to report it")
        change(data_dir, "UPDATE log SET sequence = sequence - 5")
        until(lambda: not problems(server), what="the problem to end")
        assert server.children()["intake"].pid == intake.pid
        assert "Traceback" not in server.log.read_text()


def test_a_full_disk_at_the_start(validator: Validator, data_dir: Path, keys: dict[int, str]) -> None:
    """One line and /health say it; with space the server becomes ready without a restart."""
    validator.place()
    limit = ["prlimit", "--fsize=30000:unlimited"]
    if shutil.which(limit[0]) is None:
        pytest.skip("no prlimit here")
    with api(data_dir, validator_dir=validator.root, wait=False, prefix=limit) as server:
        health = lambda: health_at(rest_address(server))  # noqa: E731
        until(lambda: "log_unwritable" in health()["problems"], what="/health says it")
        assert health()["status"] == "failing"
        intake = until(lambda: server.children().get("intake"))
        assert len(lines(server, "log_not_opened")) == 1
        limit_files(intake, -1)
        server.wait_ready()
        until(lambda: not problems(server))
        until(lambda: len(served(server, keys[100])) == 1)
        assert server.children()["intake"].pid == intake.pid
        assert not lines(server, "process_ended")
        assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("replacement", [b"", b"\0garbage" * 1_000, None])
def test_a_log_replaced_under_a_running_server(
    replacement: bytes | None, validator: Validator, data_dir: Path, keys: dict[int, str]
) -> None:
    """By an empty file, by another one, or deleted: one line each process, no traceback."""
    validator.place()
    with api(data_dir, validator_dir=validator.root) as server:
        address = server.rest
        for path in data_dir.glob("log.sqlite3*"):
            path.unlink()
        if replacement is not None:
            log_path(data_dir).write_bytes(replacement)
        if replacement:
            until(lambda: "log_unusable" in health_at(address)["problems"], what="/health says it")
            log_path(data_dir).unlink()
        # A process that had not read the log yet opens the new one instead.
        until(lambda: lines(server, "stopped_by_error"))
        until(lambda: not health_at(address)["problems"] and health_at(address).get("status"))
        validator.place()
        until(lambda: len(served(server, keys[100])) == 2)
        ended = [line["process"] for line in lines(server, "stopped_by_error")]
        assert len(ended) == len({*ended})
        assert "Traceback" not in server.log.read_text()
