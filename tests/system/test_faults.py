"""Faults of production, injected into real processes; tests/soak adds more of them at random."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from ptn_api.client import Gap, PositionMirror, Stream, Timing
from ptn_api.client.message import PTNWebSocketMessage
from ptn_api.model.checksum import CHECKSUM_MODULUS, position_checksum
from tests import factories
from tests.chaos import ChaosProxy
from tests.cli.ptn import Ptn
from tests.live import bare_environment
from tests.system.api import Api, api
from tests.system.follower import Follower
from tests.system.validator import Validator
from tests.waiting import PATIENCE_S, until, until_async

QUICK = Timing(connect=2, backoff=0.05, backoff_max=0.3, settled=1, refused=0.2, eviction=0.2, tick=0.02)


class Bot:
    """Our own client, with everything it reported."""

    def __init__(self, url: str, key: str, state_dir: Path) -> None:
        self.messages: list[PTNWebSocketMessage] = []
        self.gaps: list[Gap] = []
        self.states: list[str] = []
        self.stream = Stream(
            url, key, state_dir=state_dir, timing=QUICK, on_gap=self.gaps.append, on_state=self.states.append
        )

    @property
    def order_uuids(self) -> list[str]:
        return [message.new_order.order_uuid for message in self.messages]

    async def run(self) -> None:
        async with self.stream:
            async for message in self.stream:
                self.messages.append(message)


@asynccontextmanager
async def following(url: str, key: str, tmp_path: Path) -> AsyncIterator[Bot]:
    bot = Bot(url, key, tmp_path / "cursors")
    task = asyncio.create_task(bot.run())
    await until_async(lambda: "live" in bot.states, what="live")
    try:
        yield bot
    finally:
        bot.stream.stop()
        await task


def health(server: Api) -> dict[str, Any]:
    answer: dict[str, Any] = requests.get(server.rest + "/health", timeout=PATIENCE_S).json()
    return answer


def problems(server: Api) -> list[str]:
    found: list[str] = health(server)["problems"]
    return found


def limit_files(process: psutil.Process, size: int) -> None:
    """The kernel lets this process write no file beyond this size, which acts like a full disk."""
    hard = process.rlimit(psutil.RLIMIT_FSIZE)[1]  # type: ignore[attr-defined]
    process.rlimit(psutil.RLIMIT_FSIZE, (size, hard))  # type: ignore[attr-defined]


def test_a_full_disk_delays_orders_and_loses_none(
    validator: Validator, data_dir: Path, keys: dict[int, str]
) -> None:
    """Intake keeps what it could not write and retries; readers still serve."""
    validator.place()
    with (
        api(data_dir, validator_dir=validator.root) as server,
        Follower(server.stream, keys[100]) as follower,
    ):
        validator.place()
        follower.wait_for(1)
        intake = server.children()["intake"]
        limit_files(intake, 4096)
        for _ in range(20):
            validator.place(3)
        until(lambda: "log_unwritable" in server.log.read_text())
        headers = {"Authorization": f"Bearer {keys[100]}"}
        assert requests.get(server.rest + "/miner-positions", headers=headers, timeout=PATIENCE_S).ok
        assert len(follower.messages) == 1
        limit_files(intake, resource.RLIM_INFINITY)
        follower.wait_for(61)
        assert sorted(follower.order_uuids) == sorted(validator.placed[1:])
        assert server.children()["intake"].pid == intake.pid


async def test_a_log_pruned_below_the_cursor_is_a_gap_that_is_told(
    validator: Validator, data_dir: Path, keys: dict[int, str], tmp_path: Path
) -> None:
    """All or nothing: `too_old`, then live orders only."""
    validator.place()
    with api(data_dir, validator_dir=validator.root, retention_ms=5_000, prune_ms=100) as server:
        async with following(server.stream, keys[100], tmp_path) as bot:
            validator.place()
            await until_async(lambda: len(bot.messages) == 1)
        validator.place()
        url = f"{server.rest}/messages?after={bot.messages[-1].sequence}&epoch={bot_epoch(tmp_path)}"
        headers = {"Authorization": f"Bearer {keys[100]}"}
        await until_async(lambda: requests.get(url, headers=headers, timeout=PATIENCE_S).status_code == 410)
        async with following(server.stream, keys[100], tmp_path) as bot:
            await until_async(lambda: bot.gaps)
            validator.place()
            await until_async(lambda: bot.messages)
            assert [gap.reason for gap in bot.gaps] == ["too_old"]
            assert bot.order_uuids == validator.placed[-1:]


def bot_epoch(tmp_path: Path) -> str:
    cursors = (json.loads(path.read_text()) for path in (tmp_path / "cursors").rglob("*.json"))
    epoch: str = next(cursor["epoch"] for cursor in cursors if "epoch" in cursor)
    return epoch


async def test_a_log_deleted_under_a_running_server_begins_anew(
    validator: Validator, data_dir: Path, keys: dict[int, str], tmp_path: Path
) -> None:
    """The processes notice and restart with a new epoch; clients are told of the gap."""
    validator.place()
    with api(data_dir, validator_dir=validator.root) as server:
        async with following(server.stream, keys[100], tmp_path) as bot:
            validator.place()
            await until_async(lambda: len(bot.messages) == 1)
            for path in data_dir.glob("log.sqlite3*"):
                path.unlink()
            await until_async(lambda: bot.gaps)
            await until_async(lambda: bot.states[-1] == "live")
            validator.place()
            await until_async(lambda: validator.placed[-1] in bot.order_uuids)
            assert [gap.reason for gap in bot.gaps] == ["epoch"]
            assert len(bot.order_uuids) == len(set(bot.order_uuids))


async def test_a_mirror_takes_a_snapshot_after_a_gap(
    validator: Validator, data_dir: Path, keys: dict[int, str]
) -> None:
    """Its old state means nothing to a new log; afterwards it equals the files."""
    validator.place(3)
    states: list[str] = []
    with api(data_dir, validator_dir=validator.root) as server:
        async with PositionMirror(
            server.stream, server.rest, keys[100], on_state=states.append, mend_within=0.1, timing=QUICK
        ) as mirror:
            await asyncio.wait_for(mirror.until_verified(), PATIENCE_S)
            epoch = mirror.cursor.epoch
            validator.place(2)
            for path in data_dir.glob("log.sqlite3*"):
                path.unlink()
            await until_async(lambda: mirror.cursor.epoch != epoch)
            validator.place()
            files = [json.loads(path.read_text()) for path in validator.root.glob("**/open/*")]
            expected = sum(position_checksum(json.dumps(file).encode()) for file in files)
            await until_async(
                lambda: mirror.verified and mirror.checksum == f"{expected % CHECKSUM_MODULUS:016x}",
                seconds=60,
            )
            assert len(mirror) == 3
            assert "resync" in states


async def test_an_unmounted_directory_is_stale_and_loses_nothing(
    validator: Validator, data_dir: Path, keys: dict[int, str], tmp_path: Path
) -> None:
    """The last state is kept, /health and heartbeats say stale; afterwards nothing is announced twice."""
    validator.place(3)
    miners = validator.root / "validation" / "miners"
    with api(data_dir, validator_dir=validator.root) as server:
        async with following(server.stream, keys[100], tmp_path) as bot:
            miners.rename(tmp_path / "unmounted")
            await until_async(lambda: health(server)["source"]["stale"])
            await until_async(lambda: bot.states[-1] == "stale")
            headers = {"Authorization": f"Bearer {keys[100]}"}
            answer = requests.get(server.rest + "/miner-positions", headers=headers, timeout=PATIENCE_S)
            assert len(answer.json()[factories.MINER]["positions"]) == 1
            (tmp_path / "unmounted").rename(miners)
            await until_async(lambda: not health(server)["source"]["stale"])
            await until_async(lambda: bot.states[-1] == "live")
            validator.place()
            await until_async(lambda: bot.messages)
            assert bot.order_uuids == validator.placed[-1:]


def half_restore(miners: Path) -> int:
    """Returns how many positions are left."""
    for path in sorted(miners.glob("*/positions/*/open/*"))[:40]:
        path.unlink()
    return 20


def empty(miners: Path) -> int:
    for path in miners.glob("*/positions/*/open/*"):
        path.unlink()
    return 0


def replace(miners: Path) -> int:
    """An empty directory takes its place."""
    miners.rename(miners.with_name("old-miners"))
    miners.mkdir()
    return 0


@pytest.mark.parametrize("change", [half_restore, empty, replace])
def test_a_directory_that_lost_most_is_held_back_until_accepted(
    change: Callable[[Path], int], validator: Validator, data_dir: Path, keys: dict[int, str]
) -> None:
    """Orders are still served meanwhile; `ptn resync --accept-removals` applies the removals."""
    for _ in range(60):
        validator.place()
    headers = {"Authorization": f"Bearer {keys[100]}"}
    with (
        api(data_dir, validator_dir=validator.root, removal_confirm_ms=3_000) as server,
        Follower(server.stream, keys[100]) as follower,
    ):

        def served() -> int:
            answer = requests.get(
                server.rest + "/miner-positions", headers=headers, timeout=PATIENCE_S
            ).json()
            return len(answer[factories.MINER]["positions"])

        ptn = Ptn(data_dir.parent, bare_environment(data_dir.parent))
        ended = ptn("resync", "--accept-removals", f"--data-dir={data_dir}")
        assert (ended.status, "holds no removals back" in ended.stderr) == (1, True)
        left = change(validator.root / "validation" / "miners")
        until(lambda: health(server)["source"]["reason"] == "mass_removal")  # and not gone for a moment
        validator.place()
        follower.wait_for(1)
        until(lambda: served() == 61)
        assert problems(server) != []
        remedy = f"ptn resync --accept-removals --data-dir {data_dir}"
        until(lambda: remedy in server.log.read_text(), what="the remedy, ready to be pasted")
        assert ptn(*remedy.split()[1:]).status == 0
        until(lambda: served() == left + 1)
        until(lambda: problems(server) == [])


def test_fresh_directories_in_a_burst_miss_no_first_order(
    validator: Validator, data_dir: Path, keys: dict[int, str]
) -> None:
    """200 miners appear at once, each with its first position; the sweep is too rare to help."""
    validator.place()
    periods = {"sweep_ms": 60_000, "full_sweep_ms": 60_000}
    with (
        api(data_dir, validator_dir=validator.root, **periods) as server,
        Follower(server.stream, keys[100]) as follower,
    ):
        for n in range(200):
            validator.place(miner=f"{factories.MINER[:40]}{n:08}")
        follower.wait_for(200)
        assert sorted(follower.order_uuids) == sorted(validator.placed[1:])


async def test_a_mute_connection_is_noticed(
    validator: Validator, data_dir: Path, keys: dict[int, str], tmp_path: Path
) -> None:
    """On a stalled network the client reports stale within two heartbeats, and misses nothing in the end."""
    validator.place()
    with (
        api(data_dir, validator_dir=validator.root) as server,
        ChaosProxy(server.ws_port) as proxy,
    ):
        async with following(proxy.url, keys[100], tmp_path) as bot:
            await asyncio.to_thread(proxy.stall)
            validator.place()
            await until_async(lambda: "stale" in bot.states or bot.states.count("connecting") > 1)
            assert bot.messages == []
            await asyncio.to_thread(proxy.flow)
            await until_async(lambda: bot.order_uuids == validator.placed[1:])


@pytest.mark.parametrize("misbehave", ["cut", "truncate", "duplicate"])
async def test_broken_connections_lose_nothing(
    misbehave: str, validator: Validator, data_dir: Path, keys: dict[int, str], tmp_path: Path
) -> None:
    """After resets, truncated frames and duplicated bytes, every order arrives once and in order."""
    validator.place()
    with (
        api(data_dir, validator_dir=validator.root) as server,
        ChaosProxy(server.ws_port) as proxy,
    ):
        trouble: dict[str, Callable[[], object]] = {
            "cut": proxy.cut,
            "truncate": proxy.truncate,
            "duplicate": lambda: setattr(proxy, "duplicate_next", True),
        }
        async with following(proxy.url, keys[100], tmp_path) as bot:
            for n in range(30):
                validator.place()
                if n % 5 == 0:
                    await asyncio.to_thread(trouble[misbehave])
                await until_async(lambda: bot.order_uuids == validator.placed[1:])
            assert bot.gaps == []
            assert bot.states.count("connecting") > 1 or misbehave == "duplicate"


def test_six_old_clients_on_one_key_do_not_starve_each_other(
    validator: Validator, data_dir: Path, keys: dict[int, str]
) -> None:
    """They evict each other and reconnect at once; each still receives every order exactly once."""
    validator.place()
    with api(data_dir, validator_dir=validator.root, eviction_delay_ms=100) as server:
        followers = [Follower(server.stream, keys[100]) for _ in range(6)]
        try:
            for follower in followers:
                until(follower.subscribed.is_set)
            for _ in range(20):
                validator.place()
            for follower in followers:
                follower.wait_for(20)
                assert sorted(follower.order_uuids) == sorted(validator.placed[1:])
                assert follower.order_uuids == followers[0].order_uuids
        finally:
            for follower in followers:
                follower.__exit__()


@pytest.mark.timeout(900)  # a slow machine takes long for so many handshakes
async def test_a_thousand_clients_come_back_at_once(
    validator: Validator, data_dir: Path, tmp_path: Path
) -> None:
    """After a crash of the stream all are served, at a bounded rate of logins, without a missed order."""
    n_clients = 1_000
    long_s = 3 * PATIENCE_S
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2_500:
        pytest.skip(f"this system allows {hard} open files only")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2_500), hard))
    path = tmp_path / "many_keys.json"
    path.write_text(json.dumps({f"bot-{n}": f"key-{n}" for n in range(n_clients)}))
    validator.place()
    clients = [ManyClient(f"key-{n}") for n in range(n_clients)]
    with api(data_dir, validator_dir=validator.root, keys=path, accepts_per_second=400) as server:
        tasks = [asyncio.create_task(client.run(server.stream)) for client in clients]
        try:
            await until_async(lambda: all(client.subscribed for client in clients), seconds=long_s)
            validator.place()
            await until_async(lambda: all(client.got for client in clients), seconds=long_s)
            earlier = len(logins(server))
            server.kill("stream")
            for _ in range(5):
                validator.place()
            await until_async(lambda: all(len(client.got) >= 6 for client in clients), seconds=long_s)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        opened = logins(server)[earlier:]
    first = clients[0].got[0]
    assert all(client.got == list(range(first, first + 6)) for client in clients)
    # A second's worth may come at once (however late: a busy machine only makes it longer).
    assert (opened[-1] - opened[0]).total_seconds() >= n_clients / 400 - 1 - 0.1


def logins(server: Api) -> list[datetime]:
    """The time of each login."""
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if "connection_opened" in line]
    return [datetime.fromisoformat(line["timestamp"].replace("Z", "+00:00")) for line in lines]


class ManyClient:
    """An old client that reconnects with its last sequence and records the sequences it receives."""

    def __init__(self, key: str) -> None:
        self.got: list[int] = []
        self.subscribed = False
        self._key = key

    async def run(self, url: str) -> None:
        while True:
            with contextlib.suppress(WebSocketException, OSError, EOFError, asyncio.TimeoutError):
                await self._follow(url)
            await asyncio.sleep(0.1)

    async def _follow(self, url: str) -> None:
        async with connect(url, compression=None, open_timeout=PATIENCE_S) as connection:
            last = self.got[-1] if self.got else -1
            await connection.send(json.dumps({"api_key": self._key, "last_sequence": last}))
            await connection.recv()
            await connection.send('{"type": "subscribe", "all": true}')
            async for data in connection:
                frame = json.loads(data)
                self.subscribed |= frame.get("type") == "subscription_status"
                self.got += [m["sequence"] for m in frame.get("messages", [frame]) if "sequence" in m]
