"""A position that the validator moves to the archive leaves the state at once, and may come back."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from ptn_api.event_log.contract import Document
from tests.factories import MINER, order, position, uuid
from tests.intake.running import NEVER_MS, WATCH_ALONE, Intake, running
from tests.intake.validator_dir import ValidatorDir

UNCONFIRMED = {"removal_confirm_ms": NEVER_MS, "miner_files_ms": 5}
"""No removal is confirmed, so that only moves remove positions."""


def archived(intake: Intake) -> list[str]:
    listed = json.loads(intake.log.document(Document.ARCHIVED_POSITIONS, MINER) or b"[]")
    return sorted(position["position_uuid"] for position in listed)


@pytest.mark.parametrize("periods", [WATCH_ALONE, {}], ids=["watch", "sweep"])
async def test_many_positions_are_moved_at_once(
    validator: ValidatorDir, data: Path, periods: dict[str, int]
) -> None:
    """Without the time of a removal, and without being taken for a mass removal."""
    bodies = [position(n, [order(n)], closed=n % 2 == 0) for n in range(25)]
    for body in bodies:
        validator.write(body)
    async with running(data, validator, **UNCONFIRMED, **periods) as intake:
        for body in bodies[:20]:
            validator.archive(body)
        await intake.until(lambda: len(intake.state()) == 5)
        await intake.until(lambda: archived(intake) == [uuid(n) for n in range(20)])
        assert len(intake.log.removed(0)) == 20
        assert not intake.log.source().stale
        assert intake.events() == []


async def test_a_move_while_the_api_was_down_is_seen_at_the_start(
    validator: ValidatorDir, data: Path
) -> None:
    """The first sweep removes the position. Its file was not seen where it lay."""
    validator.write(position(1, [order(1)]))
    async with running(data, validator, **UNCONFIRMED) as intake:
        assert len(intake.state()) == 1
    target = validator.archive(position(1, [order(1)]))
    validator.put(target, json.dumps(position(1, [order(1), order(2)])).encode())
    async with running(data, validator, **UNCONFIRMED) as intake:
        await intake.until(lambda: intake.state() == {})
        await intake.until(lambda: archived(intake) == [uuid(1)])
        assert intake.events() == []


async def test_orders_in_the_archive_are_not_announced(validator: ValidatorDir, data: Path) -> None:
    """Nor are those of an archived position that is restored from elsewhere."""
    async with running(data, validator, **UNCONFIRMED) as intake:
        validator.put(validator.archived(position(1, [])), json.dumps(position(1, [order(1)])).encode())
        await intake.until(lambda: archived(intake) == [uuid(1)])
        assert intake.state() == {}
        assert intake.events() == []


@pytest.mark.parametrize("is_copy", [False, True])
async def test_an_order_placed_just_before_the_move_is_announced(
    validator: ValidatorDir, data: Path, is_copy: bool
) -> None:
    """The position had it while it was live, so its file is read where it lies now."""
    validator.write(position(1, [order(1)]))
    async with running(data, validator, **UNCONFIRMED, **WATCH_ALONE) as intake:
        closed = position(1, [order(1), order(2, -0.1)], closed=True)
        validator.delete(position(1, [order(1)]))
        path = validator.write(closed)
        if is_copy:
            target = validator.archived(closed)
            target.parent.mkdir(parents=True)
            shutil.copy(path, target)
            path.unlink()
        else:
            validator.archive(closed)
        await intake.until(lambda: intake.state() == {})
        assert intake.announced() == [order(2)["order_uuid"]]


async def test_a_file_among_the_positions_wins_until_it_is_gone(validator: ValidatorDir, data: Path) -> None:
    """A move to another file system is a copy, and a removal some time later."""
    path = validator.write(position(1, [order(1)]))
    target = validator.archived(position(1, []))
    target.parent.mkdir(parents=True)
    async with running(data, validator, **UNCONFIRMED) as intake:
        target.write_bytes(path.read_bytes()[:100])
        await intake.swept(2)
        shutil.copy(path, target)
        await intake.swept(2)
        assert len(intake.state()) == 1
        assert archived(intake) == []
        path.unlink()
        await intake.until(lambda: intake.state() == {})
        await intake.until(lambda: archived(intake) == [uuid(1)])


async def test_a_position_that_is_moved_back_returns(validator: ValidatorDir, data: Path) -> None:
    """To the state, out of the archive; later orders are announced."""
    path = validator.write(position(1, [order(1)]))
    async with running(data, validator, **UNCONFIRMED) as intake:
        target = validator.archive(position(1, [order(1)]))
        await intake.until(lambda: intake.state() == {})
        os.rename(target, path)
        await intake.until(lambda: len(intake.state()) == 1)
        await intake.until(lambda: intake.log.document(Document.ARCHIVED_POSITIONS, MINER) is None)
        validator.write(position(1, [order(1), order(2)]))
        await intake.until(lambda: intake.announced() == [order(2)["order_uuid"]])


async def test_a_position_deleted_from_the_archive_too_needs_confirmation(
    validator: ValidatorDir, data: Path
) -> None:
    """Only a file that lies in the archive has moved."""
    path = validator.write(position(1, [order(1)]))
    async with running(data, validator, **UNCONFIRMED) as intake:
        (validator.miners / MINER / "archived_positions/BTCUSD/open").mkdir(parents=True)
        path.unlink()
        await intake.swept(3)
        assert len(intake.state()) == 1
