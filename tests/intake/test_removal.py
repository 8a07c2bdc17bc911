"""A position is removed when its files stay missing, and never because a disk was unmounted."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from ptn_api.errors import SettingsError
from ptn_api.event_log.contract import Document
from ptn_api.intake.removal import RemovalGuard, request_resync, resync_requested
from tests.factories import EURUSD, MINER, OTHER_MINER, order, position, uuid
from tests.intake.running import NEVER_MS, PERIODS, WATCH_ALONE, Intake, running
from tests.intake.validator_dir import ValidatorDir

# --- the rule ---------------------------------------------------------------------------------------------


def keys(*numbers: int) -> set[tuple[str, str]]:
    return {(MINER, uuid(n)) for n in numbers}


def guard(confirm_ms: int = 10, window_ms: int = 1_000) -> RemovalGuard:
    return RemovalGuard(confirm_ms=confirm_ms, window_ms=window_ms, share=0.05, count=20)


def test_a_removal_takes_two_sweeps() -> None:
    """Far enough apart, with the position missing in both."""
    g = guard()
    assert g.after_sweep(keys(1), 100, 0) == []
    assert g.after_sweep(keys(1), 100, 9) == []
    assert g.after_sweep(keys(1), 100, 10) == [(MINER, uuid(1))]


def test_a_position_that_returns_starts_over() -> None:
    """Missing, present, missing: that is the first time again."""
    g = guard()
    g.after_sweep(keys(1), 100, 0)
    g.after_sweep(set(), 100, 5)
    assert g.after_sweep(keys(1), 100, 12) == []
    assert g.after_sweep(keys(1), 100, 22) == [(MINER, uuid(1))]


@pytest.mark.parametrize(("missing", "known", "held"), [(19, 50, False), (20, 400, False), (21, 400, True)])
def test_a_mass_removal_needs_share_and_count(missing: int, known: int, held: bool) -> None:
    """At least 20, and more than 5 %."""
    g = guard()
    gone = keys(*range(missing))
    g.after_sweep(gone, known, 0)
    removed = g.after_sweep(gone, known, 10)
    assert (len(removed), g.holding) == ((0, True) if held else (missing, False))


def test_removals_within_the_window_count_together() -> None:
    """15 and 15 of 200 are a mass removal; 15 and, much later, 15 are not."""
    for later, held in ((500, True), (5_000, False)):
        g = guard()
        g.after_sweep(keys(*range(15)), 200, 0)
        assert len(g.after_sweep(keys(*range(15)), 200, 10)) == 15
        g.after_sweep(keys(*range(15, 30)), 185, later)
        g.after_sweep(keys(*range(15, 30)), 185, later + 10)
        assert g.holding is held


def test_confirmed_removals_wait_for_unconfirmed_ones() -> None:
    """A deletion in progress is one event: none is removed while more than the limit are missing."""
    g = guard()
    g.after_sweep(keys(*range(5)), 100, 0)
    assert g.after_sweep(keys(*range(30)), 100, 10) == []
    assert not g.holding
    assert g.after_sweep(keys(*range(30)), 100, 20) == []
    assert g.holding


def test_accepting_applies_confirmed_removals() -> None:
    """Positions that are missing for the first time still need their second sweep."""
    g = guard()
    g.after_sweep(keys(*range(30)), 100, 0)
    g.after_sweep(keys(*range(30)), 100, 10)
    removed = g.after_sweep(keys(*range(31)), 100, 11, accept=True)
    assert set(removed) == keys(*range(30))
    assert g.pending == 1
    assert not g.holding


# --- in a running intake ----------------------------------------------------------------------------------


async def test_a_deleted_position_is_removed(validator: ValidatorDir, data: Path) -> None:
    """With a tombstone. If its uuid returns, nothing is announced again."""
    body = position(1, [order(1)])
    validator.write(body)
    validator.write(position(2, [order(2)]))
    async with running(data, validator) as intake:
        validator.delete(body)
        await intake.until(lambda: set(intake.state()) == {(MINER, uuid(2))})
        assert [removed.position_uuid for removed in intake.log.removed(0)] == [uuid(1)]
        validator.write(body)
        await intake.until(lambda: len(intake.state()) == 2)
        assert intake.events() == []


async def test_a_position_that_only_moves_is_not_removed(validator: ValidatorDir, data: Path) -> None:
    """The key is hotkey and uuid, not the path."""
    body = position(1, [order(1)])
    validator.write(body)
    async with running(data, validator, removal_confirm_ms=0) as intake:
        moved = validator.file(body, pair="OTHER")
        moved.parent.mkdir(parents=True)
        os.rename(validator.file(body), moved)
        await intake.swept(4)
        assert intake.state() == {(MINER, uuid(1)): body}


async def test_a_removed_miner_leaves_the_list(validator: ValidatorDir, data: Path) -> None:
    """The list follows the miners' folders, once their positions are removed."""
    validator.write(position(1, [order(1)]))
    validator.write(position(2, [order(2)], miner=OTHER_MINER))
    async with running(data, validator) as intake:
        validator.delete_miner(OTHER_MINER)
        await intake.until(lambda: set(intake.state()) == {(MINER, uuid(1))})
        await intake.until(lambda: json.loads(intake.log.document(Document.MINERS) or b"") == [MINER])


def _many(validator: ValidatorDir) -> None:
    for n in range(60):
        validator.write(position(n, [order(n)], miner=f"miner{n % 6}"))


def _is_stale(intake: Intake, reason: str) -> bool:
    source = intake.log.source()
    return source.stale and source.reason == reason


async def test_a_mass_removal_is_held_back_while_orders_go_on(
    validator: ValidatorDir, data: Path, tmp_path: Path
) -> None:
    """The source is stale, the state kept, new orders announced; when the files return, the flag clears."""
    _many(validator)
    async with running(data, validator) as intake:
        miners = intake.log.document_revision(Document.MINERS)
        for n in range(3):
            os.rename(validator.miners / f"miner{n}", tmp_path / f"miner{n}")
        await intake.until(lambda: _is_stale(intake, "mass_removal"))
        assert len(intake.state()) == 60
        assert intake.log.document_revision(Document.MINERS) == miners
        validator.write(position(3, [order(3), order(300)], miner="miner3"))
        await intake.until(lambda: intake.announced() == [order(300)["order_uuid"]])
        for n in range(3):
            os.rename(tmp_path / f"miner{n}", validator.miners / f"miner{n}")
        await intake.until(lambda: not intake.log.source().stale)
        assert len(intake.state()) == 60
        assert len(json.loads(intake.log.document(Document.MINERS) or b"")) == 6


async def test_a_mass_removal_is_applied_when_accepted(validator: ValidatorDir, data: Path) -> None:
    """Only by `ptn resync --accept-removals`; the request is used up."""
    _many(validator)
    async with running(data, validator) as intake:
        for n in range(3):
            validator.delete_miner(f"miner{n}")
        await intake.until(lambda: _is_stale(intake, "mass_removal"))
        await intake.swept(4)
        assert len(intake.state()) == 60
        request_resync(data)
        await intake.until(lambda: len(intake.state()) == 30 and not intake.log.source().stale)
        await intake.until(lambda: not (data / "accept-removals").exists())
        assert len(json.loads(intake.log.document(Document.MINERS) or b"")) == 3


async def test_a_mass_removal_is_held_back_after_a_restart_too(validator: ValidatorDir, data: Path) -> None:
    """Files that were deleted while intake was down are treated alike."""
    _many(validator)
    async with running(data, validator):
        pass
    for n in range(3):
        validator.delete_miner(f"miner{n}")
    async with running(data, validator) as intake:
        await intake.until(lambda: _is_stale(intake, "mass_removal"))
        assert len(intake.state()) == 60


async def test_consent_of_an_earlier_run_is_void(validator: ValidatorDir, data: Path) -> None:
    """What is missing now is not what the operator agreed to."""
    _many(validator)
    async with running(data, validator):
        pass
    request_resync(data)
    for n in range(3):
        validator.delete_miner(f"miner{n}")
    async with running(data, validator) as intake:
        assert not resync_requested(data)
        await intake.until(lambda: _is_stale(intake, "mass_removal"))
        assert len(intake.state()) == 60


async def test_a_vanished_root_removes_nothing(validator: ValidatorDir, data: Path) -> None:
    """Stale at once, by the watch alone. When it returns, only a new order makes an event."""
    validator.write(position(1, [order(1)]))
    hidden = validator.miners.with_name("elsewhere")
    async with running(data, validator, **WATCH_ALONE | {"removal_confirm_ms": 0}) as intake:
        os.rename(validator.miners, hidden)
        await intake.until(lambda: _is_stale(intake, "root_missing"))
        validator_away = hidden / validator.file(position(1, [])).relative_to(validator.miners)
        validator_away.write_text(json.dumps(position(1, [order(1), order(2)])))
        validator.document("validation/eliminations.json", b"{}")  # seen after the file
        await intake.until(lambda: intake.log.document(Document.ELIMINATIONS))
        assert intake.events() == []
        os.rename(hidden, validator.miners)
        await intake.until(lambda: intake.announced() == [order(2)["order_uuid"]])
        assert set(intake.state()) == {(MINER, uuid(1))}


async def test_a_root_that_returns_is_read_completely(validator: ValidatorDir, data: Path) -> None:
    """Restored from a backup with an older and a newer position: each order is still announced once."""
    validator.write(position(1, [order(1), order(2)]))
    validator.write(position(2, [order(3)]))
    async with running(data, validator) as intake:
        shutil.rmtree(validator.miners)
        await intake.until(lambda: _is_stale(intake, "root_missing"))
        validator.write(position(1, [order(1)]))
        validator.write(position(2, [order(3), order(4)]))
        await intake.until(lambda: not intake.log.source().stale)
        await intake.until(lambda: intake.announced() == [order(4)["order_uuid"]])
        await intake.until(lambda: len(intake.state()[MINER, uuid(1)]["orders"]) == 1)
        validator.write(position(1, [order(1), order(2)]))
        await intake.until(lambda: len(intake.state()[MINER, uuid(1)]["orders"]) == 2)
        assert len(intake.events()) == 1
        assert intake.log.removed(0) == []


async def test_a_vanished_root_can_be_accepted(validator: ValidatorDir, data: Path) -> None:
    """Every position is removed; the source stays stale without a directory."""
    validator.write(position(1, [order(1)]))
    async with running(data, validator) as intake:
        shutil.rmtree(validator.miners)
        await intake.until(lambda: _is_stale(intake, "root_missing"))
        request_resync(data)
        await intake.until(lambda: intake.state() == {})
        await intake.until(lambda: json.loads(intake.log.document(Document.MINERS) or b"") == [])
        assert _is_stale(intake, "root_missing")


async def test_mostly_refused_files_make_the_source_stale(validator: ValidatorDir, data: Path) -> None:
    """More than half of the position files, from the first moment; what is served is served all the same."""
    for n in range(5):
        validator.write(position(n, [order(n)]))
    whole = [validator.file(position(n, [])).read_bytes() for n in range(5)]
    for n in range(3):
        validator.file(position(n, [])).write_bytes(b"{")
    async with running(data, validator) as intake:
        assert _is_stale(intake, "files_refused")
        assert len(intake.state()) == 2
        validator.put(validator.file(position(0, [])), whole[0])
        await intake.until(lambda: not intake.log.source().stale)
        assert intake.log.source().invalid == 2


async def test_an_unlistable_root_is_stale(
    validator: ValidatorDir, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is known about the files below it."""
    validator.write(position(1, [order(1)]))
    scandir = os.scandir

    def locked(path: str) -> Any:
        if path == str(validator.miners):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    async with running(data, validator) as intake:
        monkeypatch.setattr("ptn_api.intake.directory.os.scandir", locked)
        await intake.until(lambda: _is_stale(intake, "files_refused"))
        assert len(intake.state()) == 1
        monkeypatch.undo()
        await intake.until(lambda: not intake.log.source().stale)


async def test_a_split_position_removes_the_old_one(validator: ValidatorDir, data: Path) -> None:
    """A synchronisation makes two positions of one: no order is announced."""
    whole = position(1, [order(1), order(2, -0.1), order(3)])
    validator.write(whole)
    async with running(data, validator) as intake:
        validator.delete(whole)
        validator.write(position(11, [order(1), order(2, -0.1)], closed=True))
        validator.write(position(12, [order(3)], trade_pair=EURUSD))
        await intake.until(lambda: set(intake.state()) == {(MINER, uuid(11)), (MINER, uuid(12))})
        assert intake.events() == []


def test_a_resync_needs_a_data_directory(tmp_path: Path) -> None:
    """A clear error if `ptn resync` is given the wrong directory."""
    with pytest.raises(SettingsError):
        request_resync(tmp_path / "nowhere")


def test_the_tests_shorten_periods_only() -> None:
    """Not shares and counts."""
    assert PERIODS.keys().isdisjoint({"mass_removal_share", "mass_removal_count"})
    assert PERIODS["mass_removal_window_ms"] == NEVER_MS
