"""The TypeScript client: its own tests, and real servers."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from descriptions.__main__ import TYPESCRIPT, typescript
from ptn_api.access import add_key
from tests import factories
from tests.chaos import ChaosProxy
from tests.system.api import Api, api
from tests.system.validator import Validator
from tests.web import node, session_vectors

needs_node = pytest.mark.skipif(bool(node.missing()), reason=node.missing() or "-")

N_ORDERS = 10_000
PER_FILE = 10


def test_the_types_match_the_descriptions() -> None:
    """After a change of a route or a frame: `make descriptions`."""
    assert TYPESCRIPT.read_text() == typescript()


def test_both_clients_are_tested_with_the_same_sessions() -> None:
    """After a change of the client's session or its tests: `python -m tests.web.session_vectors`."""
    assert session_vectors.FILE.read_text() == session_vectors.text()


@needs_node
def test_its_own_tests_pass() -> None:
    """Compiled strictly, with a program that uses every public name."""
    command = ["node", "--test", "--test-reporter=dot", *map(str, sorted(node.built().glob("*.test.js")))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


# --- real servers -----------------------------------------------------------------------------------------


class Served:
    """A server of a validator's directory, and a key for it."""

    def __init__(self, server: Api, validator: Validator, key: str, folder: Path) -> None:
        self.server = server
        self.validator = validator
        self.key = key
        self.folder = folder

    def place(self, number: int, miner: str = factories.MINER) -> None:
        """Writes a position with several new orders at once."""
        now = time.time_ns() // 1_000_000
        orders = [factories.order(number * 1000 + n, 0.1, at=now + n) for n in range(PER_FILE)]
        self.validator.placed += [order["order_uuid"] for order in orders]
        self.validator.write(factories.position(number, orders, miner=miner))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    validator = Validator(tmp_path / "validator")
    key = add_key(tmp_path / "api_keys.json", "user", 100)
    with api(tmp_path / "data", validator_dir=validator.root) as server:
        yield Served(server, validator, key, tmp_path)


@needs_node
def test_orders_survive_cut_connections(served: Served) -> None:
    """Over both transports, every order comes once and in order, and no gap is reported."""
    node.built()
    rest_port = int(served.server.rest.rpartition(":")[2])
    with ExitStack() as stack:
        programs, proxies = [], []
        for name, port in (("ws", served.server.ws_port),):
            proxy = stack.enter_context(ChaosProxy(port, seed=port))
            running = node.program(
                "follow",
                served.folder / f"{name}.txt",
                PTN_API_KEY=served.key,
                PTN_URL=f"{name}://127.0.0.1:{proxy.port}",
                PTN_ORDERS=str(N_ORDERS),
            )
            programs.append(stack.enter_context(running))
            proxies.append(proxy)
        for program in programs:
            program.wait_for("state")
        for number in range(N_ORDERS // PER_FILE):
            served.place(number)
            if number % 20 == 0:
                for proxy in proxies:
                    proxy.cut(0.7)
        for program in programs:
            uuids = program.wait_for("uuids")
            assert sorted(uuids) == sorted(served.validator.placed)
            assert program.wait_for("gaps") == []
            assert program.wait_for("connections") > 3
