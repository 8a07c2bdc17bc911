"""The API inside a validator: started by a daemon thread, fed by its queue, ended with it."""

from __future__ import annotations

import json
import os
import queue
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from ptn_api.api_manager import APIManager, _Pipe
from ptn_api.process.control import FATAL
from tests import factories
from tests.processes import lives
from tests.system.api import READY, ROOT, SHORT_PERIODS
from tests.system.follower import Follower
from tests.system.validator import Validator
from tests.waiting import PATIENCE_S, until


def _title(process: psutil.Process) -> str:
    """The process's title, or where setproctitle is missing, the last word of its command line."""
    words = " ".join(process.cmdline()).split()
    return " ".join(words if words[:1] == ["ptn-api"] else words[-1:]).replace("ptn-api-", "ptn-api ")


class Embedded:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        ready = READY.fullmatch(process.stdout.readline().strip())
        assert ready
        self.stream = ready[2]
        children = psutil.Process(process.pid).children(recursive=True)
        self.family = [child for child in children if _title(child).startswith("ptn-api")]
        self.others = [child for child in children if child not in self.family]
        """The validator's own processes, such as the one that holds a manager's queue."""

    def put(self, position: dict[str, Any]) -> None:
        self.say(json.dumps(position))

    def say(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()


@contextmanager
def embedded(cwd: Path, tmp_path: Path, *, kind: str = "queue") -> Iterator[Embedded]:
    settings = SHORT_PERIODS | {
        "data_dir": str(tmp_path / "data"),
        "api_keys_file": str(tmp_path / "api_keys.json"),
        "rest_host": "127.0.0.1",
        "rest_port": 0,
        "ws_host": "127.0.0.1",
        "ws_port": 0,
        "kind": kind,
    }
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
        "from tests.system.embedding_validator import main; main()"
    )
    with (tmp_path / "validator.log").open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", code, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=cwd,
        )
    running = None
    try:
        yield (running := Embedded(process))
    finally:
        process.kill()
        for other in running.others if running is not None else ():
            other.kill()
        process.communicate()
        if running is not None:
            psutil.wait_procs(running.family, timeout=PATIENCE_S)
            assert not [p for p in running.family if lives(p)], "left behind by a killed validator"


def fresh_uuid(n: int) -> str:
    return str(factories.order(n * 100)["order_uuid"])


def fresh(n: int, n_orders: int = 1) -> dict[str, Any]:
    now = time.time_ns() // 1_000_000
    return factories.position(n, [factories.order(n * 100 + i, 0.1, at=now) for i in range(n_orders)])


@pytest.mark.parametrize("kind", ["queue", "multiprocessing", "manager"])
def test_orders_come_through_the_queue(
    kind: str, tmp_path: Path, validator: Validator, keys: dict[int, str]
) -> None:
    """With enum members, before the file exists, and only once although the file follows."""
    with (
        embedded(validator.root, tmp_path, kind=kind) as running,
        Follower(running.stream, keys[100]) as follower,
    ):
        position = fresh(1)
        running.put(position)
        follower.wait_for(1)
        validator.write(position)
        second = position | {"orders": [*position["orders"], *fresh(2)["orders"]]}
        validator.write(second)
        follower.wait_for(2)
        running.put(second)
        third = fresh(3)
        running.put(third)
        follower.wait_for(3)
        expected = [o["order_uuid"] for o in (*second["orders"], *third["orders"])]
        assert follower.order_uuids == expected
        assert follower.messages[0]["data"]["origin"] == "test"


def test_without_a_directory_the_queue_is_served(tmp_path: Path, keys: dict[int, str]) -> None:
    """In a folder without a validator; malformed items on the queue do no harm."""
    with embedded(tmp_path, tmp_path) as running, Follower(running.stream, keys[100]) as follower:
        running.put(fresh(1) | {"position_uuid": 7})
        running.put(fresh(2, 2))
        follower.wait_for(2)
        assert follower.order_uuids == [o["order_uuid"] for o in fresh(2, 2)["orders"]]


def test_the_api_ends_with_the_validator(tmp_path: Path, validator: Validator) -> None:
    """Also when it exits without stopping the API. Its signal handlers are left alone."""
    with embedded(validator.root, tmp_path) as running:
        assert len(running.family) == 4
        running.say("quit")
        assert running.process.wait(timeout=PATIENCE_S) == 0
        until(lambda: not any(lives(p) for p in running.family))


def test_a_killed_supervisor_is_started_again(
    tmp_path: Path, validator: Validator, keys: dict[int, str]
) -> None:
    """Its children may hold the log a moment longer; items queued meanwhile come through."""
    with embedded(validator.root, tmp_path) as running:
        supervisor = next(p for p in running.family if _title(p) == "ptn-api supervisor")
        supervisor.kill()
        position = fresh(1)
        for _ in range(5):
            running.put(position)
        assert running.process.stdout is not None
        ready = READY.fullmatch(running.process.stdout.readline().strip())
        assert ready
        with Follower(ready[2], keys[100], last_sequence=0) as follower:
            running.put(fresh(2))
            until(lambda: fresh_uuid(2) in follower.order_uuids)
        running.family = [
            p for p in psutil.Process(running.process.pid).children(recursive=True) if p not in running.others
        ]


def test_a_stop_is_heard_while_the_api_is_being_started(tmp_path: Path, validator: Validator) -> None:
    """At any moment; `run` returns, and no process is left."""
    for pause_s in (0.0, 0.02, 0.2):
        manager = APIManager(
            queue.Queue(),
            rest_port=0,
            ws_port=0,
            validator_dir=str(validator.root),
            data_dir=str(tmp_path / "data"),
            api_keys_file=str(tmp_path / "api_keys.json"),
        )
        thread = threading.Thread(target=manager.run)
        thread.start()
        time.sleep(pause_s)
        manager.stop()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_an_api_that_cannot_run_is_given_up(tmp_path: Path) -> None:
    """Not at once: processes of a killed validator's API may hold ports and log for a moment."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        manager = APIManager(
            queue.Queue(),
            rest_port=taken.getsockname()[1],
            ws_port=0,
            validator_dir="",
            data_dir=str(tmp_path / "data"),
            api_keys_file=str(tmp_path / "api_keys.json"),
            parent_check_ms=100,
        )
        manager.run()
    assert manager._process is not None
    assert manager._process.returncode == FATAL


def test_the_queue_of_a_validator_with_many_open_files(tmp_path: Path) -> None:
    """More than the 1,024 descriptors that select(2) supports."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 1_100 and (hard != resource.RLIM_INFINITY and hard < 1_100):
        pytest.skip("not enough files may be opened here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1_100), hard))
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(1_030)]
    try:
        with _Pipe() as pipe:
            assert pipe.reading > 1_024
            assert pipe.write(b"a line\n", lambda: True)
            assert os.read(pipe.reading, 100) == b"a line\n"
            assert not pipe.write(b"x" * (2 << 20), iter([True] * 5 + [False]).__next__)
            assert os.read(pipe.reading, 100)
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_fork_of_the_validator_keeps_nothing_alive(tmp_path: Path, validator: Validator) -> None:
    """A worker with the validator's open pipes outlives it; the API does not wait for those."""
    with embedded(validator.root, tmp_path) as running:
        running.say("fork")
        assert running.process.stdout is not None
        worker = psutil.Process(int(running.process.stdout.readline()))
        try:
            running.process.kill()
            until(lambda: not any(lives(p) for p in running.family))
            assert lives(worker)
        finally:
            worker.kill()
