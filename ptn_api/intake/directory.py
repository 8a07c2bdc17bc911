"""The tree of folders: watched, listed, and their files reported to `PositionFiles`. Opens no file.

validation/miners/<hotkey>/positions/<PAIR>/{open,closed}/<position uuid>
0                 1        2         3      4              depth of a folder
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import structlog

from ptn_api.errors import InvalidInputError
from ptn_api.event_log.contract import EventLog
from ptn_api.file_version import is_settled, version_of
from ptn_api.intake.files import check_name
from ptn_api.intake.position_files import Place, PositionFiles, PositionsToRead
from ptn_api.intake.watch import FsEvent, Watch

__all__ = ["Directory", "other_validator"]

logger = structlog.get_logger()

_HOTKEY, _POSITIONS, _PAIR, _FILES = 1, 2, 3, 4
_BAD_NAME = "bad_name"
_ENOUGH = 5
"""Positions of the log from which on it is a fault if the directory has none of them."""
_FIXED_NAMES = {_POSITIONS: ("positions",), _FILES: ("open", "closed")}


class Folder:
    """One folder as of its last listing.

    `inode` is 0 before the first listing and after the folder was replaced. `mtime_ns` is 0 if a later
    change might not show in it.
    """

    __slots__ = (
        "depth",
        "files",
        "folders",
        "inode",
        "listed_in",
        "mtime_ns",
        "name",
        "parent",
        "path",
        "place",
        "wd",
    )

    def __init__(self, parent: Folder | None, name: str, path: str) -> None:
        self.parent = parent
        self.name = name
        self.path = path
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.folders: dict[str, Folder] = {}
        self.files: set[str] = set()
        self.place: Place | None = None
        self.inode = 0
        self.mtime_ns = 0
        self.listed_in = 0
        self.wd: int | None = None
        if parent is not None and self.depth == _FILES:
            self.place = Place(hotkey=self.hotkey, pair=parent.name, closed=name == "closed", path=path)

    @property
    def hotkey(self) -> str:
        """The miner that the folder belongs to; empty for the folder of miners itself."""
        folder = self
        while folder.parent is not None and folder.depth > _HOTKEY:
            folder = folder.parent
        return folder.name if folder.depth == _HOTKEY else ""

    @property
    def is_attached(self) -> bool:
        """Whether the folder is still part of the tree."""
        return self.parent is None or self.parent.folders.get(self.name) is self

    def has_changed(self) -> bool:
        """Returns whether an entry may have come or gone since the last listing."""
        try:
            status = os.stat(self.path)
        except OSError:
            return True
        return (status.st_ino, status.st_mtime_ns) != (self.inode, self.mtime_ns)


class Directory:
    """The tree under `root` (`validation/miners`); reports its files to `files`.

    A folder is watched before it is listed, so that no file is missed in between. While `root_missing`,
    everything below the root keeps its last state. Not thread-safe.
    """

    def __init__(self, root: Path, files: PositionFiles, watch: Watch) -> None:
        self._root = Folder(None, "", str(root))
        self._files = files
        self._watch = watch
        self._by_wd: dict[int, Folder] = {}
        self._miners: set[str] = set()
        self._hotkeys: list[str] = []
        self._unreadable: set[Folder] = set()
        self._refused: dict[str, str] = {}
        """Entries in the place of a folder, each with why it is skipped."""
        self._pass = 0
        self._rewatching = False
        self.root_missing = False
        self.watching = True
        """False once inotify watches have run out; every full sweep tries again."""
        self.events_missing = False
        """Set from outside while changes are found that had no event; sweeps then look as without watches."""

    @property
    def hotkeys(self) -> list[str]:
        """The miners that have a folder, sorted; the same list object until they change."""
        if self._root.folders.keys() != self._miners:
            self._miners = set(self._root.folders)
            self._hotkeys = sorted(self._miners)
        return self._hotkeys

    @property
    def refused(self) -> int:
        """Number of folders, and of entries in the place of one, that are skipped at present."""
        return len(self._refused) + len(self._unreadable)

    @property
    def unreadable(self) -> int:
        """Number of folders that cannot be listed at present."""
        return len(self._unreadable) + sum(code != _BAD_NAME for code in self._refused.values())

    def locked_path(self) -> str:
        """Returns a folder that this user cannot list, or the root if it is out of reach; else nothing."""
        try:
            os.stat(self._root.path)
        except PermissionError:
            return self._root.path
        except OSError:
            pass  # missing is not locked
        return next((folder.path for folder in self._unreadable), "")

    def unreadable_hotkeys(self) -> set[str]:
        """Returns the miners whose files are unknown at present; an empty name stands for all miners."""
        below = len(self._root.path) + 1
        replaced = (path[below:] for path, code in self._refused.items() if code != _BAD_NAME)
        return {
            *(folder.hotkey for folder in self._unreadable),
            *(path.partition("/")[0] for path in replaced),
        }

    def check_root(self) -> bool:
        """Returns whether the root exists."""
        self.root_missing = not os.path.isdir(self._root.path)
        return not self.root_missing

    def sweep(self, to_read: PositionsToRead, *, full: bool, rewatch: bool = False) -> Iterator[None]:
        """Looks for changes without events, one folder per step.

        `full` lists all folders, otherwise only those whose time changed. `rewatch` sets every watch again:
        after an overflow, the lost event may have been the end of a watch.
        """
        if not self.check_root():
            return
        self._pass += 1
        self._rewatching = rewatch
        if full and not self.watching:
            self.watching = True
        pending = [self._root]
        while pending:
            folder = pending.pop()
            if not folder.is_attached:
                continue  # dropped by an event between two steps
            unwatched = folder.wd is None and self.watching
            # Open positions may be rewritten in place, which their folder's time does not show.
            blind = (
                (not self.watching or self.events_missing)
                and folder.place is not None
                and not folder.place.closed
            )
            if folder.listed_in != self._pass and (full or unwatched or blind or folder.has_changed()):
                self._list(folder, to_read)
            pending.extend(folder.folders.values())
            yield

    def hotkeys_of(self, events: Iterable[FsEvent]) -> set[str]:
        """Returns the miners in whose folders the events happened."""
        folders = ((self._by_wd.get(wd), name) for wd, name in events)
        return {folder.hotkey or name for folder, name in folders if folder is not None}

    def follow_events(self, events: Iterable[FsEvent], to_read: PositionsToRead) -> None:
        """Follows up events: on a file by its status, on a folder by a listing."""
        folders: dict[Folder, None] = {}
        for wd, name in events:
            folder = self._by_wd.get(wd)
            if folder is None:
                continue
            if not name:  # the watched folder itself is gone
                self._unwatch(folder)
            if folder.place is not None and name:
                self._check_file(folder, folder.place, name, to_read)
            else:
                folders[folder] = None
        for folder in folders:
            self._list_with_new(folder, to_read)

    def list_root(self, to_read: PositionsToRead) -> None:
        """Lists the folder of miners, which may have appeared, vanished or been replaced."""
        if self.check_root():
            self._list_with_new(self._root, to_read)

    # --- files --------------------------------------------------------------------------------------------

    def _check_file(self, folder: Folder, place: Place, name: str, to_read: PositionsToRead) -> None:
        path = f"{folder.path}/{name}"
        try:
            version = version_of(os.stat(path))
        except OSError as error:
            is_missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
            if not is_missing or os.path.islink(path):
                folder.files.add(name)
                self._files.add_unreadable(place, name, to_read)
            # Below a root that was moved away every file is missing: that means nothing for this one.
            elif self.check_root():
                folder.files.discard(name)
                self._files.remove_file(place, name, to_read)
            return
        folder.files.add(name)
        # Forced: the kernel reports a write, even if inode, time and size look the same.
        self._files.add_file(place, name, version, to_read, force=True)

    def _compare_files(
        self, folder: Folder, place: Place, entries: list[os.DirEntry[str]], to_read: PositionsToRead
    ) -> None:
        present: set[str] = set()
        for entry in entries:
            try:
                status = entry.stat()
            except OSError as error:
                if isinstance(error, FileNotFoundError) and not entry.is_symlink():
                    continue  # gone since the listing
                present.add(entry.name)
                self._files.add_unreadable(place, entry.name, to_read)
                continue
            # A folder too: reading it fails, so it is reported, and a position that had a file there stays.
            present.add(entry.name)
            self._files.add_file(place, entry.name, version_of(status), to_read)
        for name in folder.files - present:
            self._files.remove_file(place, name, to_read)
        folder.files = present

    # --- folders ------------------------------------------------------------------------------------------

    def _list_with_new(self, folder: Folder, to_read: PositionsToRead) -> None:
        pending = [folder]
        while pending:
            folder = pending.pop()
            self._list(folder, to_read)
            pending += [child for child in folder.folders.values() if not child.inode]

    def _list(self, folder: Folder, to_read: PositionsToRead) -> None:
        try:
            status = os.stat(folder.path)
            if status.st_ino != folder.inode:
                self._unwatch(folder)
            was_watched = folder.wd is not None
            # Before the listing: a file that appears between the two is reported twice, not never.
            self._add_watch(folder)
            with os.scandir(folder.path) as listing:
                entries = list(listing)
            if folder.place is not None:
                self._compare_files(folder, folder.place, entries, to_read)
                folder.place.watched = was_watched
            else:
                self._compare_folders(folder, entries, to_read)
        except (FileNotFoundError, NotADirectoryError):
            if folder.parent is not None:
                folder.parent.mtime_ns = 0  # the next sweep sees what lies in the folder's place
            self._drop(folder, to_read)
        except OSError as error:
            self._skip_folder(folder, error)
        else:
            self._unreadable.discard(folder)
            folder.listed_in = self._pass
            folder.inode = status.st_ino
            # A link may lead to a folder again without a change of the folder that it lies in.
            must_list = any(os.path.dirname(path) == folder.path for path in self._refused)
            folder.mtime_ns = status.st_mtime_ns if is_settled(status.st_mtime_ns) and not must_list else 0

    def _compare_folders(
        self, folder: Folder, entries: list[os.DirEntry[str]], to_read: PositionsToRead
    ) -> None:
        depth = folder.depth + 1
        present: dict[str, os.DirEntry[str]] = {}
        refused: dict[str, str] = {}
        for entry in entries:
            if entry.name not in _FIXED_NAMES.get(depth, (entry.name,)):
                continue
            try:
                if not entry.is_dir():
                    refused[entry.name] = "not_a_folder"
                    continue
                check_name(entry.name)
            except InvalidInputError as error:
                refused[entry.name] = error.code
            except OSError:  # a link to itself, or into a folder without permission
                refused[entry.name] = "unreadable"
            else:
                present[entry.name] = entry
        for name in folder.folders.keys() - present.keys():
            self._drop(folder.folders[name], to_read)
        # Where names are free, a stray file is ignored, unless positions are missing below its name.
        for name in [name for name, code in refused.items() if code == "not_a_folder"]:
            missing = (name, "") if depth == _HOTKEY else (folder.hotkey, name)
            if depth not in _FIXED_NAMES and not self._files.misses(*missing):
                del refused[name]
        self._refuse(folder, refused)
        for name, entry in present.items():
            child = folder.folders.get(name)
            if child is None:
                folder.folders[name] = Folder(folder, name, entry.path)
            elif not entry.is_symlink() and entry.inode() != child.inode:
                child.inode = 0

    def _drop(self, folder: Folder, to_read: PositionsToRead) -> None:
        if folder.parent is None:
            self.root_missing = True
            return
        folder.parent.folders.pop(folder.name, None)
        dropped = [folder]
        while dropped:
            folder = dropped.pop()
            self._unreadable.discard(folder)
            self._refuse(folder, {})
            self._unwatch(folder)
            if folder.place is not None:
                for name in folder.files:
                    self._files.remove_file(folder.place, name, to_read)
            folder.files = set()
            dropped += folder.folders.values()
            folder.folders = {}

    # --- skipped entries ----------------------------------------------------------------------------------

    def _refuse(self, folder: Folder, refused: dict[str, str]) -> None:
        """Notes which entries of a folder are skipped, by name; logs those that were not before."""
        before = {path for path in self._refused if os.path.dirname(path) == folder.path}
        now = {f"{folder.path}/{name}": code for name, code in refused.items()}
        for path in before - now.keys():
            del self._refused[path]
        for path, code in now.items():
            if path not in before:
                name = ascii(os.path.basename(path))[:200]
                logger.warning("folder_skipped", hotkey=folder.hotkey, name=name, code=code)
        self._refused.update(now)

    def _skip_folder(self, folder: Folder, error: OSError) -> None:
        folder.mtime_ns = 0
        if folder not in self._unreadable:
            self._unreadable.add(folder)
            logger.warning(
                "folder_skipped",
                hotkey=folder.hotkey,
                name=folder.name,
                code="unreadable",
                reason=error.strerror,
            )

    # --- watches ------------------------------------------------------------------------------------------

    def _add_watch(self, folder: Folder) -> None:
        """Raises FileNotFoundError or NotADirectoryError; logs once when watches have run out."""
        if not self.watching or (folder.wd is not None and not self._rewatching):
            return
        try:
            is_leaf = folder.place is not None
            wd = self._watch.add(folder.path, files=is_leaf, folders=not is_leaf)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            raise
        except OSError as error:
            self.watching = False
            logger.warning("watches_exhausted", reason=error.strerror)
            return
        if folder.wd != wd:
            self._unwatch(folder)
        folder.wd = wd
        self._by_wd[wd] = folder

    def _unwatch(self, folder: Folder) -> None:
        # A folder that was moved within the tree keeps its watch: the number may by now belong to the
        # same folder at its new path.
        if folder.wd is not None and self._by_wd.get(folder.wd) is folder:
            del self._by_wd[folder.wd]
            self._watch.remove(folder.wd)
        folder.wd = None


def other_validator(log: EventLog, data_dir: str | Path, validator_dir: str | Path) -> str:
    """Why the log must not go on with this directory: it is another validator's. Empty if it can.

    Otherwise its clients would get that one's orders as news, and keep the positions of this one. The two
    belong together if the log has a position of the directory, archived and removed ones included. The first
    file decides that as a rule, so little is listed. A directory without positions may be filled later.
    """
    if len(list(islice(log.positions(), _ENOUGH))) < _ENOUGH:
        return ""
    miners, unknown, count = Path(validator_dir, "validation", "miners"), set(), 0
    for folder in ("positions", "archived_positions"):
        for path in miners.glob(f"*/{folder}/*/*/*"):
            key = (path.parents[3].name, path.name)
            if log.position(*key) is not None:
                return ""
            unknown.add(key)
            count += folder == "positions"
    removed = log.removed(log.oldest_revision()) if count else []
    if not count or any((one.miner_hotkey, one.position_uuid) in unknown for one in removed):
        return ""
    sentence = f"{data_dir} holds the log of another validator, with none of the {count:,} positions in"
    if log.copy_status() is not None:
        remedy = "give the directory of the cluster's validator, or, for another cluster, another --data-dir"
    else:
        remedy = (
            "choose another --data-dir (make: DATA_DIR=...). If the log shall end here, delete log.sqlite3*"
            " in it: clients then begin with a new epoch"
        )
    return f"{sentence} {validator_dir}; {remedy}"
