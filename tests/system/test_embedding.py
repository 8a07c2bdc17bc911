"""The API inside a validator: started by a daemon thread, fed by its queue, gone when that is gone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import factories
from tests.system.api import READY, ROOT, SHORT_PERIODS
from tests.system.follower import Follower
from tests.system.validator import Validator
from tests.waiting import until


class Embedded:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        ready = READY.fullmatch(process.stdout.readline().strip())
        assert ready
        self.stream = ready[2]
        children = psutil.Process(process.pid).children(recursive=True)
        self.family = [child for child in children if any("ptn-api-" in word for word in child.cmdline())]
        self.others = [child for child in children if child not in self.family]
        """The validator's own, such as the one that holds a manager's queue."""

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
            psutil.wait_procs(running.family, timeout=30)
            assert not [p for p in running.family if p.is_running()], "left behind by a killed validator"


def fresh(n: int, n_orders: int = 1) -> dict[str, Any]:
    now = time.time_ns() // 1_000_000
    return factories.position(n, [factories.order(n * 100 + i, 0.1, at=now) for i in range(n_orders)])


@pytest.mark.parametrize("kind", ["queue", "multiprocessing", "manager"])
def test_orders_come_through_the_queue(
    kind: str, tmp_path: Path, validator: Validator, keys: dict[int, str]
) -> None:
    """With enum members, before the file is there, and only once although the file follows."""
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
    """In a folder that holds no validator, and nonsense on the queue harms nobody."""
    with embedded(tmp_path, tmp_path) as running, Follower(running.stream, keys[100]) as follower:
        running.put(fresh(1) | {"position_uuid": 7})
        running.put(fresh(2, 2))
        follower.wait_for(2)
        assert follower.order_uuids == [o["order_uuid"] for o in fresh(2, 2)["orders"]]


def test_the_api_ends_with_the_validator(tmp_path: Path, validator: Validator) -> None:
    """When it leaves without a word, as when it is killed (the other tests do); its handlers stay its own."""
    with embedded(validator.root, tmp_path) as running:
        assert len(running.family) == 4
        running.say("quit")
        assert running.process.wait(timeout=20) == 0
        until(lambda: not any(p.is_running() for p in running.family))


def test_a_fork_of_the_validator_keeps_nothing_alive(tmp_path: Path, validator: Validator) -> None:
    """A worker that outlives it, with all that was open in it: its pipes are not what the API goes by."""
    with embedded(validator.root, tmp_path) as running:
        running.say("fork")
        assert running.process.stdout is not None
        worker = psutil.Process(int(running.process.stdout.readline()))
        try:
            running.process.kill()
            until(lambda: not any(p.is_running() for p in running.family))
            assert worker.is_running()
        finally:
            worker.kill()
