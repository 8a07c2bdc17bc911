"""A real server under attack, with a well-behaved client and REST caller whom nothing may harm."""

from __future__ import annotations

import json
import re
import resource
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from ptn_api.access import add_key
from ptn_api.process.settings import Settings
from tests import factories
from tests.system.api import Api, api
from tests.system.follower import Follower
from tests.system.validator import Validator
from tests.waiting import PATIENCE_S, until

__all__ = ["FRAMES_PER_MINUTE", "TIMEOUT_MS", "Fortress", "fortress_in", "raise_file_limit"]

TIMEOUT_MS = 4_000
"""For headers and logins: shorter than the default, longer than it takes to open thousands of sockets."""
FRAMES_PER_MINUTE = Settings().stream.frames_per_minute
GROWTH_BYTES = 96 << 20
"""How much more memory a process may hold after an attack: buffers of thousands of sockets, no more."""
TRADE_S = 0.4
WRONG = re.compile(r'Traceback|"level": ?"(error|critical)"')
TOLD = re.compile(r'"code": ?"(source_stale|files_refused)".*"event": ?"problem"')
"""What an operator must be told while hostile files outnumber the others."""


def raise_file_limit(files: int) -> None:
    """As many open files in this process; skips the test where the system forbids it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < files:
        pytest.skip(f"needs {files} open files; the hard limit is {hard}")
    if soft != resource.RLIM_INFINITY and soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))


class Fortress:
    """`under_attack()` is where tests do their worst."""

    def __init__(self, server: Api, validator: Validator, keys: dict[int, str], follower: Follower) -> None:
        self.server = server
        self.validator = validator
        self.keys = keys
        self.key_file = validator.root.parent / "api_keys.json"
        self._follower = follower
        self._stop = threading.Event()
        self._served = 0
        self._harm: list[str] = []
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._trade, self._ask)]
        for thread in self._threads:
            thread.start()

    @property
    def rest_port(self) -> int:
        return int(self.server.rest.rpartition(":")[2])

    @property
    def ws_port(self) -> int:
        return self.server.ws_port

    @contextmanager
    def under_attack(self) -> Iterator[None]:
        """Afterwards: the same processes, no error logged, bounded memory, everybody served all the time."""
        pids, before = self._pids(), self._memory()
        logged = self.server.log.stat().st_size
        yield
        self.check_served()
        assert self._pids() == pids
        self._check_log(logged)
        grown = {name: now - before[name] for name, now in self._memory().items()}
        assert max(grown.values()) < GROWTH_BYTES, grown

    def check_served(self) -> None:
        """The client has every order that is there, and the caller another few answers."""
        served, placed = self._served, len(self.validator.placed)
        until(lambda: self._served > served + 2 or self._harm, what="REST answers")
        until(lambda: len(self._follower.messages) >= placed > 0 or self._harm, what="orders")
        # Positions written at the same moment may be numbered either way.
        assert set(self.validator.placed[:placed]) <= set(self._follower.order_uuids)
        assert len(set(self._follower.order_uuids)) == len(self._follower.order_uuids)
        assert self._harm == []
        assert len(self._follower.success) == 1, "the client was disconnected"

    def call(self, path: str, **ways: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.keys[100]}"}
        return requests.get(self.server.rest + path, headers=headers, timeout=PATIENCE_S, **ways)

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def _pids(self) -> dict[str, int]:
        return {name: process.pid for name, process in self.server.children().items()}

    def _memory(self) -> dict[str, int]:
        return {name: process.memory_info().rss for name, process in self.server.children().items()}

    def _check_log(self, start: int) -> None:
        with self.server.log.open("rb") as file:
            file.seek(start)
            new = file.read().decode(errors="replace")
        wrong = [line for line in new.splitlines() if WRONG.search(line) and not TOLD.search(line)]
        assert not wrong, wrong[0][:3_000]

    def _trade(self) -> None:
        """No faster than is followed: thousands of positions would be the burden, not the attack."""
        while not self._stop.wait(TRADE_S):
            if len(self._follower.messages) >= len(self.validator.placed):
                self.validator.place()

    def _ask(self) -> None:
        """A new connection each time: getting in is part of being served."""
        miner = factories.MINER
        while not self._stop.wait(0.05):
            try:
                answer = self.call(f"/miner-positions/{miner}" if self._served else "/me")
                if answer.status_code not in (200, 404):
                    self._harm.append(f"{answer.status_code} {answer.text[:200]}")
                json.loads(answer.content)
                self._served += 1
            except (requests.RequestException, ValueError) as error:
                self._harm.append(repr(error)[:300])


@contextmanager
def fortress_in(home: Path) -> Iterator[Fortress]:
    """With default limits, but for those on requests of a key, which the attacks are about to use."""
    validator = Validator(home / "validator")
    validator.place()
    validator.placed.clear()  # before the baseline: not announced
    keys = {tier: add_key(home / "api_keys.json", f"user-{tier}", tier) for tier in (0, 30, 50, 100)}  # type: ignore[arg-type]
    own = {
        "auth_timeout_ms": TIMEOUT_MS,
        "header_timeout_ms": TIMEOUT_MS,
        "frames_per_minute": FRAMES_PER_MINUTE,
        "process_silent_ms": 60_000,  # a process that has to wait for a busy machine is no harm of an attack
    }
    with ExitStack() as stack:
        server = stack.enter_context(api(home / "data", validator_dir=validator.root, **own))
        follower = stack.enter_context(Follower(server.stream, keys[100]))
        fortress = Fortress(server, validator, keys, follower)
        stack.callback(fortress.close)
        until(lambda: follower.messages, what="the first order")
        yield fortress
