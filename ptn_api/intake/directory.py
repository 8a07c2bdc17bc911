"""The validator's directory: which folders there are, which files lie in them. Reading only.

validation/miners/<hotkey>/positions/<PAIR>/{open,closed}/<position uuid>
0                 1        2         3      4              depth of a folder
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import structlog

from ptn_api.errors import InvalidInputError
from ptn_api.intake.files import check_name, is_settled, version_of
from ptn_api.intake.position_files import Place, PositionFiles, Touched
from ptn_api.intake.watch import FsEvent, Watch

__all__ = ["Directory"]

logger = structlog.get_logger()

_HOTKEY, _POSITIONS, _PAIR, _FILES = 1, 2, 3, 4
_FIXED_NAMES = {_POSITIONS: ("positions",), _FILES: ("open", "closed")}


class Folder:
    """One folder as it was when last listed; `inode` is 0 where it was not, or is no longer the same one.

    `mtime_ns` is 0 where a change since might not show in it.
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
        """The miner whose folder this is, or lies in; empty for the folder of miners itself."""
        folder = self
        while folder.parent is not None and folder.depth > _HOTKEY:
            folder = folder.parent
        return folder.name if folder.depth == _HOTKEY else ""


class Directory:
    """The tree under `root` (`validation/miners`). What it finds it tells `files`.

    A folder is watched before it is listed, so that nothing falls between. `root_missing` says that the
    root is not there: everything below then stands as it was. Not thread-safe: one thread at a time.
    """

    def __init__(self, root: Path, files: PositionFiles, watch: Watch) -> None:
        self._root = Folder(None, "", str(root))
        self._files = files
        self._watch = watch
        self._by_wd: dict[int, Folder] = {}
        self._miners: set[str] = set()
        self._hotkeys: list[str] = []
        self._unreadable: set[Folder] = set()
        self._strange: set[str] = set()
        self._pass = 0
        self._rewatching = False
        self.root_missing = False
        self.watching = True
        """False once inotify watches have run out; tried again by every full sweep."""

    @property
    def hotkeys(self) -> list[str]:
        """The miners that have a directory, sorted; the same list while they are the same."""
        if self._root.folders.keys() != self._miners:
            self._miners = set(self._root.folders)
            self._hotkeys = sorted(self._miners)
        return self._hotkeys

    @property
    def refused(self) -> int:
        """Number of folders and links that are skipped at present: strange names, no permission, loops."""
        return len(self._strange) + len(self._unreadable)

    def unreadable_hotkeys(self) -> set[str]:
        """Miners of whose files nothing can be said at present. An empty name stands for all of them."""
        return {folder.hotkey for folder in self._unreadable}

    def check_root(self) -> bool:
        """Whether the root is there."""
        self.root_missing = not os.path.isdir(self._root.path)
        return not self.root_missing

    def sweep(self, touched: Touched, *, full: bool, rewatch: bool = False) -> Iterator[None]:
        """Looks for what the watch missed, one folder per step: all files, or the folders that changed.

        `rewatch` after an overflow: what was missed may be the end of a watch.
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
            if not _attached(folder):
                continue  # dropped by an event between two steps
            unwatched = folder.wd is None and self.watching
            if folder.listed_in != self._pass and (full or unwatched or self._changed(folder)):
                self._list(folder, touched)
            pending.extend(folder.folders.values())
            yield

    def look(self, events: Iterable[FsEvent], touched: Touched) -> None:
        """Looks where the watch saw something. An event on a directory lists it."""
        folders: dict[Folder, None] = {}
        for wd, name in events:
            folder = self._by_wd.get(wd)
            if folder is None:
                continue
            if not name:  # the directory that was watched is gone
                self._unwatch(folder)
            if folder.place is not None and name:
                self._look_at_file(folder, folder.place, name, touched)
            else:
                folders[folder] = None
        for folder in folders:
            self._list_with_new(folder, touched)

    def look_at_root(self, touched: Touched) -> None:
        """Lists the folder of miners, which may have come, gone or been replaced."""
        if self.check_root():
            self._list_with_new(self._root, touched)

    # --- one folder ---------------------------------------------------------------------------------------

    def _changed(self, folder: Folder) -> bool:
        try:
            status = os.stat(folder.path)
        except OSError:
            return True
        return (status.st_ino, status.st_mtime_ns) != (folder.inode, folder.mtime_ns)

    def _list_with_new(self, folder: Folder, touched: Touched) -> None:
        pending = [folder]
        while pending:
            folder = pending.pop()
            self._list(folder, touched)
            pending += [child for child in folder.folders.values() if not child.inode]

    def _list(self, folder: Folder, touched: Touched) -> None:
        try:
            status = os.stat(folder.path)
            if status.st_ino != folder.inode:
                self._unwatch(folder)
            self._add_watch(folder)
            with os.scandir(folder.path) as listing:
                self._compare(folder, list(listing), touched)
        except (FileNotFoundError, NotADirectoryError):
            self._drop(folder, touched)
        except OSError as error:
            self._skip(folder, error)
        else:
            self._unreadable.discard(folder)
            folder.listed_in = self._pass
            folder.inode = status.st_ino
            folder.mtime_ns = status.st_mtime_ns if is_settled(status.st_mtime_ns) else 0

    def _compare(self, folder: Folder, entries: list[os.DirEntry[str]], touched: Touched) -> None:
        if self._strange:
            here = {path for path in self._strange if os.path.dirname(path) == folder.path}
            self._strange -= here - {entry.path for entry in entries}
        if folder.place is not None:
            self._compare_files(folder, folder.place, entries, touched)
        else:
            self._compare_folders(folder, entries, touched)

    def _compare_folders(self, folder: Folder, entries: list[os.DirEntry[str]], touched: Touched) -> None:
        there = {entry.name: entry for entry in entries if self._is_wanted(folder, entry)}
        for name in folder.folders.keys() - there.keys():
            self._drop(folder.folders[name], touched)
        for name, entry in there.items():
            child = folder.folders.get(name)
            if child is None:
                folder.folders[name] = Folder(folder, name, entry.path)
            elif not entry.is_symlink() and entry.inode() != child.inode:
                child.inode = 0

    def _compare_files(
        self, folder: Folder, place: Place, entries: list[os.DirEntry[str]], touched: Touched
    ) -> None:
        there: set[str] = set()
        for entry in entries:
            try:
                status = entry.stat()
            except FileNotFoundError:
                continue  # gone since the listing, or a link that leads nowhere
            except OSError:
                self._skip_entry(entry, "unreadable")
                there |= {entry.name} & folder.files  # not gone
                continue
            self._strange.discard(entry.path)
            if not stat.S_ISDIR(status.st_mode):
                there.add(entry.name)
                self._files.found(place, entry.name, version_of(status), touched)
        for name in folder.files - there:
            self._files.gone(place, name, touched)
        folder.files = there

    def _look_at_file(self, folder: Folder, place: Place, name: str, touched: Touched) -> None:
        try:
            version = version_of(os.stat(f"{folder.path}/{name}"))
        except (FileNotFoundError, NotADirectoryError):
            # Seen from a root that has been moved away every file is gone; then nothing is believed.
            if self.check_root():
                folder.files.discard(name)
                self._files.gone(place, name, touched)
            return
        except OSError as error:
            self._skip(folder, error)
            return
        folder.files.add(name)
        # Forced: the kernel says that it was written, whatever its times look like.
        self._files.found(place, name, version, touched, force=True)

    def _is_wanted(self, folder: Folder, entry: os.DirEntry[str]) -> bool:
        depth = folder.depth + 1
        try:
            if entry.name not in _FIXED_NAMES.get(depth, (entry.name,)) or not entry.is_dir():
                return False
            check_name(entry.name)
        except InvalidInputError as error:
            self._skip_entry(entry, error.code)
            return False
        except OSError:  # a link to itself, or to where nobody may look
            self._skip_entry(entry, "unreadable")
            return entry.name in folder.folders  # not gone
        self._strange.discard(entry.path)
        return True

    def _skip_entry(self, entry: os.DirEntry[str], code: str) -> None:
        if entry.path not in self._strange:
            self._strange.add(entry.path)
            logger.warning("folder_skipped", name=ascii(entry.name)[:200], code=code)

    def _skip(self, folder: Folder, error: OSError) -> None:
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

    def _drop(self, folder: Folder, touched: Touched) -> None:
        if folder.parent is None:
            self.root_missing = True
            return
        folder.parent.folders.pop(folder.name, None)
        self._forget(folder, touched)

    def _forget(self, folder: Folder, touched: Touched) -> None:
        self._unreadable.discard(folder)
        self._unwatch(folder)
        if folder.place is not None:
            for name in folder.files:
                self._files.gone(folder.place, name, touched)
            folder.files = set()
        for child in folder.folders.values():
            self._forget(child, touched)
        folder.folders = {}

    def _add_watch(self, folder: Folder) -> None:
        """Raises FileNotFoundError or NotADirectoryError; where watches have run out, says so once."""
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
        # A folder that was moved within the tree keeps its watch, which may be its new self's by now.
        if folder.wd is not None and self._by_wd.get(folder.wd) is folder:
            del self._by_wd[folder.wd]
            self._watch.remove(folder.wd)
        folder.wd = None


def _attached(folder: Folder) -> bool:
    return folder.parent is None or folder.parent.folders.get(folder.name) is folder
