"""After any sequence of changes the log equals the files, and each order is announced once."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from ptn_api.intake.watch import NullWatch, Watch, open_watch
from tests.factories import BTCUSD, EURUSD, T0, order, position, uuid
from tests.intake.running import WATCH_ALONE, Intake, running
from tests.intake.validator_dir import ValidatorDir

Body = dict[str, Any]
SEEDS = range(max(1, min(4, settings().max_examples // 25)))
"""One in the quick profile, four in the others."""


class Walk:
    """A validator that makes one random change after another, and the expected state."""

    def __init__(self, validator: ValidatorDir, seed: int) -> None:
        self.random = random.Random(seed)
        self.validator = validator
        self.open: dict[str, Body] = {}
        self.closed: dict[str, Body] = {}
        self.expected: set[tuple[str, str]] = set()
        self.queued: list[Body] = []
        self._positions = self._orders = 0

    def bodies(self) -> dict[tuple[str, str], Body]:
        both = self.open | self.closed
        return {(body["miner_hotkey"], uuid): body for uuid, body in both.items()}

    def step(self) -> None:
        if not self.open:
            return self.begin()
        act = self.random.choice(
            [
                *(self.begin, self.add, self.add, self.refresh, self.refresh, self.correct, self.close),
                *(self.synchronise, self.split, self.remove, self.burst, self.half_written),
            ]
        )
        return act()

    # --- what a validator does ----------------------------------------------------------------------------

    def begin(self) -> None:
        self._positions += 1
        miner = f"miner{self.random.randrange(8)}"
        pair = self.random.choice([BTCUSD, EURUSD])
        self._write(position(self._positions, [self._order()], miner=miner, trade_pair=pair))

    def add(self) -> None:
        body = self._any_open()
        self._write(body | {"orders": [*body["orders"], self._order()]}, queue=self.random.random() < 0.5)

    def burst(self) -> None:
        for _ in range(3):
            self.add()

    def refresh(self) -> None:
        self._write(self._any_open() | {"current_return": self.random.random()})

    def correct(self) -> None:
        body = self._any_open()
        orders = [dict(o) for o in body["orders"]]
        self.random.choice(orders)["price"] = self.random.random()
        self._write(body | {"orders": orders})

    def close(self) -> None:
        body = self._any_open()
        flat = self._order(leverage=-0.1, order_type="FLAT")
        closed = body | {"orders": [*body["orders"], flat], "is_closed_position": True, "close_ms": T0}
        self._delete(body)
        self._write(closed)

    def synchronise(self) -> None:
        body = self._any_open()
        orders = list(body["orders"])
        if len(orders) > 1 and self.random.random() < 0.5:
            orders.pop(self.random.randrange(len(orders)))
        else:
            orders.insert(self.random.randrange(len(orders) + 1), self._order())
        self._delete(body)
        self._write(body | {"orders": orders})

    def split(self) -> None:
        body = self._any_open()
        if len(body["orders"]) < 2:
            return
        self._delete(body)
        for orders in (body["orders"][:1], body["orders"][1:]):
            self._positions += 1
            self._write(body | {"position_uuid": uuid(self._positions), "orders": orders})

    def remove(self) -> None:
        if self.random.random() < 0.2:
            self._delete(self._any_open())

    def half_written(self) -> None:
        body = self._any_open()
        path = self.validator.file(body)
        self.validator.put(path, path.read_bytes()[:-20])
        self.validator.write(body)

    # --- doing it -----------------------------------------------------------------------------------------

    def _order(self, leverage: float = 0.1, **fields: Any) -> Body:
        self._orders += 1
        return order(self._orders, leverage, **fields)

    def _any_open(self) -> Body:
        return self.random.choice(list(self.open.values()))

    def _write(self, body: Body, *, queue: bool = False) -> None:
        kept = self.closed if body["is_closed_position"] else self.open
        kept[body["position_uuid"]] = body
        self.expected |= {(body["miner_hotkey"], o["order_uuid"]) for o in body["orders"]}
        self.validator.write(body)
        if queue:
            self.queued.append(body)

    def _delete(self, body: Body) -> None:
        self.open.pop(body["position_uuid"])
        self.validator.delete(body)


def _announced(intake: Intake) -> Counter[tuple[str, str]]:
    return Counter((event.miner_hotkey, event.order_uuid) for event in intake.events())


def _watch(kind: str) -> Watch:
    return NullWatch() if kind == "sweep" else open_watch()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["watch", "sweep", "both"])
async def test_the_log_equals_the_files(validator: ValidatorDir, data: Path, kind: str, seed: int) -> None:
    """By the watch, by the sweep, by both; with the queue and with restarts in between.

    An order may be overwritten before it is read, so each phase pauses now and then; orders that exist at a
    pause must be announced.
    """
    walk = Walk(validator, seed)
    periods = WATCH_ALONE if kind == "watch" else {}
    must: set[tuple[str, str]] = set()
    for phase in range(3):
        async with running(data, validator, watch=_watch(kind), **periods) as intake:
            if phase == 0:
                walk.begin()
            for step in range(60):
                walk.step()
                for body in walk.queued:
                    intake.enqueue({"position": body})
                walk.queued.clear()
                if walk.random.random() < 0.3:
                    await asyncio.sleep(0)
                if step % 15 == 14:
                    there = _orders(walk)
                    await intake.until(lambda there=there: there <= set(_announced(intake)), "announcements")
                    must |= there
            if kind == "watch":
                await intake.until(lambda: walk.bodies().items() <= intake.state().items(), "the last state")
            else:
                await intake.until(lambda: intake.state() == walk.bodies(), "the last state")
            announced = _announced(intake)
            assert set(announced.values()) == {1}
            assert must <= set(announced) <= walk.expected
        for _ in range(20):
            walk.step()
        walk.queued.clear()
    async with running(data, validator) as intake:
        await intake.until(lambda: intake.state() == walk.bodies(), "the state after a restart")
        announced = _announced(intake)
        assert set(announced.values()) == {1}
        assert must | _orders(walk) <= set(announced) <= walk.expected


def _orders(walk: Walk) -> set[tuple[str, str]]:
    return {
        (body["miner_hotkey"], o["order_uuid"]) for body in walk.bodies().values() for o in body["orders"]
    }


async def test_a_restored_backup_announces_nothing_again(
    validator: ValidatorDir, data: Path, tmp_path: Path
) -> None:
    """The state goes back with the files; the announcements stay."""
    walk = Walk(validator, 77)
    backup = tmp_path / "backup"
    async with running(data, validator) as intake:
        for _ in range(40):
            walk.step()
        await intake.until(lambda: intake.state() == walk.bodies())
        shutil.copytree(validator.miners, backup)
        kept = json.loads(json.dumps(list(walk.bodies().items())))
        for _ in range(10):
            walk.add()
        await intake.until(lambda: intake.state() == walk.bodies())
        before = _announced(intake)
        os.rename(validator.miners, tmp_path / "old")
        os.rename(backup, validator.miners)
        await intake.until(lambda: intake.state() == {tuple(key): body for key, body in kept})
        await intake.until(lambda: not intake.log.source().stale)
        assert _announced(intake) == before
