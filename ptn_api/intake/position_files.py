"""Which files hold which position, and which of their versions has been handed on.

A position is keyed by the hotkey of its folder and its uuid. It may lie in several folders at once: while
it is being closed, after a synchronisation, in a restored backup. What is in `closed/` wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet

import structlog

from ptn_api.errors import InvalidInputError
from ptn_api.event_log.contract import PositionWritten
from ptn_api.intake.files import Key, check_name, is_settled, read_whole, version_of
from ptn_api.model.position import parse_position

__all__ = ["Place", "PositionFiles", "Touched"]

logger = structlog.get_logger()

Touched = dict[Key, bool]
"""Positions whose files must be looked at; True: read, even where nothing seems to have changed."""

_UNSETTLED = "~"
_SMALLEST_ORDER = 100
"""Bytes; no order is written in fewer, and a moved return takes fewer."""


class Place:
    """A folder of position files. Compared by identity, since there are 300,000 lookups in a scan."""

    __slots__ = ("closed", "hotkey", "pair", "path")

    def __init__(self, *, hotkey: str, pair: str, closed: bool, path: str) -> None:
        self.hotkey = hotkey
        self.pair = pair
        self.closed = closed
        self.path = path

    def fingerprint(self, version: str) -> str:
        """`version` is a file's stamp; with its folder it tells every version of a position apart."""
        return f"{'closed' if self.closed else 'open'}/{self.pair}/{version}"


class PositionFiles:
    """`known` are the fingerprints that the log has; nothing of those versions is read again.

    `limit` is the largest file that is read, in bytes. Not thread-safe: one thread at a time.
    """

    def __init__(self, known: Mapping[Key, str], *, limit: int) -> None:
        self._handed_on = dict(known)
        self._absent = set(known)
        self._places: dict[Key, dict[Place, str]] = {}
        self._refused: dict[tuple[Place, str], tuple[str, str]] = {}
        self._limit = limit

    def start_over(self) -> None:
        """Nothing was handed on after all: everything is to be read again."""
        self._handed_on.clear()
        self._absent.clear()

    @property
    def absent(self) -> AbstractSet[Key]:
        """Positions that were handed on and have no file now."""
        return self._absent

    @property
    def known(self) -> AbstractSet[Key]:
        """Positions that were handed on and not removed."""
        return self._handed_on.keys()

    @property
    def refused(self) -> int:
        """Number of files that are skipped at present."""
        return len(self._refused)

    def lost(self, keys: Iterable[Key]) -> list[Key]:
        """Those that were never handed on and have no file: they went before they were read."""
        return [key for key in keys if key not in self._handed_on and key not in self._places]

    def found(self, place: Place, uuid: str, version: str, touched: Touched, *, force: bool = False) -> None:
        """A file is there in that version; its position is touched if it may have changed."""
        key = (place.hotkey, uuid)
        self._places.setdefault(key, {})[place] = version
        self._absent.discard(key)
        if force or self._handed_on.get(key) != place.fingerprint(version):
            touched[key] = touched.get(key, False) or force

    def gone(self, place: Place, uuid: str, touched: Touched) -> None:
        """A file is no longer there. The position may be elsewhere, or be back in a moment."""
        key = (place.hotkey, uuid)
        self._refused.pop((place, uuid), None)
        places = self._places.get(key)
        if places is None or places.pop(place, None) is None:
            return
        if places:
            touched.setdefault(key, False)
            return
        del self._places[key]
        if key in self._handed_on:
            self._absent.add(key)

    def seems_refreshed(self, key: Key) -> bool:
        """Whether its file has not grown enough for another order since it was handed on.

        A guess, for deciding what is read first and nothing else.
        """
        ranked = self._by_rank(key)
        if not ranked:
            return False
        folder, _, before = self._handed_on.get(key, "").rpartition("/")
        place, version = ranked[0]
        return place.fingerprint("") == folder + "/" and _size(version) < _size(before) + _SMALLEST_ORDER

    def recheck(self, key: Key, touched: Touched) -> None:
        """Looks at a position that was handed on from elsewhere (the queue), be there a file or not."""
        self._handed_on.setdefault(key, "")
        if key in self._places:
            touched[key] = True
        else:
            self._absent.add(key)

    def forget(self, keys: Iterable[Key]) -> None:
        """The positions are removed; should they come back, they are new."""
        for key in keys:
            self._handed_on.pop(key, None)
            self._absent.discard(key)

    def settle(self, touched: Touched) -> Iterator[PositionWritten | None]:
        """What is to be handed on of the touched positions, one by one; None where there is nothing."""
        for key, force in touched.items():
            yield self._settle(key, force)

    def _settle(self, key: Key, force: bool) -> PositionWritten | None:
        for place, version in self._by_rank(key):
            if not force and self._handed_on.get(key) == place.fingerprint(version):
                return None
            if not force and self._is_refused(place, key[1], version):
                continue
            change = self._read(place, key[1], version)
            if change is not None:
                return change
        return None

    def _by_rank(self, key: Key) -> list[tuple[Place, str]]:
        places = self._places.get(key, {})
        if len(places) == 1:
            return list(places.items())
        return sorted(places.items(), key=lambda item: (not item[0].closed, item[0].pair))

    def _is_refused(self, place: Place, uuid: str, version: str) -> bool:
        refused, code = self._refused.get((place, uuid), ("", ""))
        # What could not be read at all may become readable without any change of the file.
        return refused == version and code != "unreadable"

    def _read(self, place: Place, uuid: str, version: str) -> PositionWritten | None:
        try:
            change, changed_ns = _read_position(place, uuid, self._limit)
        except FileNotFoundError:
            self.gone(place, uuid, {})
            return None
        except InvalidInputError as error:
            self._refuse(place, uuid, version, error)
            return None
        self._refused.pop((place, uuid), None)
        mark = "" if is_settled(changed_ns) else _UNSETTLED
        self._handed_on[place.hotkey, uuid] = change.fingerprint + mark
        return change

    def _refuse(self, place: Place, uuid: str, version: str, error: InvalidInputError) -> None:
        if self._refused.get((place, uuid)) == (version, error.code):
            return
        self._refused[place, uuid] = (version, error.code)
        logger.warning(
            "position_file_skipped",
            hotkey=place.hotkey,
            uuid=ascii(uuid)[1:-1],
            code=error.code,
            reason=str(error),
        )


def _size(version: str) -> int:
    return int(version.rpartition("-")[2].rstrip(_UNSETTLED))


def _read_position(place: Place, uuid: str, limit: int) -> tuple[PositionWritten, int]:
    """The file's position and its ctime (ns). Raises FileNotFoundError and InvalidInputError."""
    check_name(uuid)
    body, status = read_whole(f"{place.path}/{uuid}", limit)
    position, text = parse_position(body)
    if position.miner_hotkey != place.hotkey:
        raise InvalidInputError("another miner's position", code="wrong_folder", field="miner_hotkey")
    if position.position_uuid != uuid:
        raise InvalidInputError("another position's uuid", code="wrong_folder", field="position_uuid")
    fingerprint = place.fingerprint(version_of(status))
    return PositionWritten(position=position, text=text, fingerprint=fingerprint), status.st_ctime_ns
