"""The files of each position: which one counts, which version was delivered. Reads them; lists no folder.

A position is identified by the hotkey of its folder and its uuid. It may have files in several folders at
once: while it is being closed, after a synchronisation, in a restored backup. A file in `closed/` wins.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from itertools import islice
from pathlib import Path

import structlog

from ptn_api.errors import InvalidInputError
from ptn_api.event_log.contract import PositionWritten
from ptn_api.file_version import is_settled, version_of
from ptn_api.intake.files import Key, Refusals, check_name, read_file
from ptn_api.model.position import Position, PositionText, parse_position

__all__ = ["Place", "PositionFiles", "PositionsToRead", "parse_file"]

logger = structlog.get_logger()

_UNSETTLED = "~"
_UNKNOWN_VERSION = "0-0-0"
_SMALLEST_ORDER = 100
"""Bytes. An order takes more, a refreshed return fewer."""
_LONGEST_REASON = 1_000
_MAX_RETRIES = 1_000
"""Refused files that a sweep tries again; a full one examines every file anyway."""


class PositionsToRead(dict[Key, bool]):
    """Positions whose files may have changed, each with whether it is forced.

    A forced position is read even if the version of its file looks the same.
    """

    __slots__ = ()

    def add(self, key: Key, *, force: bool = False) -> None:
        self[key] = force or self.get(key, False)


class Place:
    """A folder of position files. Compared by identity: a scan makes 300,000 lookups."""

    __slots__ = ("closed", "hotkey", "pair", "path", "watched")

    def __init__(self, *, hotkey: str, pair: str, closed: bool, path: str) -> None:
        self.hotkey = hotkey
        self.pair = pair
        self.closed = closed
        self.path = path
        self.watched = False
        """Whether it was watched before its last listing, so that a change since then has an event."""

    def fingerprint(self, version: str) -> str:
        """Returns what identifies a version of a position: its folder and `version_of` its file."""
        return f"{'closed' if self.closed else 'open'}/{self.pair}/{version}"


def parse_file(body: bytes, key: Key, problems: list[str]) -> tuple[Position, PositionText]:
    """Returns the position in a file; `problems` collects descriptions of the parts that cannot be served.

    Raises InvalidInputError as `parse_position`, or with code `wrong_folder` if it is not `key`.
    """
    position, text = parse_position(body, problems)
    if position.miner_hotkey != key[0]:
        raise InvalidInputError("another miner's position", code="wrong_folder", field="miner_hotkey")
    if position.position_uuid != key[1]:
        raise InvalidInputError("another position's uuid", code="wrong_folder", field="position_uuid")
    return position, text


class PositionFiles:
    """Position files by position, with the version of each that was delivered to the merge.

    `root` is the folder of miners. `known` are the log's fingerprints; those versions are not read again.
    `limit` is the largest file to read, in bytes. Not thread-safe.
    """

    def __init__(self, root: Path, known: Mapping[Key, str], *, limit: int) -> None:
        self._root = root
        self._delivered = dict(known)
        self._absent = set(known)
        self._unlisted = set(known)
        """Positions that had no file at any look since the start."""
        self._vanished: set[Key] = set()
        self._places: dict[Key, dict[Place, str]] = {}
        self._refused: Refusals[tuple[Place, str]] = Refusals()
        self._incomplete: dict[tuple[Place, str], str] = {}
        """Files that are refused, or served only in part, each with its version."""
        self._limit = limit

    def start_over(self) -> None:
        """Forgets all deliveries: the baseline that they were part of was rolled back."""
        self._delivered.clear()
        self._absent.clear()
        self._unlisted.clear()

    @property
    def absent(self) -> AbstractSet[Key]:
        """Positions that were delivered and have no file now."""
        return self._absent

    @property
    def known(self) -> AbstractSet[Key]:
        """Positions that were delivered and not removed."""
        return self._delivered.keys()

    @property
    def refused(self) -> int:
        """Number of files that are skipped at present, or served without something that is malformed."""
        return len(self._refused) + len(self._incomplete)

    @property
    def listed(self) -> int:
        """Number of positions that have a file."""
        return len(self._places)

    def locked_path(self) -> str:
        """Returns a file that this user cannot read, or an empty string."""
        return next((f"{place.path}/{uuid}" for place, uuid in self._refused.unreadable()), "")

    def misses(self, hotkey: str, pair: str) -> bool:
        """Returns whether positions of this miner have no file now; with `pair`, of this pair's folder."""
        return any(
            key[0] == hotkey and pair in ("", self._delivered[key].rpartition("/")[0].partition("/")[2])
            for key in self._absent
        )

    def vanished_unread(self, keys: Iterable[Key]) -> list[Key]:
        """Returns those positions that were never delivered and have no file any more."""
        return [key for key in keys if key not in self._delivered and key not in self._places]

    # --- what the directory reports -----------------------------------------------------------------------

    def add_file(
        self, place: Place, uuid: str, version: str, to_read: PositionsToRead, *, force: bool = False
    ) -> None:
        """Notes that a file exists in this version; its position is to be read if it may have changed."""
        key = (place.hotkey, uuid)
        self._places.setdefault(key, {})[place] = version
        self._absent.discard(key)
        self._unlisted.discard(key)
        if force or self._delivered.get(key) != place.fingerprint(version):
            to_read.add(key, force=force)

    def add_unreadable(self, place: Place, uuid: str, to_read: PositionsToRead) -> None:
        """Notes that something lies in a file's place that cannot be examined. Reading it tells why."""
        self.add_file(place, uuid, _UNKNOWN_VERSION, to_read, force=True)

    def remove_file(self, place: Place, uuid: str, to_read: PositionsToRead) -> None:
        """Notes that a file no longer exists. The position may be elsewhere, or return in a moment."""
        key = (place.hotkey, uuid)
        self._refused.discard((place, uuid))
        self._incomplete.pop((place, uuid), None)
        places = self._places.get(key)
        if places is None or places.pop(place, None) is None:
            return
        if places:
            to_read.add(key)
            return
        del self._places[key]
        if key in self._delivered:
            self._absent.add(key)
            self._vanished.add(key)

    def retry_refused(self, to_read: PositionsToRead) -> None:
        """Notes positions with a refused file that is worth another attempt."""
        for place, uuid in islice(self._refused.to_retry(), _MAX_RETRIES):
            to_read.add((place.hotkey, uuid))

    def take_vanished(self) -> set[Key]:
        """Returns the positions that lost their last file since the previous call."""
        vanished, self._vanished = self._vanished & self._absent, set()
        return vanished

    def recheck(self, key: Key, to_read: PositionsToRead) -> None:
        """Notes a position that came from the queue; its file, if any, is to be read."""
        self._delivered.setdefault(key, "")
        if key in self._places:
            to_read.add(key, force=True)
        else:
            self._absent.add(key)

    def forget(self, keys: Iterable[Key]) -> None:
        """Notes that the positions were removed. If they return, they are new."""
        for key in keys:
            self._delivered.pop(key, None)
            self._absent.discard(key)

    # --- reading ------------------------------------------------------------------------------------------

    def seems_refreshed(self, key: Key) -> bool:
        """Returns whether the file has not grown by an order since it was delivered.

        A guess, good enough to decide what is read first.
        """
        places = self._by_precedence(key)
        if not places:
            return False
        place, version = places[0]
        folder, _, before = self._delivered.get(key, "").rpartition("/")
        return place.fingerprint("") == folder + "/" and _size(version) < _size(before) + _SMALLEST_ORDER

    def expects_event(self, key: Key) -> bool:
        """Returns whether there must be an event if the position has changed since it was last examined."""
        places = self._by_precedence(key)
        return all(place.watched and not self._refused.code((place, key[1])) for place, _ in places)

    def read_all(self, to_read: PositionsToRead) -> Iterator[PositionWritten]:
        """Yields those of the positions that have a version to deliver."""
        for key, force in to_read.items():
            change = self.read(key, force=force)
            if change is not None:
                yield change

    def read(self, key: Key, *, force: bool) -> PositionWritten | None:
        """Returns the position's valid file of the highest precedence, unless it was delivered before."""
        for place, version in self._by_precedence(key):
            if not force and self._delivered.get(key) == place.fingerprint(version):
                self._refused.discard((place, key[1]))  # out of reach for a while
                return None
            if not force and self._refused.is_final((place, key[1]), version):
                continue
            change = self._read_file(place, key[1], version)
            if change is not None:
                return change
        return None

    def _by_precedence(self, key: Key) -> list[tuple[Place, str]]:
        places = self._places.get(key, {})
        if len(places) == 1:
            return list(places.items())
        return sorted(places.items(), key=lambda item: (not item[0].closed, item[0].pair))

    def archived(self, key: Key) -> tuple[Place, os.stat_result] | None:
        """Returns where a position without a file now lies in the miner's archive, if it does.

        The validator moves a file to the same relative path below `archived_positions`.
        """
        hotkey, uuid = key
        pair = self._delivered.get(key, "").rpartition("/")[0].partition("/")[2]
        for folder in ("closed", "open") if pair else ():
            path = self._root / hotkey / "archived_positions" / pair / folder
            try:
                status = os.stat(path / uuid)
            except OSError:
                continue
            return Place(hotkey=hotkey, pair=pair, closed=folder == "closed", path=str(path)), status
        return None

    def read_archived(self, key: Key, place: Place, status: os.stat_result) -> PositionWritten | None:
        """Returns an archived position that may have got orders after the version that was delivered.

        They were placed while it lay among the positions: they are announced, and then it is removed. One
        that was moved before the start is not read: its file was never seen there.
        """
        if key in self._unlisted:
            return None
        delivered = self._delivered.get(key, "").rpartition("/")[2].rstrip(_UNSETTLED)
        inode, _, size = version_of(status).split("-")
        if delivered.startswith(inode + "-") and delivered.endswith("-" + size):
            return None  # moved as it was delivered
        change = self._read_file(place, key[1], "")
        self._refused.discard((place, key[1]))
        self._incomplete.pop((place, key[1]), None)
        return change

    def _read_file(self, place: Place, uuid: str, version: str) -> PositionWritten | None:
        key = (place.hotkey, uuid)
        problems: list[str] = []
        try:
            check_name(uuid)
            body, status = read_file(f"{place.path}/{uuid}", self._limit)
            version = version_of(status)  # the file may have been replaced since it was listed
            position, text = parse_file(body, key, problems)
        except FileNotFoundError:
            self.remove_file(place, uuid, PositionsToRead())
            return None
        except InvalidInputError as error:
            if self._refused.add((place, uuid), version, error.code):
                logger.warning(
                    "position_file_skipped",
                    hotkey=place.hotkey,
                    uuid=ascii(uuid)[1:-1],
                    file=ascii(os.path.relpath(f"{place.path}/{uuid}", self._root.parents[1]))[1:-1],
                    code=error.code,
                    reason=str(error),
                )
            return None
        self._refused.discard((place, uuid))
        fingerprint = place.fingerprint(version)
        # The mark makes the next sweep read the file again: a change within the same tick looks the same.
        mark = "" if is_settled(status.st_ctime_ns) else _UNSETTLED
        self._delivered[key] = fingerprint + mark
        if problems:
            if self._incomplete.get((place, uuid)) != version:
                reason = "; ".join(problems)[:_LONGEST_REASON]
                logger.warning("position_incomplete", hotkey=place.hotkey, uuid=uuid, reason=reason)
            self._incomplete[place, uuid] = version
            fingerprint += _UNSETTLED  # the next start reads it again, to count it again
        else:
            self._incomplete.pop((place, uuid), None)
        return PositionWritten(position=position, text=text, fingerprint=fingerprint)


def _size(version: str) -> int:
    return int(version.rpartition("-")[2].rstrip(_UNSETTLED))
