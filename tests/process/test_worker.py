"""A worker's end: errors that a restart cannot fix are reported as fatal."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest

from ptn_api.event_log import open_writer
from ptn_api.process import worker
from ptn_api.process.control import Channel, Fatal, FromWorker, Ready, WorkerConfig
from ptn_api.process.settings import load_settings
from ptn_api.stream import server
from tests.waiting import PATIENCE_S


async def test_an_unsupported_library_is_fatal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream's picows: the process ends with status 1, without having been ready."""
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
    assert status == 1
    assert Fatal() in received
    assert Ready() not in received
