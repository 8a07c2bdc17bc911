"""All positions of the simulated validator. Position files change only through this module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import time_ns
from typing import Any

import msgspec

from ptn_api.errors import InvalidInputError
from ptn_api.model.order import OrderSource
from ptn_api.simulator.journal import (
    AccountReset,
    BackupRestored,
    Dropped,
    Journal,
    OpenFileDeleted,
    Placed,
    Removed,
    Written,
)
from ptn_api.simulator.market import Market, SimulatedOrder
from ptn_api.simulator.position import POSITION_KINDS, SimulatedPosition
from ptn_api.simulator.validator import Backup, PositionFile, ValidatorFiles

__all__ = ["PositionStore"]


class _Closing(msgspec.Struct, frozen=True):
    """A position between the deletion of its open file and the writing of its closed file."""

    due_ms: int
    position: SimulatedPosition
    new: tuple[SimulatedOrder, ...]
    cause: str


class PositionStore:
    """Open positions in memory (one per miner and pair); closed ones by name only.

    `now_ms` is the simulated time, `close_gap_ms` the time between the two halves of a close. `on_write` is
    called before a position with new orders is written, `on_position` after it, with the item that a
    validator would put on its queue.
    """

    def __init__(
        self,
        files: ValidatorFiles,
        journal: Journal,
        market: Market,
        *,
        close_gap_ms: int = 0,
        on_write: Callable[[SimulatedPosition], None] | None = None,
        on_position: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.now_ms = 0
        self.open: dict[tuple[str, str], SimulatedPosition] = {}
        self.closed: dict[str, dict[str, str]] = {}
        """hotkey -> position uuid -> pair"""
        self.files = files
        self.journal = journal
        self._market = market
        self._close_gap_ms = close_gap_ms
        self._on_write = on_write
        self._on_position = on_position
        self._closing: dict[tuple[str, str], _Closing] = {}
        """By (hotkey, pair), in due order."""
        self._backup: Backup | None = None

    # --- reading ------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Reads the positions from the files; one in both folders counts as closed."""
        for hotkey in self.files.hotkeys():
            self.closed[hotkey] = {}
            opened = []
            for file in self.files.positions(hotkey):
                if file.closed:
                    self.closed[hotkey][file.position_uuid] = file.pair
                else:
                    opened.append(file)
            for file in opened:
                position = None if file.position_uuid in self.closed[hotkey] else self._parse(file)
                if position is not None and not position.closed:
                    self.open[hotkey, file.pair] = position

    def _parse(self, file: PositionFile) -> SimulatedPosition | None:
        body = self.files.read(file)
        try:
            return None if body is None else self._read(body)
        except InvalidInputError:
            return None

    def _read(self, body: bytes) -> SimulatedPosition:
        return POSITION_KINDS[self._market.network].parse(body, self._market)

    def is_closing(self, hotkey: str, pair: str) -> bool:
        """Whether the miner's position on that pair is between the two halves of a close."""
        return (hotkey, pair) in self._closing

    def find(self, hotkey: str, position_uuid: str) -> SimulatedPosition | None:
        """Returns a position, a closed one from its file; None between the two halves of a close."""
        pair = self.closed.get(hotkey, {}).get(position_uuid)
        if pair is not None:
            return self._parse(PositionFile(hotkey, pair, True, position_uuid))
        held = (p for (owner, _), p in self.open.items() if owner == hotkey)
        return next((p for p in held if p.position_uuid == position_uuid), None)

    def of_miner(self, hotkey: str) -> Iterator[SimulatedPosition]:
        """Yields all positions of a miner, those between the two halves of a close too."""
        for uuid, pair in self.closed.get(hotkey, {}).items():
            if (position := self._parse(PositionFile(hotkey, pair, True, uuid))) is not None:
                yield position
        yield from [p for (owner, _), p in self.open.items() if owner == hotkey]
        yield from [c.position for (owner, _), c in self._closing.items() if owner == hotkey]

    def names(self) -> list[tuple[str, str]]:
        """Returns (hotkey, uuid) of every position that has a file."""
        opened = [(p.miner_hotkey, p.position_uuid) for p in self.open.values()]
        return opened + [(hotkey, uuid) for hotkey, uuids in self.closed.items() for uuid in uuids]

    # --- writing ------------------------------------------------------------------------------------------

    def save(
        self,
        position: SimulatedPosition,
        new: Sequence[SimulatedOrder] = (),
        *,
        cause: str = "miner",
    ) -> None:
        """Writes the position to the folder of its state; `new` are the orders that no file held before.

        A close deletes the open file and writes the closed one after the gap.
        """
        held = self.open.get((position.miner_hotkey, position.pair))
        closing = _Closing(self.now_ms + self._close_gap_ms, position, tuple(new), cause)
        if position.closed and held is not None and held.position_uuid == position.position_uuid:
            self._delete(held)
            names = {"miner_hotkey": position.miner_hotkey, "position_uuid": position.position_uuid}
            self.journal.add(OpenFileDeleted(at_ms=self.now_ms, **names))
            if self._close_gap_ms:
                self._closing[position.miner_hotkey, position.pair] = closing
                return
        self._write(closing)

    def next_closing_ms(self) -> int | None:
        """Returns when the next half-closed position gets its file."""
        return next((closing.due_ms for closing in self._closing.values()), None)

    def finish_closes(self, until_ms: int | None = None) -> None:
        """Writes the closed files that are due by `until_ms`; all of them by default."""
        for key, closing in list(self._closing.items()):
            if until_ms is not None and closing.due_ms > until_ms:
                break
            del self._closing[key]
            self._write(closing)

    def rewrite(self, position: SimulatedPosition) -> None:
        """Writes a position's file without a journal entry."""
        file = self._file(position)
        self._preserve(file)
        self.files.write(self.files.path(file), position.body())

    def add_miner_at_once(self, hotkey: str, positions: Sequence[SimulatedPosition]) -> None:
        """Creates a new miner's directory with these positions in one rename; all their orders are new."""
        for position in positions:
            self.announce(position, position.orders, "miner")
        self.files.add_miner_at_once(hotkey, {self._file(p): p.body() for p in positions})
        for position in positions:
            self.enter(position)
            self.written(position, position.orders, "miner")

    def enter(self, position: SimulatedPosition) -> None:
        """Records a position whose file exists or is about to."""
        if position.closed:
            self.closed.setdefault(position.miner_hotkey, {})[position.position_uuid] = position.pair
        else:
            self.open[position.miner_hotkey, position.pair] = position

    def announce(self, position: SimulatedPosition, new: Sequence[SimulatedOrder], cause: str) -> None:
        """Journals orders that are about to appear in a file for the first time."""
        placed = []
        for order in new:
            validators_own = order.src == OrderSource.ELIMINATION and cause == "miner"
            placed.append(
                Placed(
                    at_ms=self.now_ms,
                    miner_hotkey=position.miner_hotkey,
                    position_uuid=position.position_uuid,
                    trade_pair=position.pair,
                    order_uuid=order.order_uuid,
                    processed_ms=order.processed_ms,
                    order_type=order.order_type,
                    leverage=order.leverage or 0.0,
                    src=order.src or 0,
                    place=1 + [o.order_uuid for o in position.orders].index(order.order_uuid),
                    n_orders=len(position.orders),
                    cause="liquidation" if validators_own else cause,
                )
            )
        self.journal.add(*placed)

    def written(self, position: SimulatedPosition, new: Sequence[SimulatedOrder], cause: str) -> None:
        """Journals a written position and puts it on the queue if it has new orders."""
        self.journal.add(
            Written(
                at_ms=self.now_ms,
                miner_hotkey=position.miner_hotkey,
                position_uuid=position.position_uuid,
                n_orders=len(position.orders),
                closed=position.closed,
                written_ns=time_ns(),
            )
        )
        if new and cause != "sync" and self._on_position is not None:
            self._on_position(position.queue_item())

    def remove(self, hotkey: str, position_uuid: str, cause: str) -> None:
        """Deletes a position for good, or archives it."""
        pair = self.closed.get(hotkey, {}).pop(position_uuid, None)
        if pair is not None:
            file = PositionFile(hotkey, pair, True, position_uuid)
            self._preserve(file)
            self._take_away(file, cause)
        else:
            position = self.find(hotkey, position_uuid)
            if position is None:
                return
            self._delete(position, cause)
        self.journal.add(
            Removed(at_ms=self.now_ms, miner_hotkey=hotkey, position_uuid=position_uuid, cause=cause)
        )

    def archive(self, hotkey: str) -> int:
        """Moves all of a miner's positions to its archive, those that are open as well. Returns how many."""
        self.finish_closes()
        names = [name for name in self.names() if name[0] == hotkey]
        self.journal.add(AccountReset(at_ms=self.now_ms, miner_hotkey=hotkey, positions=len(names)))
        for _, uuid in names:
            self.remove(hotkey, uuid, "archive")
        return len(names)

    def _write(self, closing: _Closing) -> None:
        position, new, cause = closing.position, closing.new, closing.cause
        self.enter(position)
        self.announce(position, new, cause)
        if self._on_write is not None:
            self._on_write(position)
        self.rewrite(position)
        self.written(position, new, cause)

    def _take_away(self, file: PositionFile, cause: str) -> None:
        if cause == "archive":
            self.files.archive(file)
        else:
            self.files.delete(file)

    def _delete(self, position: SimulatedPosition, cause: str = "") -> None:
        """Deletes an open position's file, or archives it."""
        file = PositionFile(position.miner_hotkey, position.pair, False, position.position_uuid)
        self._preserve(file)
        self._take_away(file, cause)
        del self.open[position.miner_hotkey, position.pair]

    def _file(self, position: SimulatedPosition) -> PositionFile:
        return PositionFile(position.miner_hotkey, position.pair, position.closed, position.position_uuid)

    # --- backup -------------------------------------------------------------------------------------------

    def take_backup(self) -> None:
        """Takes a backup of the positions' files; replaces an earlier one."""
        self.finish_closes()
        self._backup = Backup(self.now_ms, self.files, self._all_files())

    def restore_backup(self) -> int:
        """Restores the positions' files from the backup. Returns how many were rewritten."""
        backup, self._backup = self._backup, None
        if backup is None:
            return 0
        self.finish_closes()
        changed = {file: self._read(body) for file, body in backup.changed().items()}
        for restored in changed.values():
            hotkey, uuid = restored.miner_hotkey, restored.position_uuid
            current = self.find(hotkey, uuid)
            kept = {order.order_uuid for order in restored.orders}
            for order in [] if current is None else current.orders:
                if order.order_uuid not in kept:
                    self.announce_drop(hotkey, uuid, order)
        for file in self._all_files():
            if file in backup:
                continue
            if not backup.knows(file.miner_hotkey, file.position_uuid):
                self.remove(file.miner_hotkey, file.position_uuid, "backup")
                continue
            # The backup holds the position in the other folder.
            self.files.delete(file)
            if file.closed:
                del self.closed[file.miner_hotkey][file.position_uuid]
            else:
                del self.open[file.miner_hotkey, file.pair]
        for file, body in backup.changed().items():
            self.files.unarchive(file)
            self.files.write(self.files.path(file), body)
            self.enter(changed[file])
            self.written(changed[file], (), "backup")
        self.journal.add(BackupRestored(at_ms=self.now_ms, backup_ms=backup.taken_ms, positions=len(changed)))
        self.take_backup()
        return len(changed)

    def announce_drop(self, hotkey: str, position_uuid: str, order: SimulatedOrder) -> None:
        """Journals an order that is about to be dropped from a position's list."""
        uuids = {"position_uuid": position_uuid, "order_uuid": order.order_uuid}
        self.journal.add(Dropped(at_ms=self.now_ms, miner_hotkey=hotkey, **uuids))

    def _all_files(self) -> list[PositionFile]:
        files = [self._file(position) for position in self.open.values()]
        for hotkey, uuids in self.closed.items():
            files += [PositionFile(hotkey, pair, True, uuid) for uuid, pair in uuids.items()]
        return files

    def _preserve(self, file: PositionFile) -> None:
        if self._backup is not None:
            self._backup.preserve(file)
