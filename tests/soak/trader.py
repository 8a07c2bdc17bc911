"""A trader's program: follows with `follow`, keeps its cursor in a file, and writes what happens to stdout.

python -m tests.soak.trader CONFIG.json     until SIGTERM; commands come on stdin, one a line
"""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from ptn_api.client import PTNClient, Retries, follow, open_mirror
from ptn_api.client.connection import StreamState
from ptn_api.client.delivery import Following
from ptn_api.errors import APIStatusError, AuthenticationError, ClientError
from ptn_api.wire.client_session import Gap
from tests.soak.bots import TIMING
from tests.soak.orphan import end_with_parent
from tests.soak.report import TraderConfig

MINERS = 4
"""Miners whose positions a process and its forked child request at the same time."""


def tell(kind: str, *values: object) -> None:
    """Writes a line in one piece: threads and a forked child share stdout."""
    os.write(1, msgspec.json.encode([kind, time.time_ns() // 1_000_000, *values]) + b"\n")


class Program:
    """Follows with one key after another."""

    def __init__(self, config: TraderConfig) -> None:
        self._config = config
        self._key = ""
        self._last = -1
        self._orders: Following | None = None
        self._stopping = False

    def run(self) -> None:
        while not self._stopping:
            self._key = Path(self._config.key).read_text()
            tell("began")
            try:
                with self._client() as client:
                    self._follow(client)
            except AuthenticationError:
                tell("refused")
                time.sleep(0.2)  # the server may not know a new key yet

    def stop(self) -> None:
        self._stopping = True
        if self._orders is not None:
            self._orders.stop()

    def _follow(self, client: PTNClient) -> None:
        self._orders = orders = self._follower()
        with orders:
            if self._stopping:  # since before there was this follower
                return
            for message in orders:
                order = message.new_order
                self._last = message.sequence
                tell(
                    *("order", message.sequence, order.order_uuid, message.timestamp, order.processed_ms),
                    *(message.late, message.replay),
                )
                if (command := _command()) and self._obeyed(command, orders, client):
                    return

    def _obeyed(self, command: str, orders: Following, client: PTNClient) -> bool:
        """Carries the command out; returns whether another follower takes over."""
        if command == "switch":
            return True
        if command == "again":  # as a notebook cell that is run twice
            with self._follower() as newer:
                next(newer)  # not committed: the next follower begins with it
                tell("answers", _unless_raised("replaced", lambda: next(orders)))
            return True
        self._fork(orders, client, how=command.split()[0], linger="linger" in command)
        return False

    def _follower(self, **changes: Any) -> Following:
        options: dict[str, Any] = {
            "state_dir": self._config.folder,
            "on_gap": _on_gap,
            "on_state": _on_state,
            "stop_on_auth_error": True,
            "timing": TIMING,
        }
        return follow(self._config.stream_url, self._key, **options | changes)

    def _client(self) -> PTNClient:
        return PTNClient(self._config.rest_url, self._key, retries=Retries(times=10))

    # --- forks ----------------------------------------------------------------------------------------------

    def _fork(self, orders: Following, client: PTNClient, *, how: str, linger: bool) -> None:
        """Forks with an open follower, mirror and client; `linger` leaves the child running."""
        with open_mirror(self._config.stream_url, self._config.rest_url, self._key, timing=TIMING) as mirror:
            miners = client.hotkeys()[:MINERS]

            def child() -> None:
                wrong = [
                    *_unless_raised("forked", lambda: next(orders)),
                    *_unless_raised("forked", lambda: len(mirror)),
                    *self._wrong_answers(client, miners),
                ]
                orders.close()
                mirror.close()
                with self._follower(name="child", resume=False, on_gap=None, on_state=None) as own:
                    if next(own).sequence <= self._last:
                        wrong.append("a new follower in the child got an older order")
                tell("answers", wrong)
                if linger:
                    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                    while os.read(0, 1):
                        pass

            if how == "fork":
                pid = os.fork()
                if not pid:
                    child()
                    sys.exit(0)  # with all finalizers, as a worker of gunicorn ends
                join: Callable[[], object] = partial(os.waitpid, pid, 0)
            else:
                process = multiprocessing.get_context("fork").Process(target=child)
                process.start()
                join = process.join
            wrong = self._wrong_answers(client, miners)
            if not linger:
                join()
            if not len(mirror):
                wrong.append("the parent's mirror is empty")
            tell("answers", wrong)

    def _wrong_answers(self, client: PTNClient, miners: list[str]) -> list[str]:
        """Requests several documents and returns those that belong to other requests."""
        wrong = []
        for hotkey in miners:
            try:
                owners = {position.miner_hotkey for position in client.miner(hotkey).positions}
            except APIStatusError as error:
                owners = set()
                if error.status != 404:  # the validator may have removed the miner
                    wrong.append(f"{error}")
            if owners - {hotkey}:
                wrong.append(f"positions of {owners} for {hotkey}")
        if (alias := client.me().alias) != self._config.alias:
            wrong.append(f"the key of {alias}")
        return wrong


def _command() -> str:
    ready, _, _ = select.select([0], [], [], 0)
    return os.read(0, 4096).decode().strip() if ready else ""


def _unless_raised(code: str, call: Callable[[], object]) -> list[str]:
    """Returns a description of what happened instead of a ClientError with this code."""
    try:
        call()
    except ClientError as error:
        return [] if error.code == code else [f"{error.code} instead of {code}"]
    return [f"no error instead of {code}"]


def _on_gap(gap: Gap) -> None:
    tell("gap", f"{gap.reason} {gap.after}-{gap.next}")


def _on_state(state: StreamState) -> None:
    tell("state", str(state), [problem.code for problem in state.problems])


def main(config: TraderConfig) -> None:
    end_with_parent()
    program = Program(config)
    signal.signal(signal.SIGTERM, lambda *_: program.stop())
    program.run()


if __name__ == "__main__":
    main(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=TraderConfig))
