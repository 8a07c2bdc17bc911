"""Stops, crashes and kills: nothing lost, nothing repeated, no process left behind."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import psutil
import pytest
import requests

from tests.ports import reserved_ports
from tests.processes import lives
from tests.system.api import PROCESSES, api
from tests.system.follower import Follower
from tests.system.validator import Validator
from tests.waiting import PATIENCE_S, until


def test_what_happened_while_the_api_was_down_is_replayed(
    validator: Validator, data_dir: Path, keys: dict[int, str]
) -> None:
    """100 orders written meanwhile: a client that comes back receives exactly those, once, in order."""
    validator.place()
    with (
        api(data_dir, validator_dir=validator.root) as server,
        Follower(server.stream, keys[100]) as follower,
    ):
        position = validator.place()
        follower.wait_for(1)
        last = follower.last_sequence
        assert server.stop() == 0
    for _ in range(100):
        position = validator.add_order(position)
    with (
        api(data_dir, validator_dir=validator.root) as server,
        Follower(server.stream, keys[100], last_sequence=last) as follower,
    ):
        follower.wait_for(100)
        validator.place()
        follower.wait_for(101)
        assert follower.order_uuids == validator.placed[2:]
        assert follower.sequences == list(range(last + 1, last + 102))


@pytest.mark.parametrize("name", PROCESSES)
def test_a_killed_process_comes_back_and_nothing_is_lost(
    name: str, validator: Validator, data_dir: Path, keys: dict[int, str]
) -> None:
    """kill -9 under 50 orders/s: the other processes keep running, a client gets every order exactly once."""
    validator.place()
    stop = threading.Event()

    def trade() -> None:
        while not stop.wait(0.02):
            validator.place()

    with (
        api(data_dir, validator_dir=validator.root) as server,
        Follower(server.stream, keys[100]) as follower,
    ):
        trader = threading.Thread(target=trade)
        trader.start()
        try:
            follower.wait_for(10)
            before = server.children()
            pid = server.kill(name)
            server.wait_restarted(name, pid)
            n = len(follower.messages)
            follower.wait_for(n + 50)
        finally:
            stop.set()
            trader.join()
        follower.wait_for(len(validator.placed) - 1)
        assert sorted(follower.order_uuids) == sorted(validator.placed[1:])
        assert follower.sequences == list(
            range(follower.sequences[0], follower.sequences[0] + len(follower.sequences))
        )
        after = server.children()
        assert {r for r in PROCESSES if before[r].pid != after[r].pid} == {name}
        # A restarted rest answers "starting" (503) until its documents are built.
        until(
            lambda: requests.get(server.rest + "/health", timeout=PATIENCE_S).status_code == 200,
            what="healthy",
        )


def test_a_killed_supervisor_leaves_no_orphans(
    validator: Validator, data_dir: Path, keys: dict[int, str]
) -> None:
    """Its children end by themselves, and a new server starts on the same data and ports."""
    validator.place()
    with reserved_ports(2) as (rest_port, ws_port):
        ports = {"api_rest_port": rest_port, "api_ws_port": ws_port}
        with api(data_dir, validator_dir=validator.root, **ports) as server:
            children = list(server.children().values())
            os.kill(server.process.pid, signal.SIGKILL)
            server.process.wait()
            psutil.wait_procs(children, timeout=PATIENCE_S)
            assert [p for p in children if lives(p)] == []
        with (
            api(data_dir, validator_dir=validator.root, **ports) as server,
            Follower(server.stream, keys[100]) as follower,
        ):
            validator.place()
            follower.wait_for(1)


def test_sigint_and_sigterm_stop_in_order(validator: Validator, data_dir: Path) -> None:
    """Exit status 0, and no process remains."""
    validator.place()
    for number in (signal.SIGINT, signal.SIGTERM):
        with api(data_dir, validator_dir=validator.root) as server:
            children = list(server.children().values())
            server.process.send_signal(number)
            assert server.process.wait(timeout=PATIENCE_S) == 0
            until(lambda children=children: not any(lives(c) for c in children))  # type: ignore[misc]


def test_a_deleted_log_gets_a_new_epoch(
    validator: Validator, data_dir: Path, keys: dict[int, str], tmp_path: Path
) -> None:
    """An old cursor then means "from now on"."""
    validator.place()
    with (
        api(data_dir, validator_dir=validator.root) as server,
        Follower(server.stream, keys[100]) as follower,
    ):
        validator.place()
        follower.wait_for(1)
        old = follower.success[0]["epoch"]
        last = follower.last_sequence
    data_dir.rename(tmp_path / "old-data")
    with (
        api(data_dir, validator_dir=validator.root) as server,
        Follower(server.stream, keys[100], last_sequence=last) as follower,
    ):
        assert follower.success[0]["epoch"] != old
        validator.place()
        follower.wait_for(1)
        assert follower.order_uuids == validator.placed[-1:]
