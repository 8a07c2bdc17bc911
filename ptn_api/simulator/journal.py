"""The truth about a simulation: what was done, in order, for whoever checks that nothing got lost.

Every action is returned to the caller and, where a journal file is given, appended to it as one line of
JSON: `placed` lines before the file that holds the order is moved into place, `written` right after. An
order without the `written` that follows it may or may not have reached its file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

__all__ = [
    "Action",
    "BackupRestored",
    "Corrected",
    "DocumentRewritten",
    "Dropped",
    "Eliminated",
    "Journal",
    "MinerAdded",
    "MinerRemoved",
    "OpenFileDeleted",
    "Placed",
    "Refreshed",
    "Removed",
    "Split",
    "Written",
    "read_journal",
]


class _Action(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    at_ms: int
    """The simulated time."""


class Placed(_Action, frozen=True, kw_only=True, tag="placed"):
    """An order is about to stand in a file for the first time; it must be announced once.

    (An elimination whose position a backup brought back may place its FLAT, with the same uuid, once more.)
    `place` is its place in the position's list of `n_orders`, from 1. `cause` says who placed it: miner,
    liquidation, elimination, or sync (which may put it before orders that are already there).
    """

    miner_hotkey: str
    position_uuid: str
    trade_pair: str
    order_uuid: str
    processed_ms: int
    order_type: str
    leverage: float
    src: int
    place: int
    n_orders: int
    cause: str


class Written(_Action, frozen=True, kw_only=True, tag="written"):
    """The position's file stands, with the orders placed just before. `written_ns` is the real clock."""

    miner_hotkey: str
    position_uuid: str
    n_orders: int
    closed: bool
    written_ns: int


class OpenFileDeleted(_Action, frozen=True, kw_only=True, tag="open_file_deleted"):
    """The first half of a close: the position is in neither folder until its `written`."""

    miner_hotkey: str
    position_uuid: str


class Corrected(_Action, frozen=True, kw_only=True, tag="corrected"):
    """An order's price, quotes, slippage and sources are about to change in place."""

    miner_hotkey: str
    position_uuid: str
    order_uuid: str


class Dropped(_Action, frozen=True, kw_only=True, tag="dropped"):
    """A synchronisation or a restored backup is about to take an order out of a position's list."""

    miner_hotkey: str
    position_uuid: str
    order_uuid: str


class Refreshed(_Action, frozen=True, kw_only=True, tag="refreshed"):
    """So many open positions were rewritten with new returns."""

    positions: int


class Removed(_Action, frozen=True, kw_only=True, tag="removed"):
    """A position's file was deleted for good. `cause`: sync, split, backup or miner."""

    miner_hotkey: str
    position_uuid: str
    cause: str


class Split(_Action, frozen=True, kw_only=True, tag="split"):
    """A position is about to be replaced by two, with the same orders between them."""

    miner_hotkey: str
    position_uuid: str
    into: tuple[str, str]


class Eliminated(_Action, frozen=True, kw_only=True, tag="eliminated"):
    miner_hotkey: str
    reason: str


class MinerAdded(_Action, frozen=True, kw_only=True, tag="miner_added"):
    """A miner's directory appeared; `at_once` if together with its files."""

    miner_hotkey: str
    at_once: bool


class MinerRemoved(_Action, frozen=True, kw_only=True, tag="miner_removed"):
    miner_hotkey: str


class BackupRestored(_Action, frozen=True, kw_only=True, tag="backup_restored"):
    """The positions are as they were at `backup_ms`; `positions` of them were rewritten."""

    backup_ms: int
    positions: int


class DocumentRewritten(_Action, frozen=True, kw_only=True, tag="document_rewritten"):
    name: str


Action = (
    Placed
    | Written
    | OpenFileDeleted
    | Corrected
    | Dropped
    | Refreshed
    | Removed
    | Split
    | Eliminated
    | MinerAdded
    | MinerRemoved
    | BackupRestored
    | DocumentRewritten
)

_decoder = msgspec.json.Decoder(Action)


class Journal:
    """Collects actions for the caller and appends them to a file, each line in one write, never synced."""

    def __init__(self, path: Path | None = None, on_action: Callable[[Action], None] | None = None) -> None:
        self._on_action = on_action
        self._pending: list[Action] = []
        self._file = None if path is None else _Appender(path)

    def add(self, *actions: Action) -> None:
        self._pending += actions
        if self._file is not None and actions:
            self._file.write(b"".join(msgspec.json.encode(action) + b"\n" for action in actions))
        if self._on_action is not None:
            for action in actions:
                self._on_action(action)

    def take(self) -> list[Action]:
        """The actions since the last call."""
        taken, self._pending = self._pending, []
        return taken

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def read_journal(path: Path) -> Iterator[Action]:
    """The actions in a journal; a line that a killed simulator left unfinished is passed over."""
    with path.open("rb") as file:
        for line in file:
            try:
                yield _decoder.decode(line)
            except msgspec.DecodeError:
                continue


class _Appender:
    """An unbuffered file to append to, on a fresh line even after a kill in the middle of one."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab+", buffering=0)
        size = self._file.seek(0, os.SEEK_END)
        if size and os.pread(self._file.fileno(), 1, size - 1) != b"\n":
            self._file.write(b"\n")

    def write(self, lines: bytes) -> None:
        self._file.write(lines)

    def close(self) -> None:
        self._file.close()
