"""A worker's end: its exit status says whether a restart can fix the error."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest

from ptn_api.event_log import open_writer
from ptn_api.process import worker
from ptn_api.process.control import FATAL, Channel, FromWorker, Ready, WorkerConfig, WorkerControl
from ptn_api.process.settings import load_settings
from ptn_api.stream import server
from tests.waiting import PATIENCE_S


async def test_an_unsupported_library_is_fatal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream's picows: the process ends without having been ready."""
    monkeypatch.setattr(server, "version", lambda _: "99.0")
    settings = load_settings({"data_dir": str(tmp_path), "api_keys_file": str(tmp_path / "keys.json")}, {})
    received: list[FromWorker] = []
    supervisor = Channel[FromWorker](FromWorker, received.append)
    ours, theirs = socket.socketpair()
    await supervisor.open(ours)
    listener = socket.create_server(("127.0.0.1", 0))
    config = WorkerConfig(process="stream", settings=settings, listener=listener.detach())
    with contextlib.closing(open_writer(tmp_path)):
        status = await asyncio.wait_for(worker._run_process(config, theirs), PATIENCE_S)
    await asyncio.wait_for(supervisor.closed.wait(), PATIENCE_S)
    assert status == FATAL
    assert Ready() not in received


@pytest.mark.parametrize("failing", ["report_alive", "end_with_supervisor"])
@pytest.mark.parametrize("process", ["rest", "simulator"])
async def test_a_control_task_that_fails_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, process: str
) -> None:
    """The supervisor starts it again. Without these tasks it would count as down, or outlive its parent."""

    async def fail(_: WorkerControl) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(WorkerControl, failing, fail)
    settings = load_settings(
        {
            "data_dir": str(tmp_path),
            "validator_dir": str(tmp_path / "validator"),
            "api_keys_file": str(tmp_path / "keys.json"),
        },
        {},
    )
    supervisor = Channel[FromWorker](FromWorker, lambda _: None)
    ours, theirs = socket.socketpair()
    await supervisor.open(ours)
    listener = socket.create_server(("127.0.0.1", 0))
    config = WorkerConfig(process=process, settings=settings, listener=listener.detach())
    with pytest.raises(RuntimeError, match="broken"):
        await asyncio.wait_for(worker._run_process(config, theirs), PATIENCE_S)
    await asyncio.wait_for(supervisor.closed.wait(), PATIENCE_S)
