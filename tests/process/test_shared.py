"""What a machine exchanges with others, over a broker in memory; and the settings for shared keys."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ptn_api.access import add_key, revoke_key
from ptn_api.access.usage import UsageFile, UsageRow, day_of
from ptn_api.cli.doctor import keys as check_key_file
from ptn_api.clock import wall_ms
from ptn_api.cluster.key_copy import SharedKeyStore
from ptn_api.cluster.options import ClusterOptions, shared_key_file
from ptn_api.cluster.presence import PresenceRelay
from ptn_api.errors import SettingsError
from ptn_api.process.control import WorkerConfig, WorkerControl
from ptn_api.process.service import _prepare
from ptn_api.process.settings import Settings
from ptn_api.process.shared import share
from tests.cluster.memory_broker import MemoryBroker
from tests.waiting import until_async

LONG = 3_600_000


@contextlib.asynccontextmanager
async def sharing(broker: Any, data_dir: Path, **options: Any) -> AsyncIterator[WorkerControl]:
    data_dir.mkdir(exist_ok=True)
    cluster = ClusterOptions(cluster="nats://a", cluster_keys=True, **options)
    settings = Settings(data_dir=str(data_dir), cluster_options=cluster)
    control = WorkerControl(WorkerConfig(process="copy", settings=settings, machine="m"))
    relay = PresenceRelay(broker, "m", lambda _peer, _update: None)
    task = asyncio.create_task(share(broker, relay, settings, control))
    try:
        yield control
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.parametrize("silent", [True, False])
async def test_changed_keys_are_taken(tmp_path: Path, silent: bool) -> None:
    """When they are announced, or at the next look if that was lost."""
    broker = MemoryBroker()
    broker.silent = silent
    path = shared_key_file(tmp_path)
    async with sharing(broker, tmp_path, keys_poll_ms=20 if silent else LONG) as control:
        await asyncio.sleep(0)
        add_key(SharedKeyStore(broker), "alice", 100)
        await until_async(lambda: path.exists() and "alice" in path.read_text())
        revoke_key(SharedKeyStore(broker), "alice")
        await until_async(lambda: "alice" not in path.read_text())
        assert control.problems.look() == {}


async def test_keys_that_cannot_be_read_are_a_problem(tmp_path: Path) -> None:
    """Once that lasts, whether for the connection or the copy's place; it ends by itself."""
    broker = MemoryBroker()
    async with sharing(broker, tmp_path / "data", keys_poll_ms=10, behind_ms=20) as control:
        for blocked in (True, False):
            broker.down = not blocked
            if blocked:
                shared_key_file(tmp_path / "data").mkdir()
                add_key(SharedKeyStore(broker), "alice", 100)
            await until_async(lambda: "cluster_keys_stale" in control.problems.look())
            broker.down = False
            if blocked:
                shared_key_file(tmp_path / "data").rmdir()
            await until_async(lambda: "cluster_keys_stale" not in control.problems.look())
        assert "alice" in shared_key_file(tmp_path / "data").read_text()


async def test_keys_of_a_server_that_is_cut_off_are_stale(tmp_path: Path) -> None:
    """It answers, and gets no revocations."""
    broker = MemoryBroker()
    async with sharing(broker, tmp_path, keys_poll_ms=10, behind_ms=20) as control:
        for broker.leaderless in (True, False):
            await until_async(lambda: ("cluster_keys_stale" in control.problems.look()) is broker.leaderless)


async def test_usage_is_published(tmp_path: Path) -> None:
    """Also what could not be published before."""
    broker = MemoryBroker()
    broker.down = True
    async with sharing(broker, tmp_path, usage_publish_ms=10):
        now = wall_ms()
        UsageFile(tmp_path).add([UsageRow("alice", "ffffffff", day_of(now), 1, 0, 0, now)])
        broker.down = False
        await until_async(lambda: broker.records)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cluster_options": ClusterOptions(cluster_keys=True)}, "--cluster-keys needs --cluster"),
        ({"api_keys_file": "keys.json"}, "omit --api-keys-file"),
        ({"demo": True}, "omit --api-keys-file and --demo"),
    ],
)
def test_one_kind_of_keys(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    """A server uses the cluster's keys or a file, and is never left to guess."""
    cluster = ClusterOptions(cluster="nats://a", cluster_keys=True)
    common: dict[str, Any] = {"data_dir": str(tmp_path / "data"), "cluster_options": cluster}
    with pytest.raises(SettingsError, match=message):
        _prepare(Settings(**(common | settings)))


def test_shared_keys_replace_files_in_default_places(tmp_path: Path) -> None:
    """Also one that the validator has."""
    file = tmp_path / "vanta_api" / "api_keys.json"
    file.parent.mkdir()
    file.write_text("{}")
    cluster = ClusterOptions(cluster="nats://a", cluster_keys=True)
    common: dict[str, Any] = {"data_dir": str(tmp_path / "data"), "validator_dir": str(tmp_path)}
    prepared = _prepare(Settings(**common, cluster_options=cluster))
    assert prepared.api_keys_file == str(shared_key_file(tmp_path / "data"))
    assert _prepare(Settings(**common)).api_keys_file == ""


def test_doctor_looks_at_the_copy(tmp_path: Path) -> None:
    """It warns while there is none, and reports a key file that is named as well."""
    cluster = ClusterOptions(cluster="nats://a", cluster_keys=True)
    settings = Settings(data_dir=str(tmp_path), cluster_options=cluster)
    path = shared_key_file(tmp_path)

    def found(**changes: Any) -> list[tuple[str, str]]:
        return [finding[::2] for finding in check_key_file(msgspec.structs.replace(settings, **changes))]

    ((status, sentence),) = found()
    assert status == "warn"
    assert f"{path}; all requests get 401 until `ptn keys add --cluster`" in sentence
    add_key(path, "alice", 100)
    assert found() == [("ok", f"1 key in {path} is valid")]
    assert ("bad", "give --cluster-keys or --api-keys-file, not both") in found(api_keys_file="keys.json")
