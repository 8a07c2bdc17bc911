"""Starting and stopping."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ptn_api.errors import SettingsError
from ptn_api.event_log import open_writer
from ptn_api.event_log.contract import Change, EventLogWriter, Head, PositionWritten
from ptn_api.intake.options import IntakeOptions
from ptn_api.intake.run import run_intake
from tests.factories import MINER, order, position, uuid
from tests.intake.running import running
from tests.intake.validator_dir import ValidatorDir


class StopsMidway:
    """A log that sets `stop` at the third change of the baseline."""

    def __init__(self, log: EventLogWriter, stop: asyncio.Event) -> None:
        self._log = log
        self._stop = stop
        self._loop = asyncio.get_running_loop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def baseline(self, changes: Iterable[Change], now_ms: int) -> Head:
        return self._log.baseline(self._midway(changes), now_ms)

    def _midway(self, changes: Iterable[Change]) -> Iterator[Change]:
        for n, change in enumerate(changes):
            if n == 3:
                self._loop.call_soon_threadsafe(self._stop.set)
                while not self._stop.is_set():
                    time.sleep(0.001)
            yield change


async def test_an_interrupted_baseline_starts_over(validator: ValidatorDir, data: Path) -> None:
    """Half of it is never committed: the next start would announce the other half."""
    for n in range(20):
        validator.write(position(n, [order(n)]))
    log = open_writer(data)
    stop, ready = asyncio.Event(), asyncio.Event()
    await run_intake(
        log=StopsMidway(log, stop),  # type: ignore[arg-type]
        options=IntakeOptions(data_dir=data, validator_dir=validator.path),
        queue_fd=None,
        stop=stop,
        ready=ready.set,
    )
    assert not ready.is_set()
    assert not log.ready()
    log.close()
    async with running(data, validator) as intake:
        assert len(intake.state()) == 20
        assert intake.events() == []


class BetweenTwoReads:
    """A log that calls a function after the first change of the baseline."""

    def __init__(self, log: EventLogWriter, happens: Callable[[PositionWritten], None]) -> None:
        self._log = log
        self._happens = happens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def baseline(self, changes: Iterable[Change], now_ms: int) -> Head:
        return self._log.baseline(self._with_something(changes), now_ms)

    def _with_something(self, changes: Iterable[Change]) -> Iterator[Change]:
        happened = False
        for change in changes:
            yield change
            if isinstance(change, PositionWritten) and not happened:
                happened = True
                self._happens(change)


@pytest.mark.parametrize("gap_s", [0.0, 0.05])
async def test_a_position_closed_during_the_baseline_is_history(
    validator: ValidatorDir, data: Path, gap_s: float
) -> None:
    """Moved away after it was listed and before it was read: only its close is announced."""
    bodies = {n: position(n, [order(n)], miner=f"miner{n}") for n in range(2)}
    for body in bodies.values():
        validator.write(body)
    flat = order(9, -0.1, at=2**50)
    late: list[threading.Timer] = []

    def close_the_other(read: PositionWritten) -> None:
        other = next(n for n in bodies if uuid(n) != read.position.position_uuid)
        validator.delete(bodies[other])
        closed = position(other, [order(other), flat], miner=f"miner{other}", closed=True)
        late.append(threading.Timer(gap_s, validator.write, [closed]))
        late[0].start()
        if not gap_s:
            late[0].join()

    def wrap(log: EventLogWriter) -> EventLogWriter:
        return BetweenTwoReads(log, close_the_other)  # type: ignore[return-value]

    async with running(data, validator, wrap=wrap, removal_confirm_ms=60_000) as intake:
        await intake.until(lambda: flat["order_uuid"] in intake.announced())
        assert intake.announced() == [flat["order_uuid"]]
        assert {position["is_closed_position"] for position in intake.state().values()} == {True, False}
    late[0].join()


async def test_a_position_deleted_during_the_baseline_does_not_block_it(
    validator: ValidatorDir, data: Path
) -> None:
    """The baseline ends without it once the removal would be confirmed."""
    for n in range(2):
        validator.write(position(n, [order(n)], miner=f"miner{n}"))

    def delete_the_other(read: PositionWritten) -> None:
        other = next(n for n in range(2) if uuid(n) != read.position.position_uuid)
        validator.delete(position(other, [order(other)], miner=f"miner{other}"))

    def wrap(log: EventLogWriter) -> EventLogWriter:
        return BetweenTwoReads(log, delete_the_other)  # type: ignore[return-value]

    async with running(data, validator, wrap=wrap) as intake:
        assert len(intake.state()) == 1
        assert intake.events() == []


async def test_a_stop_without_a_directory_takes_effect(validator: ValidatorDir, data: Path) -> None:
    """Waiting for the directory of miners must not delay a stop."""
    validator.miners.rmdir()
    log = open_writer(data)
    stop, ready = asyncio.Event(), asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, stop.set)
    await run_intake(
        log=log,
        options=IntakeOptions(data_dir=data, validator_dir=validator.path),
        queue_fd=None,
        stop=stop,
        ready=ready.set,
    )
    assert not ready.is_set()
    log.close()


async def test_the_log_is_pruned_periodically(data: Path) -> None:
    """Every prune_ms."""
    pruned: list[int] = []

    class Pruned:
        def __init__(self, log: EventLogWriter) -> None:
            self._log = log

        def __getattr__(self, name: str) -> Any:
            return getattr(self._log, name)

        def prune(self, now_ms: int) -> int:
            pruned.append(now_ms)
            return self._log.prune(now_ms)

    async with running(data, wrap=lambda log: Pruned(log), prune_ms=10) as intake:  # type: ignore[arg-type,return-value]
        await intake.until(lambda: len(pruned) > 2)


async def _with_log_of(validator: ValidatorDir, data: Path, count: int = 5) -> None:
    for n in range(count):
        validator.write(position(n, [order(n)]))
    async with running(data, validator):
        pass


async def test_the_log_of_another_validator_is_refused(
    validator: ValidatorDir, data: Path, tmp_path: Path
) -> None:
    """Nothing of the directory is appended, and its first validator can go on with the log, elsewhere too."""
    await _with_log_of(validator, data)
    other = ValidatorDir(tmp_path / "other")
    for n in range(10, 13):
        other.write(position(n, [order(n)]))
    with pytest.raises(
        SettingsError, match=r"^--data-dir .*data holds .* none of the 3 positions in .*other;"
    ):
        async with running(data, other):
            pass
    validator.path.rename(tmp_path / "moved")
    async with running(data, ValidatorDir(tmp_path / "moved")) as intake:
        assert intake.events() == []
        assert len(intake.state()) == 5
        assert intake.log.removed(0) == []


async def _keep_one(validator: ValidatorDir, data: Path) -> None:
    validator.delete_miner(MINER)
    validator.write(position(3, [order(3)]))


async def _archive(validator: ValidatorDir, data: Path) -> None:
    for n in range(5):
        validator.archive(position(n, [order(n)]))


async def _bring_back(validator: ValidatorDir, data: Path) -> None:
    """After a removal that was seen, new positions and an old one."""
    old = position(5, [order(5)])
    validator.write(old)
    async with running(data, validator) as intake:
        validator.delete(old)
        await intake.until(lambda: len(intake.state()) == 5)
    validator.delete_miner(MINER)
    validator.write(old)


async def _delete_all(validator: ValidatorDir, data: Path) -> None:
    validator.delete_miner(MINER)


@pytest.mark.parametrize("change", [_keep_one, _archive, _bring_back, _delete_all])
async def test_the_directory_may_change_while_the_server_is_down(
    change: Callable[[ValidatorDir, Path], Awaitable[None]], validator: ValidatorDir, data: Path
) -> None:
    """One position in common is enough, archived and removed ones too; and an empty one may be filled."""
    await _with_log_of(validator, data)
    await change(validator, data)
    added = order(20) if change is not _delete_all else None
    if added is not None:
        validator.write(position(20, [added]))
    async with running(data, validator) as intake:
        if added is not None:
            await intake.until(lambda: added["order_uuid"] in intake.announced())


async def test_a_log_with_few_positions_may_be_continued(validator: ValidatorDir, data: Path) -> None:
    """A small validator may have replaced all of them."""
    await _with_log_of(validator, data, 4)
    validator.delete_miner(MINER)
    validator.write(position(20, [order(20)]))
    async with running(data, validator) as intake:
        await intake.until(lambda: intake.announced() == [order(20)["order_uuid"]])
