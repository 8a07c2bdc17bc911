"""The files of each miner besides its positions, made into one document per miner and kind.

validation/miners/<hotkey>/limit_orders/<PAIR>/{unfilled,closed}/<order uuid>
                           archived_positions/<PAIR>/{open,closed}/<position uuid>
                           snapshots.jsonl

They are not watched: every watch is left to the positions. A pass costs a stat of each folder, and of each
file that is likely to be rewritten in place; only miners with a change are listed and read.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import structlog

from ptn_api.errors import InvalidInputError
from ptn_api.event_log.contract import Document, DocumentWritten
from ptn_api.file_version import is_settled, version_of
from ptn_api.intake.files import Refusals, check_name, check_utf8, json_object, read_bytes, read_file
from ptn_api.intake.position_files import parse_file
from ptn_api.model.limit_order import LimitOrderFile, parse_limit_order
from ptn_api.model.position import check_unknown
from ptn_api.model.trade_pair import trade_pairs

__all__ = ["KEPT_SNAPSHOTS", "MinerFiles"]

logger = structlog.get_logger()

Key = tuple[Document, str]
FolderName = Literal["closed", "unfilled", "open"]
_Mark = tuple[int, int, int]
"""ctime (ns), inode and size of a file or folder; zeros if it has none."""

KEPT_SNAPSHOTS = 2_160
"""Snapshots kept of each miner: those of 90 days."""
_TAIL_BYTES = 512 << 10
_LINE_BYTES = 64 << 10


class _Tree(NamedTuple):
    """A folder of a miner: pairs, and below each pair these folders of files; the first one wins."""

    name: str
    folders: tuple[FolderName, ...]
    rewritten: str
    """The one whose files the validator rewrites, perhaps in place."""


_TREES = {
    Document.LIMIT_ORDERS: _Tree("limit_orders", ("closed", "unfilled"), "unfilled"),
    Document.ARCHIVED_POSITIONS: _Tree("archived_positions", ("closed", "open"), ""),
}
_SNAPSHOTS_FILE = "snapshots.jsonl"


class _Snapshot(msgspec.Struct):
    account_size: float
    balance: float
    equity: float
    snapshot_ms: float | None = None
    day_open_ms: float | None = None
    """The time in older lines."""


_snapshot = msgspec.json.Decoder(_Snapshot)


class _File(NamedTuple):
    path: str
    pair: str
    folder: FolderName
    name: str
    version: str
    is_settled: bool


class _MinerDocument:
    """The known state of a miner's files of one kind.

    `look_again`: the next pass lists the files even if no time shows a change. `fingerprint` is that of the
    delivered document; empty if it lacks a file that could not be read.
    """

    __slots__ = (
        "exists",
        "fingerprint",
        "folders",
        "look_again",
        "refused",
        "rewritten",
        "times",
        "was_empty",
    )

    def __init__(self, fingerprint: str | None) -> None:
        self.exists = fingerprint is not None
        self.fingerprint = fingerprint or ""
        self.times: list[_Mark] = []
        self.look_again = True
        self.was_empty = False
        self.folders: list[tuple[str, FolderName, str]] = []
        """Pair, name and path of each folder of files."""
        self.rewritten: list[str] = []
        self.refused: set[str] = set()


class MinerFiles:
    """The files below `root` (`validation/miners`) as documents in PER_MINER.

    `known` are the log's fingerprints. `position_limit` is the largest file to read, `document_limit` the
    largest document to make of a miner's files, in bytes. Not thread-safe.
    """

    def __init__(
        self, root: Path, known: Mapping[Key, str], *, position_limit: int, document_limit: int
    ) -> None:
        self._root = str(root)
        self._miners = {key: _MinerDocument(fingerprint) for key, fingerprint in known.items()}
        self._refused: Refusals[str] = Refusals()
        self._incomplete: dict[str, str] = {}
        """Files that are refused, or served only in part, each with its version."""
        self._position_limit = position_limit
        self._document_limit = document_limit

    @property
    def refused(self) -> int:
        """Number of files that are skipped at present, or served without something that is malformed."""
        return len(self._refused) + len(self._incomplete)

    @property
    def delivered(self) -> set[Key]:
        """The documents that were delivered and not removed."""
        return {key for key, miner in list(self._miners.items()) if miner.exists}

    def start_over(self) -> None:
        """Forgets all deliveries: the baseline that they were part of was rolled back."""
        self._miners.clear()

    def forget(self, document: Document, hotkey: str) -> None:
        """Has the document delivered again, or removed if the miner has no files of it."""
        miner = self._miners.setdefault((document, hotkey), _MinerDocument(""))
        miner.fingerprint, miner.look_again, miner.exists = "", True, True

    def changes(self, *, full: bool) -> Iterator[DocumentWritten]:
        """Yields the documents that changed. `full` compares every file, not only folders' times."""
        try:
            with os.scandir(self._root) as listing:
                entries = {entry.name: _is_folder(entry) for entry in listing}
        except OSError:
            return  # nothing is known about any miner
        hotkeys = {name for name, is_folder in entries.items() if is_folder}
        for hotkey in sorted(hotkeys):
            for document in (*_TREES, Document.SNAPSHOTS):
                miner = self._miners.get((document, hotkey))
                if miner is None:
                    miner = self._miners[document, hotkey] = _MinerDocument(None)
                change = self._check(document, hotkey, miner, full=full)
                if change is not None:
                    yield change
        for (document, hotkey), miner in list(self._miners.items()):
            if hotkey in hotkeys:
                continue
            if hotkey in entries and miner.exists:
                whole = f"{self._path(document, hotkey)}/"
                self._hold(document, hotkey, miner, whole, _not_a_folder())
            else:
                self._accept(miner, miner.refused.copy())
                change = self._empty(document, hotkey, miner)
                if change is not None:
                    yield change
                if not miner.exists:
                    del self._miners[document, hotkey]

    # --- one miner ----------------------------------------------------------------------------------------

    def _check(
        self, document: Document, hotkey: str, miner: _MinerDocument, *, full: bool
    ) -> DocumentWritten | None:
        tree = _TREES.get(document)
        path = self._path(document, hotkey)
        whole = path + "/"
        """The path that is refused if the folder, or the document as a whole, is at fault."""
        try:
            must_list = full or miner.look_again
            miner.look_again = False
            times = self._times(path, tree, miner, relist=must_list)
            if times == miner.times and not must_list:
                return None
            files = self._list(path, tree, hotkey, miner)
        except OSError as error:
            self._hold(document, hotkey, miner, whole, error)
            return None
        miner.times = times
        self._accept(miner, miner.refused - {whole} - {file.path for file in files})
        if not files:
            self._accept(miner, {whole})
            return self._empty(document, hotkey, miner)
        miner.was_empty = False
        return self._read(document, hotkey, miner, whole, files)

    def _times(self, path: str, tree: _Tree | None, miner: _MinerDocument, *, relist: bool) -> list[_Mark]:
        """Returns the times that show most changes; compare them to those of the last pass."""
        times = [_mark(path)]
        if tree is not None:
            if relist or times != miner.times[:1]:
                known = trade_pairs().keys() | {pair for pair, _, _ in miner.folders}
                pairs = [entry.name for entry in _entries(path) if _is_folder(entry, known)]
                miner.folders = [
                    (pair, folder, f"{path}/{pair}/{folder}") for pair in pairs for folder in tree.folders
                ]
            times += [_mark(folder) for _, _, folder in miner.folders]
            times += [_mark(file) for file in miner.rewritten]
        newest = max(changed_ns for changed_ns, _, _ in times)
        if not is_settled(newest):
            miner.look_again = True
        return times

    def _list(self, path: str, tree: _Tree | None, hotkey: str, miner: _MinerDocument) -> list[_File]:
        files: list[_File] = []
        if tree is None:
            file = _file(path, "", "closed", _SNAPSHOTS_FILE)
            return [file] if file else []
        for pair, folder, folder_path in miner.folders:
            for entry in _entries(folder_path):
                file = _file(entry.path, pair, folder, entry.name)
                if file is None:
                    continue
                if tree.name == "archived_positions":
                    live = f"{self._root}/{hotkey}/positions/{pair}"
                    if any(os.path.exists(f"{live}/{name}/{entry.name}") for name in ("open", "closed")):
                        miner.look_again = True  # it is being moved; the file among the positions wins
                        continue
                files.append(file)
        files.sort()
        miner.rewritten = [file.path for file in files if file.folder == tree.rewritten]
        return files

    def _empty(self, document: Document, hotkey: str, miner: _MinerDocument) -> DocumentWritten | None:
        """Returns the document's removal, at the second pass in a row that finds no file.

        Between two writes of the validator a file may have left one folder and not reached the next.
        """
        if not miner.exists:
            return None
        if not miner.was_empty:
            miner.was_empty = miner.look_again = True
            return None
        miner.exists = False
        miner.fingerprint = ""
        return DocumentWritten(document=document, content=None, miner_hotkey=hotkey)

    # --- reading ------------------------------------------------------------------------------------------

    def _read(
        self, document: Document, hotkey: str, miner: _MinerDocument, whole: str, files: list[_File]
    ) -> DocumentWritten | None:
        digest = hashlib.blake2b(digest_size=16)
        for file in files:
            digest.update(os.fsencode(f"{file.folder}/{file.pair}/{file.name}/{file.version}\n"))
        fingerprint = digest.hexdigest()
        if fingerprint == miner.fingerprint:
            self._accept(miner, {whole})
            return None
        if self._refused.is_final(whole, fingerprint):
            return None
        parts: list[bytes] = []
        names: set[str] = set()
        size = 0
        for file in files:
            if file.name in names:
                continue
            if not self._refused.is_final(file.path, file.version):
                part = self._read_file(document, hotkey, miner, file)
                if part:
                    names.add(file.name)
                    parts.append(part)
                    size += len(part)
            if size > self._document_limit:
                miner.refused.add(whole)
                excess = InvalidInputError(f"larger than {self._document_limit} bytes", code="too_large")
                self._refuse(document, hotkey, whole, fingerprint, excess)
                return None
        self._accept(miner, {whole})
        # A file that is being copied into place must not seem gone: the others wait for it, for a few passes.
        if any(self._refused.is_young(refused) for refused in miner.refused):
            miner.look_again = True
            return None
        if not parts:
            return None if miner.refused else self._empty(document, hotkey, miner)
        if not all(file.is_settled for file in files):
            miner.look_again = True
            fingerprint = ""
        miner.fingerprint = "" if miner.refused else fingerprint
        miner.exists = True
        return DocumentWritten(
            document=document,
            content=b"[" + b",".join(parts) + b"]",
            miner_hotkey=hotkey,
            fingerprint=miner.fingerprint,
        )

    def _read_file(self, document: Document, hotkey: str, miner: _MinerDocument, file: _File) -> bytes:
        """Returns the file's part of the document; nothing if it is refused."""
        problems: list[str] = []
        try:
            check_name(file.name)
            part = _READERS[document](file, hotkey, self._position_limit, problems)
        except FileNotFoundError:
            miner.look_again = True
            return b""
        except InvalidInputError as error:
            miner.refused.add(file.path)
            self._refuse(document, hotkey, file.path, file.version, error)
            return b""
        is_named = self._incomplete.get(file.path) == file.version
        self._accept(miner, {file.path})
        if problems:
            miner.refused.add(file.path)
            self._incomplete[file.path] = file.version
            if not is_named and document is Document.LIMIT_ORDERS:
                logger.warning("limit_order_incomplete", hotkey=hotkey, uuid=file.name, reason=problems[0])
            elif not is_named:
                logger.warning("position_incomplete", hotkey=hotkey, uuid=file.name, reason=problems[0])
        return part

    def _path(self, document: Document, hotkey: str) -> str:
        tree = _TREES.get(document)
        return f"{self._root}/{hotkey}/{tree.name if tree else _SNAPSHOTS_FILE}"

    def _hold(
        self, document: Document, hotkey: str, miner: _MinerDocument, whole: str, error: OSError
    ) -> None:
        """Keeps a document whose files are out of reach; the next pass looks again."""
        miner.look_again = True
        miner.refused.add(whole)
        unreadable = InvalidInputError(f"{error.strerror}", code="unreadable")
        self._refuse(document, hotkey, whole, "", unreadable)

    def _accept(self, miner: _MinerDocument, paths: set[str]) -> None:
        for path in paths:
            self._refused.discard(path)
            self._incomplete.pop(path, None)
        miner.refused -= paths

    def _refuse(
        self, document: Document, hotkey: str, path: str, version: str, error: InvalidInputError
    ) -> None:
        if self._refused.add(path, version, error.code):
            logger.warning(
                "miner_file_skipped",
                document=document.value,
                hotkey=hotkey,
                name=ascii(os.path.basename(path.rstrip("/")))[1:-1][:200],
                code=error.code,
                reason=str(error),
            )


# --- one file ---------------------------------------------------------------------------------------------


def read_limit_order(file: _File, hotkey: str, limit: int, problems: list[str]) -> bytes:
    body, _ = read_bytes(file.path, limit)
    order = parse_limit_order(json_object(body, limit), problems)
    folder: Literal["unfilled", "closed"] = "unfilled" if file.folder == "unfilled" else "closed"
    return msgspec.json.encode(LimitOrderFile(trade_pair_id=file.pair, folder=folder, order=order))


def read_archived(file: _File, hotkey: str, limit: int, problems: list[str]) -> bytes:
    body, _ = read_file(file.path, limit)
    return parse_file(body, (hotkey, file.name), problems)[1].json()


def read_snapshots(file: _File, hotkey: str, limit: int, problems: list[str]) -> bytes:
    """Returns the last snapshots, from the end of a file of any size."""
    tail = min(_TAIL_BYTES, limit)
    while True:
        body, status = read_bytes(file.path, limit, tail=tail)
        lines = body.split(b"\n")
        is_whole = len(body) >= status.st_size
        if not is_whole:
            del lines[0]  # its beginning may be missing
        kept: list[bytes] = []
        while lines and len(kept) < KEPT_SNAPSHOTS:
            line = lines.pop().strip()
            if not 0 < len(line) <= _LINE_BYTES:
                continue
            try:
                check_utf8(line)
                check_unknown(line)
                snapshot = _snapshot.decode(line)
            except (InvalidInputError, msgspec.DecodeError):
                continue  # malformed; the last one may be half written
            if snapshot.snapshot_ms is not None or snapshot.day_open_ms is not None:
                kept.append(line)
        if is_whole or len(kept) == KEPT_SNAPSHOTS or tail >= limit:
            return b",".join(reversed(kept))
        tail = min(4 * tail, limit)


_READERS: dict[Document, Callable[[_File, str, int, list[str]], bytes]] = {
    Document.LIMIT_ORDERS: read_limit_order,
    Document.ARCHIVED_POSITIONS: read_archived,
    Document.SNAPSHOTS: read_snapshots,
}


# --- files and folders that may be missing ----------------------------------------------------------------


def _mark(path: str) -> _Mark:
    try:
        status = os.stat(path)
    except OSError:
        return (0, 0, 0)
    return (status.st_ctime_ns, status.st_ino, status.st_size)


def _entries(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as listing:
            return list(listing)
    except FileNotFoundError:
        if os.path.islink(path):  # the disk that it leads to may be mounted again
            raise
        return []


def _is_folder(entry: os.DirEntry[str], known: Set[str] = frozenset()) -> bool:
    """Returns whether it is a folder with a valid name. Raises OSError if a known name is not a folder."""
    try:
        check_name(entry.name)
        is_folder = entry.is_dir()
    except (InvalidInputError, OSError):
        is_folder = False
    if entry.name in known and not is_folder:
        raise _not_a_folder()
    return is_folder


def _not_a_folder() -> OSError:
    return NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))


def _file(path: str, pair: str, folder: FolderName, name: str) -> _File | None:
    """Returns a file as it is now, or what is in its place; None if it is gone."""
    try:
        status = os.stat(path)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not os.path.islink(path):
            return None
        return _File(path, pair, folder, name, "", True)  # reading it tells why
    return _File(path, pair, folder, name, version_of(status), is_settled(status.st_ctime_ns))
