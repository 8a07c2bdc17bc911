"""The journal of a simulation: every action in order, the ground truth for tests of completeness.

Actions are returned to the caller and appended to the journal file, if any, as JSON lines. `placed` comes
before the file with the order is renamed into place, `written` right after. After a kill, an order without
its `written` may or may not be in the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

__all__ = [
    "AccountReset",
    "Action",
    "BackupRestored",
    "Corrected",
    "DocumentRewritten",
    "Dropped",
    "Eliminated",
    "Journal",
    "LimitOrder",
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
    """An order that is about to appear in a file for the first time; the API must announce it once.

    (If a backup restores the position of an eliminated miner, the same FLAT may be placed again.) `place`
    counts from 1 in the position's list of `n_orders`. `cause` is miner, liquidation, elimination,
    promotion, or sync, which may insert it before existing orders.
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
    """A position's file was written, with the orders placed just before; `written_ns` is the real time."""

    miner_hotkey: str
    position_uuid: str
    n_orders: int
    closed: bool
    written_ns: int


class OpenFileDeleted(_Action, frozen=True, kw_only=True, tag="open_file_deleted"):
    """The first half of a close; until its `written` the position is in neither folder."""

    miner_hotkey: str
    position_uuid: str


class Corrected(_Action, frozen=True, kw_only=True, tag="corrected"):
    """An order whose price, quotes, slippage and sources are about to change in place."""

    miner_hotkey: str
    position_uuid: str
    order_uuid: str


class Dropped(_Action, frozen=True, kw_only=True, tag="dropped"):
    """An order that a synchronisation or a restored backup is about to drop from a position's list."""

    miner_hotkey: str
    position_uuid: str
    order_uuid: str


class Refreshed(_Action, frozen=True, kw_only=True, tag="refreshed"):
    """A rewrite of `positions` open positions with new returns."""

    positions: int


class Removed(_Action, frozen=True, kw_only=True, tag="removed"):
    """A position that was deleted for good or, with `cause` archive, moved to its miner's archive.

    Other causes are sync, split, backup and miner.
    """

    miner_hotkey: str
    position_uuid: str
    cause: str


class Split(_Action, frozen=True, kw_only=True, tag="split"):
    """A position that is about to be replaced by two, which share its orders."""

    miner_hotkey: str
    position_uuid: str
    into: tuple[str, str]


class Eliminated(_Action, frozen=True, kw_only=True, tag="eliminated"):
    miner_hotkey: str
    reason: str


class AccountReset(_Action, frozen=True, kw_only=True, tag="account_reset"):
    """A miner whose `positions` are about to be archived, all of them."""

    miner_hotkey: str
    positions: int


class LimitOrder(_Action, frozen=True, kw_only=True, tag="limit_order"):
    """An order that began to wait for its price, or stopped. `status` is unfilled, filled or cancelled.

    It becomes part of a position, and is journaled as placed, when it is filled.
    """

    miner_hotkey: str
    order_uuid: str
    status: str


class MinerAdded(_Action, frozen=True, kw_only=True, tag="miner_added"):
    """A new miner directory; `at_once` if it appeared together with its files."""

    miner_hotkey: str
    at_once: bool


class MinerRemoved(_Action, frozen=True, kw_only=True, tag="miner_removed"):
    miner_hotkey: str


class BackupRestored(_Action, frozen=True, kw_only=True, tag="backup_restored"):
    """A restore of the positions as of `backup_ms`, which rewrote `positions` of them."""

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
    | AccountReset
    | LimitOrder
    | MinerAdded
    | MinerRemoved
    | BackupRestored
    | DocumentRewritten
)

_decoder = msgspec.json.Decoder(Action)


class Journal:
    """Actions collected for the caller and appended to a file, each batch in one write, without fsync."""

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
        """Returns the actions since the last call."""
        taken, self._pending = self._pending, []
        return taken

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def read_journal(path: Path) -> Iterator[Action]:
    """Yields the actions in a journal; skips a line that a killed simulator left incomplete."""
    with path.open("rb") as file:
        for line in file:
            try:
                yield _decoder.decode(line)
            except msgspec.DecodeError:
                continue


class _Appender:
    """An unbuffered file opened for appending; starts on a new line even after a kill in mid-line."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab+", buffering=0)
        size = self._file.seek(0, os.SEEK_END)
        if size and os.pread(self._file.fileno(), 1, size - 1) != b"\n":
            self._file.write(b"\n")

    def write(self, lines: bytes) -> None:
        self._file.write(lines)

    def close(self) -> None:
        self._file.close()
