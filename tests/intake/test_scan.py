"""Reading the directory step by step: deferred positions, sweeps in slices, the list of miners."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ptn_api import file_version
from ptn_api.event_log.contract import Change, Document, DocumentWritten, PositionRemoved, PositionWritten
from ptn_api.intake.options import IntakeOptions
from ptn_api.intake.pending import key_of
from ptn_api.intake.removal import request_resync, resync_requested
from ptn_api.intake.scan import BATCH, DirectoryScanner
from ptn_api.intake.watch import FsEvent
from tests.factories import MINER, order, position, uuid
from tests.intake.test_directory import RecordingWatch
from tests.intake.validator_dir import ValidatorDir


class Scan:
    """A scanner after its baseline, with a watch and a clock that the test controls."""

    def __init__(self, validator: ValidatorDir, data: Path) -> None:
        data.mkdir()
        self.validator = validator
        self.watch = RecordingWatch()
        self.now_ms = 0
        options = IntakeOptions(data_dir=data, validator_dir=validator.path, removal_confirm_ms=10)
        self.scanner = DirectoryScanner(
            validator.path, {}, self.watch, options, monotonic=lambda: self.now_ms
        )
        self.baseline = list(self.scanner.baseline())

    def event(self, path: Path) -> FsEvent:
        return FsEvent(self.watch.by_path[str(path.parent)], path.name)

    def changes(self, *paths: Path) -> list[Change]:
        return self.scanner.read_changes([self.event(path) for path in paths], [])

    def sweep(self) -> list[tuple[str, str]]:
        """Runs a full sweep, and returns the positions that it removes."""
        self.scan()
        changes = self.scanner.finish_sweep()
        return [key_of(change) for change in changes if isinstance(change, PositionRemoved)]

    def scan(self) -> None:
        """Runs a full sweep up to its end, without finishing it."""
        self.scanner.start_sweep(full=True, rewatch=False)
        while not self.scanner.advance():
            continue


def uuids(changes: list[Change]) -> list[str]:
    return [change.position.position_uuid for change in changes if isinstance(change, PositionWritten)]


def miners(changes: list[Change]) -> list[list[str]]:
    documents = [change for change in changes if isinstance(change, DocumentWritten)]
    assert {change.document for change in documents} <= {Document.MINERS}
    return [json.loads(change.content or b"") for change in documents]


@pytest.fixture
def scan(validator: ValidatorDir, data: Path, monkeypatch: pytest.MonkeyPatch) -> Scan:
    monkeypatch.setattr(file_version, "_SETTLE_NS", -1)  # as if 50 ms had passed since each file was written
    for n in range(3 * BATCH):
        validator.write(position(n, [order(n)]))
    return Scan(validator, data)


def test_the_baseline_ends_with_the_list_of_miners(scan: Scan) -> None:
    """Once: an unchanged list is not repeated."""
    assert len(uuids(scan.baseline)) == 3 * BATCH
    assert miners(scan.baseline) == [[MINER]]
    scan.scan()
    assert miners(scan.scanner.finish_sweep()) == []


def test_refreshed_positions_are_read_in_batches(scan: Scan) -> None:
    """An order is read at once, ahead of refreshes that were seen before it."""
    refreshed = [scan.validator.write(position(n, [order(n)], current_return=1.02)) for n in range(2 * BATCH)]
    grown = scan.validator.write(position(2 * BATCH, [order(2 * BATCH), order(1_000)]))
    assert uuids(scan.changes(*refreshed, grown)) == [uuid(2 * BATCH)]
    assert scan.scanner.deferred == 2 * BATCH
    read = [uuids(scan.scanner.read_deferred()) for _ in range(2)]
    assert read == [[uuid(n) for n in range(BATCH)], [uuid(n) for n in range(BATCH, 2 * BATCH)]]
    assert scan.scanner.deferred == 0


def test_a_deferred_position_that_gets_an_order_is_read_once(scan: Scan) -> None:
    """The order's event takes it out of the batch."""
    path = scan.validator.write(position(1, [order(1)], current_return=1.02))
    assert scan.changes(path) == []
    scan.validator.write(position(1, [order(1), order(1_000)]))
    assert uuids(scan.changes(path)) == [uuid(1)]
    assert scan.scanner.deferred == 0


def test_a_sweep_waits_for_the_positions_that_it_deferred(scan: Scan) -> None:
    """Only then are removals decided."""
    scan.validator.write(position(1, [order(1)], current_return=1.02))
    scan.scan()
    assert scan.scanner.sweep_has_deferred
    assert uuids(scan.scanner.read_deferred()) == [uuid(1)]
    assert not scan.scanner.sweep_has_deferred
    assert scan.scanner.finish_sweep() == []


def test_a_version_that_a_sweep_has_read_is_delivered_before_a_newer_one(scan: Scan) -> None:
    """Both, in order: an order of the older version may be missing in the newer one."""
    path = scan.validator.write(position(1, [order(1), order(1_000)]))
    scan.scan()
    assert list(scan.scanner.swept) == [(MINER, uuid(1))]
    newer = position(1, [order(1), order(1_001), order(1_002)])
    scan.validator.write(newer)
    older, latest = (change for change in scan.changes(path) if isinstance(change, PositionWritten))
    assert [len(change.position.orders) for change in (older, latest)] == [2, 3]
    assert scan.scanner.finish_sweep() == []


def test_a_position_is_removed_at_the_end_of_a_sweep(scan: Scan) -> None:
    """At the second one without a file, not by the event."""
    path = scan.validator.file(position(1, [order(1)]))
    path.unlink()
    assert scan.changes(path) == []
    for now_ms, removed in ((0, []), (10, [(MINER, uuid(1))])):
        scan.now_ms = now_ms
        assert scan.sweep() == removed


def test_a_missing_root_keeps_the_list_of_miners(scan: Scan) -> None:
    """The miners without a folder are still served."""
    away = scan.validator.miners.with_name("away")
    os.rename(scan.validator.miners, away)
    scan.scan()
    assert scan.scanner.finish_sweep() == []
    assert scan.scanner.root_missing
    os.rename(away, scan.validator.miners)
    scan.scan()
    assert miners(scan.scanner.finish_sweep()) == []


def test_consent_is_used_once(scan: Scan, data: Path) -> None:
    """It waits for confirmation, without a log line meanwhile, and does not cover what vanishes later."""
    count = 3 * BATCH
    for n in range(count):
        scan.validator.file(position(n, [])).unlink()
    request_resync(data)
    with capture_logs() as logs:
        assert scan.sweep() == []
        assert (logs, resync_requested(data)) == ([], True)
        scan.now_ms = 10
        assert len(scan.sweep()) == count
    assert logs == [
        {"event": "removals_accepted", "log_level": "warning", "removed": count, "pending": 0},
    ]
    assert not resync_requested(data)


def test_consent_to_a_mass_removal_is_used_up_by_a_missing_root(scan: Scan, data: Path) -> None:
    """A mass removal is held back, and the root vanishes: the consent removes everything, once."""
    everything = {(MINER, uuid(n)) for n in range(3 * BATCH)}
    paths = [scan.validator.file(position(n, [])) for n in range(3 * BATCH)]
    for path in paths:
        path.unlink()
    for now_ms in (0, 10):
        scan.now_ms = now_ms
        assert scan.sweep() == []
    assert scan.scanner.holds_removals
    away = scan.validator.miners.with_name("away")
    os.rename(scan.validator.miners, away)
    request_resync(data)
    assert set(scan.sweep()) == everything
    assert not resync_requested(data)
    assert not scan.scanner.holds_removals
    os.rename(away, scan.validator.miners)
    for n in range(3 * BATCH):
        scan.validator.write(position(n, [order(n)]))
    assert scan.sweep() == []
    for path in paths:
        path.unlink()
    for now_ms in (20, 30):
        scan.now_ms = now_ms
        assert scan.sweep() == []
    assert scan.scanner.holds_removals
