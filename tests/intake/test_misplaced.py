"""Whatever lies in the place of a folder or file that intake knows removes nothing, and is reported."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptn_api import file_version
from ptn_api.event_log.contract import Document
from ptn_api.file_version import version_of
from ptn_api.intake.documents import DocumentFiles
from ptn_api.intake.miner_files import MinerFiles
from ptn_api.intake.options import IntakeOptions
from ptn_api.intake.scan import DirectoryScanner
from ptn_api.intake.watch import NullWatch, Watch
from tests.factories import MINER, OTHER_MINER, order, position, uuid
from tests.intake.running import WATCH_ALONE, running
from tests.intake.test_directory import RecordingWatch
from tests.intake.test_miner_files import snapshot, write_snapshots
from tests.intake.validator_dir import ValidatorDir

KEY = (MINER, uuid(1))
LEVELS = {"miner": 3, "positions": 2, "pair": 1, "open": 0}
"""Each folder above a position's file, with its place in `Path.parents`."""

REPLACEMENTS: dict[str, Callable[[Path], object]] = {
    "file": lambda path: path.write_bytes(b"x"),
    "fifo": lambda path: os.mkfifo(path),
    "link to itself": lambda path: path.symlink_to(path.name),
    "broken link": lambda path: path.symlink_to("nowhere"),
    "link to a device": lambda path: path.symlink_to("/dev/null"),
}
replacements = pytest.mark.parametrize("replace", REPLACEMENTS.values(), ids=REPLACEMENTS)


class Scan:
    """A scanner with the fingerprints of a log, whose removals are confirmed after 10 ms of its clock."""

    def __init__(self, validator: ValidatorDir, data: Path, known: dict[Any, str], watch: Watch) -> None:
        options = IntakeOptions(data_dir=data, validator_dir=validator.path, removal_confirm_ms=10)
        self.now_ms = 0
        self.scanner = DirectoryScanner(validator.path, known, watch, options, monotonic=lambda: self.now_ms)

    def sweep(self, *, full: bool = False) -> list[str]:
        """Returns the names of the changes, apart from the list of miners."""
        self.now_ms += 20
        self.scanner.start_sweep(full=full, rewatch=False)
        while not self.scanner.advance():
            continue
        changes = self.scanner.read_deferred() + self.scanner.finish_sweep()
        return [name for change in changes if (name := type(change).__name__) != "DocumentWritten"]


@pytest.fixture
def known(validator: ValidatorDir, data: Path, monkeypatch: pytest.MonkeyPatch) -> dict[Any, str]:
    """A position's file, and its fingerprint in the log."""
    monkeypatch.setattr(file_version, "_SETTLE_NS", -1)  # as if 50 ms had passed since each change
    data.mkdir()
    path = validator.write(position(1, [order(1)]))
    validator.write(position(2, [order(2)], miner=OTHER_MINER))
    return {KEY: f"open/BTCUSD/{version_of(path.stat())}"}


@pytest.fixture(params=["new", "started again"])
def scan(request: pytest.FixtureRequest, validator: ValidatorDir, data: Path, known: dict[Any, str]) -> Scan:
    """A scanner that has swept before, or that starts only after the replacement."""
    scan = Scan(validator, data, known, NullWatch() if request.param == "new" else RecordingWatch())
    if request.param == "new":
        assert scan.sweep(full=True) == ["PositionWritten"]
    return scan


@replacements
@pytest.mark.parametrize("above", LEVELS.values(), ids=LEVELS)
def test_no_folder_is_replaced_in_silence(
    scan: Scan, validator: ValidatorDir, tmp_path: Path, above: int, replace: Callable[[Path], object]
) -> None:
    """Its positions stay until it is back, or until nothing lies there any more."""
    folder = validator.file(position(1, [])).parents[above]
    for _ in range(2):
        folder.rename(tmp_path / "away")
        replace(folder)
        for full in (True, False, False):
            assert "PositionRemoved" not in scan.sweep(full=full)
            assert scan.scanner.refused == 1
        folder.unlink()
        (tmp_path / "away").rename(folder)
        assert "PositionRemoved" not in scan.sweep()
        assert scan.scanner.refused == 0
    folder.rename(tmp_path / "away")
    assert [change for _ in range(3) for change in scan.sweep()] == ["PositionRemoved"]
    assert scan.scanner.refused == 0


@replacements
def test_no_file_is_replaced_in_silence(
    scan: Scan, validator: ValidatorDir, tmp_path: Path, replace: Callable[[Path], object]
) -> None:
    """The position stays; it counts as refused until its file is back, even if that has not changed."""
    path = validator.file(position(1, []))
    os.link(path, tmp_path / "kept")
    path.unlink()
    replace(path)
    for full in (True, False, False):
        assert "PositionRemoved" not in scan.sweep(full=full)
        assert scan.scanner.refused == 1
    path.unlink()
    os.link(tmp_path / "kept", path)
    assert "PositionRemoved" not in scan.sweep(full=True)
    scan.sweep()
    assert scan.scanner.refused == 0


@pytest.mark.parametrize("above", LEVELS.values(), ids=LEVELS)
def test_a_link_that_leads_to_the_folder_again_is_followed(
    scan: Scan, validator: ValidatorDir, tmp_path: Path, above: int
) -> None:
    """As when a disk is mounted again: nothing in the link's own folder shows it."""
    folder = validator.file(position(1, [])).parents[above]
    folder.rename(tmp_path / "away")
    folder.symlink_to(tmp_path / "mounted")
    for full in (True, False, False):
        assert "PositionRemoved" not in scan.sweep(full=full)
    (tmp_path / "away").rename(tmp_path / "mounted")
    scan.sweep()
    assert scan.scanner.refused == 0
    assert [change for _ in range(3) for change in scan.sweep()] == []


def test_an_unknown_file_among_the_folders_is_ignored(scan: Scan, validator: ValidatorDir) -> None:
    """Where names are free, a file is an error only if positions are missing below its name."""
    folder = validator.file(position(1, [])).parents[1]
    for path in (folder / "note", folder.parent / "note", validator.miners / "note"):
        path.write_bytes(b"x")
    validator.file(position(1, [])).unlink()
    assert [change for _ in range(3) for change in scan.sweep(full=True)].count("PositionRemoved") == 1
    assert scan.scanner.refused == 0


def test_a_refused_entry_is_forgotten_with_its_folder(
    scan: Scan, validator: ValidatorDir, tmp_path: Path
) -> None:
    """Nothing is reported below a folder that no longer exists."""
    folder = validator.file(position(1, [])).parents[2]
    (folder / "bad\nname").mkdir()
    (folder / "OTHER").mkdir()
    (folder / "OTHER" / "closed").write_bytes(b"x")
    scan.sweep(full=True)
    assert scan.scanner.refused == 2
    folder.parent.rename(tmp_path / "away")
    scan.sweep()
    assert scan.scanner.refused == 0


async def test_events_report_a_replaced_folder(validator: ValidatorDir, data: Path, tmp_path: Path) -> None:
    """In a running intake: its position is kept, and follows new orders when the folder is back."""
    path = validator.write(position(1, [order(1)]))
    async with running(data, validator, **WATCH_ALONE | {"removal_confirm_ms": 0}) as intake:
        for n, folder in enumerate(path.parents[:4]):
            folder.rename(tmp_path / "away")
            folder.write_bytes(b"x")
            folder.unlink()
            (tmp_path / "away").rename(folder)
            orders = [order(k) for k in range(1, n + 3)]
            validator.write(position(1, orders))
            await intake.until(lambda n=n: order(n + 2)["order_uuid"] in intake.announced())
    path.parents[1].rename(tmp_path / "away")
    path.parents[1].write_bytes(b"x")
    async with running(data, validator) as intake:
        await intake.until(lambda: intake.log.source().reason == "files_refused")
        await intake.swept(4)
        assert set(intake.state()) == {KEY}
        path.parents[1].unlink()
        (tmp_path / "away").rename(path.parents[1])
        await intake.until(lambda: intake.log.source().invalid == 0)
        assert not intake.log.source().stale


# --- a miner's other files --------------------------------------------------------------------------------

ORDERS, ARCHIVED, SNAPSHOTS = Document.LIMIT_ORDERS, Document.ARCHIVED_POSITIONS, Document.SNAPSHOTS
PLACES = {
    "miner": "",
    "limit_orders": "limit_orders",
    "limit orders of a pair": "limit_orders/BTCUSD",
    "unfilled": "limit_orders/BTCUSD/unfilled",
    "archived_positions": "archived_positions",
    "archived positions of a pair": "archived_positions/BTCUSD",
    "archived open": "archived_positions/BTCUSD/open",
}


@replacements
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_nothing_else_of_a_miner_is_replaced_in_silence(
    validator: ValidatorDir,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    replace: Callable[[Path], object],
) -> None:
    """Its documents stay as they are until the folder is back or nothing lies in its place any more."""
    monkeypatch.setattr(file_version, "_SETTLE_NS", -1)
    validator.limit_order(order(1), miner=MINER)
    body = position(1, [order(2)])
    validator.put(validator.archived(body), json.dumps(body).encode())
    write_snapshots(validator, snapshot(1))
    files = MinerFiles(validator.miners, {}, position_limit=1 << 20, document_limit=1 << 20)
    known = {(change.document, MINER): change.fingerprint for change in files.changes(full=True)}
    assert set(known) == {(ORDERS, MINER), (ARCHIVED, MINER), (SNAPSHOTS, MINER)}
    path = validator.miners / MINER / place
    for restarted in (False, False, True):
        path.rename(tmp_path / "away")
        replace(path)
        if restarted:
            files = MinerFiles(validator.miners, known, position_limit=1 << 20, document_limit=1 << 20)
        for full in (False, False, True):
            assert list(files.changes(full=full)) == []
            assert files.refused == (1 if place else 3)
        path.unlink()
        (tmp_path / "away").rename(path)
        assert list(files.changes(full=False)) == []
        assert files.refused == 0
    path.rename(tmp_path / "away")
    removed = [change for _ in range(3) for change in files.changes(full=False)]
    gone = {ORDERS, ARCHIVED, SNAPSHOTS} if not place else {Document(place.partition("/")[0])}
    assert {change.document for change in removed} == gone
    assert {change.content for change in removed} == {None}
    assert files.refused == 0


@pytest.mark.parametrize("replace", [Path.mkdir, *list(REPLACEMENTS.values())[1:]])
def test_no_snapshots_are_replaced_in_silence(
    validator: ValidatorDir, tmp_path: Path, replace: Callable[[Path], object]
) -> None:
    """The last ones stay until the file is back."""
    path = write_snapshots(validator, snapshot(1))
    files = MinerFiles(validator.miners, {}, position_limit=1 << 20, document_limit=1 << 20)
    assert len(list(files.changes(full=True))) == 1
    path.rename(tmp_path / "away")
    replace(path)
    for full in (False, False, True):
        assert list(files.changes(full=full)) == []
        assert files.refused == 1
    path.rename(tmp_path / "odd")
    (tmp_path / "away").rename(path)
    assert all(change.content for _ in range(2) for change in files.changes(full=False))
    assert files.refused == 0


@replacements
def test_no_document_is_replaced_in_silence(
    validator: ValidatorDir, tmp_path: Path, replace: Callable[[Path], object]
) -> None:
    """Not by its own path, nor by that of its folder."""
    path = validator.document("validation/eliminations.json", b"{}")
    document = Document.ELIMINATIONS
    files = DocumentFiles(validator.path, {}, limit=1 << 20, confirm_ms=0)
    assert files.check(document, 0) is not None
    for place in (path, path.parent):
        place.rename(tmp_path / "away")
        replace(place)
        for now_ms in range(3):
            assert files.check(document, now_ms) is None
            # Below a broken link, the folder as a whole is missing: that is `root_missing`.
            assert files.refused == 1 or place == path.parent
        place.unlink()
        (tmp_path / "away").rename(place)
        change = files.check(document, 0)
        assert change is None or change.content
        assert files.refused == 0
