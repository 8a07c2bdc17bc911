"""The directory's reaction to events and sweeps, step by step."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ptn_api import file_version
from ptn_api.intake import position_files
from ptn_api.intake.directory import Directory
from ptn_api.intake.files import read_file
from ptn_api.intake.pending import key_of
from ptn_api.intake.position_files import PositionFiles, PositionsToRead
from ptn_api.intake.watch import FsEvent, InotifyWatch
from tests.factories import EURUSD, MINER, OTHER_MINER, order, position, uuid
from tests.intake.running import WATCH_ALONE, running
from tests.intake.validator_dir import ValidatorDir
from tests.waiting import PATIENCE_S

KEY = (MINER, uuid(1))


class RecordingWatch:
    """A watch without events that records what it was told to watch."""

    def __init__(self) -> None:
        self.added: list[str] = []
        self.by_path: dict[str, int] = {}

    def add(self, path: str, *, files: bool = False, folders: bool = False) -> int:
        os.listdir(path)
        self.added.append(path)
        return self.by_path.setdefault(path, len(self.by_path) + 1)

    def remove(self, wd: int) -> None:
        """Numbers are not used again."""

    async def events(self) -> AsyncIterator[FsEvent | None]:
        nothing: tuple[FsEvent, ...] = ()
        for event in nothing:
            yield event

    def close(self) -> None:
        """Nothing is open."""


class Tree:
    """A directory under test, with its files and its watch."""

    def __init__(self, validator: ValidatorDir) -> None:
        self.watch = RecordingWatch()
        self.files = PositionFiles(validator.miners, {}, limit=1 << 20)
        self.directory = Directory(validator.miners, self.files, self.watch)

    def sweep(self, **how: bool) -> list[tuple[str, str]]:
        """Returns the positions that a sweep delivers."""
        to_read = PositionsToRead()
        for _ in self.directory.sweep(to_read, **{"full": False} | how):
            continue
        return self._read(to_read)

    def look(self, path: Path, name: str = "") -> list[tuple[str, str]]:
        to_read = PositionsToRead()
        self.directory.follow_events([FsEvent(self.watch.by_path[str(path)], name)], to_read)
        return self._read(to_read)

    def _read(self, to_read: PositionsToRead) -> list[tuple[str, str]]:
        return [key_of(change) for change in self.files.read_all(to_read)]


@pytest.fixture
def tree(validator: ValidatorDir) -> Tree:
    validator.write(position(1, [order(1)]))
    tree = Tree(validator)
    assert tree.sweep(full=True) == [KEY]
    return tree


def _age(path: Path) -> None:
    """Dates it back by a minute, so that its times count as settled."""
    past = time.time_ns() - 60 * 10**9
    os.utime(path, ns=(past, past))


def test_a_sweep_finds_changes_without_events(
    tree: Tree, validator: ValidatorDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replaced file, a new file, a new folder; nothing if nothing changed."""
    validator.write(position(1, [order(1), order(2)]))
    validator.write(position(2, [order(3)]))
    validator.write(position(3, [order(4)], miner=OTHER_MINER, trade_pair=EURUSD))
    assert set(tree.sweep()) == {KEY, (MINER, uuid(2)), (OTHER_MINER, uuid(3))}
    for path in validator.miners.rglob("*"):
        _age(path)
    monkeypatch.setattr(file_version, "_SETTLE_NS", -1)  # as if 50 ms had passed since the files' ctimes
    tree.sweep(full=True)
    assert tree.sweep() == []
    assert tree.sweep(full=True) == []


def test_a_full_sweep_finds_a_file_written_in_place(tree: Tree, validator: ValidatorDir) -> None:
    """The folder's time does not show it; the file's inode, ctime and size do."""
    path = validator.file(position(1, []))
    for folder in path.parents:
        _age(folder)
        if folder == validator.miners:
            break
    tree.sweep()
    body = path.read_bytes().replace(b"1.01", b"1.02345")
    path.write_bytes(body)
    assert tree.sweep() == []
    assert tree.sweep(full=True) == [KEY]


def test_after_an_overflow_every_watch_is_set_again(tree: Tree) -> None:
    """The lost event may have been the end of a watch. Otherwise nothing is watched twice."""
    folders = list(tree.watch.added)
    tree.sweep(full=True)
    assert tree.watch.added == folders
    tree.sweep(full=True, rewatch=True)
    assert sorted(tree.watch.added) == sorted(folders * 2)


def test_files_below_a_missing_root_are_not_absent(tree: Tree, validator: ValidatorDir) -> None:
    """Every file looks deleted; none counts as absent until the root is back."""
    leaf = validator.file(position(1, [])).parent
    away = validator.miners.with_name("away")
    os.rename(validator.miners, away)
    tree.look(leaf, uuid(1))
    assert tree.directory.root_missing
    assert tree.files.absent == set()
    assert tree.sweep(full=True) == []
    assert tree.files.absent == set()
    os.rename(away, validator.miners)
    (leaf / uuid(1)).unlink()
    tree.look(leaf, uuid(1))
    assert tree.files.absent == {KEY}


def test_a_file_that_has_grown_may_have_an_order(tree: Tree, validator: ValidatorDir) -> None:
    """A refreshed return hardly changes its size. Everything else is read first."""
    path = validator.write(position(1, [order(1)], current_return=1.0123456789012345))
    to_read = PositionsToRead()
    leaf = tree.watch.by_path[str(path.parent)]
    tree.directory.follow_events([FsEvent(leaf, path.name)], to_read)
    assert to_read == {KEY: True}
    assert tree.files.seems_refreshed(KEY)
    validator.write(position(1, [order(1), order(2)]))
    tree.directory.follow_events([FsEvent(leaf, path.name)], to_read)
    assert not tree.files.seems_refreshed(KEY)
    path.unlink()
    tree.directory.follow_events([FsEvent(leaf, path.name)], to_read)
    assert not tree.files.seems_refreshed(KEY)
    validator.write(position(1, [order(1)], closed=True))
    tree.directory.list_root(to_read)
    for _ in tree.directory.sweep(to_read, full=False):
        continue
    assert not tree.files.seems_refreshed(KEY)
    assert not tree.files.seems_refreshed((MINER, uuid(2)))


def test_positions_in_an_unreadable_folder_are_not_absent(
    tree: Tree, validator: ValidatorDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No permission, a failing disk: the files are not missing, and the miner is named."""
    leaf = str(validator.file(position(1, [])).parent)
    real = os.scandir

    def refusing(path: str) -> Any:
        if path == leaf:
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert tree.sweep(full=True) == []
    assert tree.files.absent == set()
    assert tree.directory.unreadable_hotkeys() == {MINER}
    assert tree.directory.refused == 1
    monkeypatch.undo()
    tree.sweep(full=True)
    assert tree.directory.refused == 0


def test_a_file_that_an_event_finds_unreadable_is_skipped_alone(
    tree: Tree, validator: ValidatorDir, capsys: pytest.CaptureFixture[str]
) -> None:
    """A link to itself hides neither its folder nor its miner, whether an event or a sweep finds it."""
    leaf = validator.file(position(1, [])).parent
    (leaf / "loop").symlink_to("loop")
    assert tree.look(leaf, "loop") == []
    assert tree.directory.unreadable_hotkeys() == set()
    assert tree.files.refused == 1
    tree.sweep(full=True)
    assert tree.files.refused == 1
    (leaf / "loop").unlink()
    tree.look(leaf, "loop")
    assert tree.files.refused == 0
    output = capsys.readouterr().out
    assert (output.count("position_file_skipped"), output.count("folder_skipped")) == (1, 0)
    assert f"file={(leaf / 'loop').relative_to(validator.path)}" in re.sub("\x1b.*?m", "", output)


def test_a_known_file_that_an_event_finds_unreadable_is_not_absent(
    tree: Tree, validator: ValidatorDir
) -> None:
    """It may be a failing disk. The next sweep examines it again, even if its folder has not changed."""
    path = validator.file(position(1, []))
    content = path.read_bytes()
    path.unlink()
    path.symlink_to(path.name)
    tree.look(path.parent, path.name)
    assert tree.files.absent == set()
    tree.sweep()
    assert tree.files.absent == set()
    path.unlink()
    path.write_bytes(content)
    tree.look(path.parent, path.name)
    assert tree.files.refused == 0


@pytest.mark.parametrize("by_event", [True, False])
def test_a_folder_in_place_of_a_known_file_is_refused(
    tree: Tree, validator: ValidatorDir, by_event: bool
) -> None:
    """The position is not absent, however often a sweep looks; it is read again when the file is back."""
    path = validator.file(position(1, []))
    content = path.read_bytes()
    path.unlink()
    path.mkdir()
    if by_event:
        tree.look(path.parent, path.name)
    for _ in range(3):
        tree.sweep(full=True)
        assert (tree.files.refused, tree.files.absent) == (1, set())
    path.rmdir()
    path.write_bytes(content)
    assert tree.sweep(full=True) == [KEY]
    assert tree.files.refused == 0


def test_a_bad_file_is_not_read_again_until_it_changes(
    tree: Tree, validator: ValidatorDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is swept, after a few attempts: it might have been half written."""
    validator.put(validator.file(position(1, [])), b"{")
    for _ in range(5):
        tree.sweep(full=True)
    reads: list[str] = []
    monkeypatch.setattr(position_files, "read_file", lambda path, limit: reads.append(path))
    tree.sweep(full=True)
    tree.sweep(full=True)
    assert reads == []
    assert tree.files.refused == 1


def test_a_bad_file_that_is_replaced_before_it_is_read_is_logged_once(
    tree: Tree,
    validator: ValidatorDir,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is refused in the version that was read, not in the one that the sweep listed."""
    path = validator.put(validator.file(position(1, [])), b"{")

    def replacing(name: str, limit: int) -> tuple[bytes, os.stat_result]:
        validator.put(path, b"{{")
        monkeypatch.undo()
        return read_file(name, limit)

    monkeypatch.setattr(position_files, "read_file", replacing)
    for _ in range(3):
        assert tree.sweep(full=True) == []
    assert capsys.readouterr().out.count("position_file_skipped") == 1


async def test_a_replaced_folder_is_watched_again(
    validator: ValidatorDir, data: Path, tmp_path: Path
) -> None:
    """A miner's folder is replaced by another of the same name; the watch sees later orders in it."""
    validator.write(position(1, [order(1)]))
    other = ValidatorDir(tmp_path / "other")
    other.write(position(1, [order(1)]))
    async with running(data, validator, **WATCH_ALONE) as intake:
        os.rename(validator.miners / MINER, tmp_path / "away")
        os.rename(other.miners / MINER, validator.miners / MINER)
        validator.write(position(2, [order(2)], miner=OTHER_MINER))
        await intake.until(lambda: len(intake.events()) == 1)
        validator.write(position(1, [order(1), order(3)]))
        await intake.until(lambda: len(intake.events()) == 2)


async def test_a_recreated_folder_is_watched_again(validator: ValidatorDir, data: Path) -> None:
    """Even with the same inode, and the same entry in its parent."""
    path = validator.write(position(1, [order(1)]))
    async with running(data, validator, **WATCH_ALONE) as intake:
        for n in range(2, 8):
            path.unlink()
            path.parent.rmdir()
            path.parent.mkdir()
            validator.write(position(100 + n, [order(100 + n)], miner=OTHER_MINER))
            await intake.until(lambda n=n: order(100 + n)["order_uuid"] in intake.announced())
            validator.write(position(1, [order(k) for k in range(1, n + 1)]))
            await intake.until(lambda n=n: order(n)["order_uuid"] in intake.announced())


class ReplacedWatch(InotifyWatch):
    """inotify that sets `replaced` at its first event."""

    def __init__(self) -> None:
        super().__init__()
        self.replaced = threading.Event()

    async def events(self) -> AsyncIterator[FsEvent | None]:
        async for event in super().events():
            self.replaced.set()
            yield event


async def test_a_sweeps_older_version_does_not_undo_a_newer_one(
    validator: ValidatorDir, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep delivers at its end; a newer version that arrived meanwhile stays."""
    for n in (1, 2):
        validator.write(position(n, [order(n)]))
    async with running(data, validator):
        pass
    for n in (1, 2):
        validator.write(position(n, [order(n), order(10 * n + 1)]))
    reads: list[int] = []
    real = position_files.read_file
    watch = ReplacedWatch()

    def replacing(path: str, limit: int) -> Any:
        """Replaces the first file after it was read; reads the second only after that event."""
        content = real(path, limit)
        n = 1 if path.endswith(uuid(1)) else 2
        reads.append(n)
        if len(reads) == 1:
            validator.write(position(n, [order(n), order(10 * n + 1), order(10 * n + 2)]))
        elif len(reads) == 2:
            watch.replaced.wait(PATIENCE_S)
        return content

    monkeypatch.setattr(position_files, "read_file", replacing)
    async with running(data, validator, watch=watch, **WATCH_ALONE) as intake:
        await intake.until(lambda: len(intake.events()) == 3)
        first, second = reads[0], 3 - reads[0]
        assert len(intake.state()[MINER, uuid(first)]["orders"]) == 3
        assert sorted(intake.announced()) == sorted(
            order(n)["order_uuid"] for n in (10 * first + 1, 10 * first + 2, 10 * second + 1)
        )
