"""Every position of the simulated validator, and the one way in which their files change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import time_ns
from typing import Any

import msgspec

from ptn_api.errors import InvalidInputError
from ptn_api.model.order import Order, OrderSource
from ptn_api.simulator.journal import (
    BackupRestored,
    Dropped,
    Journal,
    OpenFileDeleted,
    Placed,
    Removed,
    Written,
)
from ptn_api.simulator.position import SimulatedPosition
from ptn_api.simulator.validator import Backup, PositionFile, ValidatorFiles

__all__ = ["PositionStore"]


class _Closing(msgspec.Struct, frozen=True):
    """A position between the deletion of its open file and the writing of its closed one."""

    due_ms: int
    position: SimulatedPosition
    new: tuple[Order, ...]
    cause: str


class PositionStore:
    """Open positions in memory (one per miner and pair), closed ones by name only.

    `now_ms` is the simulated time. `close_gap_ms` passes between the two halves of a close. `on_position`
    gets what a validator would put on its queue, after the file is written.
    """

    def __init__(
        self,
        files: ValidatorFiles,
        journal: Journal,
        *,
        close_gap_ms: int = 0,
        on_position: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.now_ms = 0
        self.open: dict[tuple[str, str], SimulatedPosition] = {}
        self.closed: dict[str, dict[str, str]] = {}
        """hotkey -> position uuid -> pair"""
        self.files = files
        self.journal = journal
        self._close_gap_ms = close_gap_ms
        self._on_position = on_position
        self._closing: dict[tuple[str, str], _Closing] = {}
        """By hotkey and pair, in the order in which they are due."""
        self._backup: Backup | None = None

    # --- reading ------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Takes over what the files hold; a position in both folders counts as closed."""
        for hotkey in self.files.hotkeys():
            self.closed[hotkey] = {}
            opened = []
            for file in self.files.positions(hotkey):
                if file.closed:
                    self.closed[hotkey][file.position_uuid] = file.pair
                else:
                    opened.append(file)
            for file in opened:
                if file.position_uuid not in self.closed[hotkey]:
                    self._load_open(file)

    def _load_open(self, file: PositionFile) -> None:
        position = self._parse(file)
        if position is not None and not position.closed:
            self.open[file.miner_hotkey, file.pair] = position

    def _parse(self, file: PositionFile) -> SimulatedPosition | None:
        body = self.files.read(file)
        try:
            return None if body is None else SimulatedPosition.parse(body)
        except InvalidInputError:
            return None

    def is_closing(self, hotkey: str, pair: str) -> bool:
        """Whether the miner's position on that pair is between the folders."""
        return (hotkey, pair) in self._closing

    def find(self, hotkey: str, position_uuid: str) -> SimulatedPosition | None:
        """A position, the closed ones read from their files; None while it is between the folders."""
        pair = self.closed.get(hotkey, {}).get(position_uuid)
        if pair is not None:
            return self._parse(PositionFile(hotkey, pair, True, position_uuid))
        held = (p for (owner, _), p in self.open.items() if owner == hotkey)
        return next((p for p in held if p.position_uuid == position_uuid), None)

    def names(self) -> list[tuple[str, str]]:
        """(hotkey, uuid) of every position that has a file."""
        opened = [(p.miner_hotkey, p.position_uuid) for p in self.open.values()]
        return opened + [(hotkey, uuid) for hotkey, uuids in self.closed.items() for uuid in uuids]

    # --- writing ------------------------------------------------------------------------------------------

    def save(
        self,
        position: SimulatedPosition,
        new: Sequence[Order] = (),
        *,
        cause: str = "miner",
    ) -> None:
        """Writes the position where its state puts it; `new` are orders that were in no file before. A close
        deletes the open file first, the closed one follows after the gap."""
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
        """When the next half-closed position gets its file."""
        return next((closing.due_ms for closing in self._closing.values()), None)

    def finish_closes(self, until_ms: int | None = None) -> None:
        """Writes the closed files that are due by then; without a time, all."""
        for key, closing in list(self._closing.items()):
            if until_ms is not None and closing.due_ms > until_ms:
                break
            del self._closing[key]
            self._write(closing)

    def rewrite(self, position: SimulatedPosition) -> None:
        """Writes a position's file as it now is, without a word to anybody."""
        file = self._file(position)
        self._preserve(file)
        self.files.write(self.files.path(file), position.body())

    def appear(self, hotkey: str, positions: Sequence[SimulatedPosition]) -> None:
        """Makes a new miner's directory appear with all these positions, every order of them new."""
        for position in positions:
            self.announce(position, position.orders, "miner")
        self.files.appear(hotkey, {self._file(p): p.body() for p in positions})
        for position in positions:
            self.enter(position)
            self.written(position, position.orders, "miner")

    def enter(self, position: SimulatedPosition) -> None:
        """Notes a position whose file stands, or will at once."""
        if position.closed:
            self.closed.setdefault(position.miner_hotkey, {})[position.position_uuid] = position.pair
        else:
            self.open[position.miner_hotkey, position.pair] = position

    def announce(self, position: SimulatedPosition, new: Sequence[Order], cause: str) -> None:
        """Journals orders that are about to stand in a file for the first time."""
        self.journal.add(*(self._placed(position, order, cause) for order in new))

    def written(self, position: SimulatedPosition, new: Sequence[Order], cause: str) -> None:
        """Journals that they do, and tells the queue."""
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
        """Deletes a position for good."""
        pair = self.closed.get(hotkey, {}).pop(position_uuid, None)
        if pair is not None:
            file = PositionFile(hotkey, pair, True, position_uuid)
            self._preserve(file)
            self.files.delete(file)
        else:
            position = self.find(hotkey, position_uuid)
            if position is None:
                return
            self._delete(position)
        self.journal.add(
            Removed(at_ms=self.now_ms, miner_hotkey=hotkey, position_uuid=position_uuid, cause=cause)
        )

    def _write(self, closing: _Closing) -> None:
        position, new, cause = closing.position, closing.new, closing.cause
        self.enter(position)
        self.announce(position, new, cause)
        self.rewrite(position)
        self.written(position, new, cause)

    def _delete(self, position: SimulatedPosition) -> None:
        """Deletes an open position's file."""
        file = PositionFile(position.miner_hotkey, position.pair, False, position.position_uuid)
        self._preserve(file)
        self.files.delete(file)
        del self.open[position.miner_hotkey, position.pair]

    def _file(self, position: SimulatedPosition) -> PositionFile:
        return PositionFile(position.miner_hotkey, position.pair, position.closed, position.position_uuid)

    def _placed(self, position: SimulatedPosition, order: Order, cause: str) -> Placed:
        if order.src == OrderSource.ELIMINATION and cause == "miner":
            cause = "liquidation"
        return Placed(
            at_ms=self.now_ms,
            miner_hotkey=position.miner_hotkey,
            position_uuid=position.position_uuid,
            trade_pair=position.pair,
            order_uuid=order.order_uuid,
            processed_ms=order.processed_ms,
            order_type=order.order_type,
            leverage=order.leverage,
            src=order.src or 0,
            place=1 + next(i for i, o in enumerate(position.orders) if o is order),
            n_orders=len(position.orders),
            cause=cause,
        )

    # --- backup -------------------------------------------------------------------------------------------

    def take_backup(self) -> None:
        """Remembers how the positions' files are now; replaces an earlier backup."""
        self.finish_closes()
        self._backup = Backup(self.now_ms, self.files, self._all_files())

    def restore_backup(self) -> int:
        """Makes the positions' files what they were at the backup; how many were written back."""
        backup, self._backup = self._backup, None
        if backup is None:
            return 0
        self.finish_closes()
        changed = {file: SimulatedPosition.parse(body) for file, body in backup.changed().items()}
        for position in changed.values():
            self._announce_lost(position)
        for file in self._all_files():
            if file not in backup:
                self._drop(file, for_good=not backup.knows(file.miner_hotkey, file.position_uuid))
        for file, body in backup.changed().items():
            self.files.write(self.files.path(file), body)
            self.enter(changed[file])
            self.written(changed[file], (), "backup")
        self.journal.add(BackupRestored(at_ms=self.now_ms, backup_ms=backup.taken_ms, positions=len(changed)))
        self.take_backup()
        return len(changed)

    def _announce_lost(self, restored: SimulatedPosition) -> None:
        """Journals the orders that a position has now and will not have once it is restored."""
        hotkey, uuid = restored.miner_hotkey, restored.position_uuid
        now = self.find(hotkey, uuid)
        kept = {order.order_uuid for order in restored.orders}
        for order in [] if now is None else now.orders:
            if order.order_uuid not in kept:
                self.drop_order(hotkey, uuid, order)

    def drop_order(self, hotkey: str, position_uuid: str, order: Order) -> None:
        """Journals that an order is about to leave a position's list."""
        lost = {"position_uuid": position_uuid, "order_uuid": order.order_uuid}
        self.journal.add(Dropped(at_ms=self.now_ms, miner_hotkey=hotkey, **lost))

    def _all_files(self) -> list[PositionFile]:
        files = [self._file(position) for position in self.open.values()]
        for hotkey, uuids in self.closed.items():
            files += [PositionFile(hotkey, pair, True, uuid) for uuid, pair in uuids.items()]
        return files

    def _drop(self, file: PositionFile, *, for_good: bool) -> None:
        """Deletes a file that the backup does not have, be its position gone or only elsewhere in it."""
        if for_good:
            self.remove(file.miner_hotkey, file.position_uuid, "backup")
            return
        self.files.delete(file)
        if file.closed:
            del self.closed[file.miner_hotkey][file.position_uuid]
        else:
            del self.open[file.miner_hotkey, file.pair]

    def _preserve(self, file: PositionFile) -> None:
        if self._backup is not None:
            self._backup.preserve(file)
