"""Every position as of now, kept up by what the stream sends. Pure: texts in, state out.

Positions are kept as the text they came as: numbers and unknown keys survive, and a state of 50,000
positions is a fraction of what it would be as objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from ptn_api.model.checksum import CHECKSUM_MODULUS, position_checksum
from ptn_api.wire.server_frames import ChangedPosition

__all__ = ["HeldPosition", "Key", "Mirror"]

Key = tuple[str, str]
"""(miner_hotkey, position_uuid)"""

_raw_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_raw_list = msgspec.json.Decoder(list[msgspec.Raw])


class _OrderId(msgspec.Struct):
    order_uuid: str


class _PositionId(msgspec.Struct):
    miner_hotkey: str
    position_uuid: str


class _Delta(msgspec.Struct):
    """A message's data in format "delta"."""

    order: msgspec.Raw
    position: msgspec.Raw
    n_orders: int


_order_id = msgspec.json.Decoder(_OrderId)
_position_id = msgspec.json.Decoder(_PositionId)
_delta = msgspec.json.Decoder(_Delta)


class HeldPosition:
    """One position: its JSON without the orders, and each order's JSON by its uuid, in list order."""

    __slots__ = ("orders", "part", "summary")

    def __init__(self, summary: bytes, orders: list[tuple[str, bytes]]) -> None:
        self.summary = summary
        self.orders = orders
        self.part = 0
        """Of the state's checksum, as of when it was last added to it."""

    @classmethod
    def of(cls, text: bytes) -> HeldPosition:
        """Of a whole position. Raises msgspec.MsgspecError or KeyError for what is none."""
        keys = _raw_object.decode(text)
        orders = [(_uuid(order), bytes(order)) for order in _raw_list.decode(keys.pop("orders"))]
        return cls(msgspec.json.encode(keys), orders)

    def json(self) -> bytes:
        """The whole position; its orders stand last."""
        orders = b",".join(text for _, text in self.orders)
        comma = b"," if len(self.summary) > 2 else b""
        return self.summary[:-1] + comma + b'"orders":[' + orders + b"]}"

    def put(self, order: bytes, place: int | None = None) -> None:
        """Replaces the order of the same uuid, or inserts it (`place` counts from 0; None: at the end)."""
        uuid = _uuid(order)
        held = [i for i, (other, _) in enumerate(self.orders) if other == uuid]
        for i in held:
            self.orders[i] = (uuid, order)
        if not held:
            self.orders.insert(len(self.orders) if place is None else place, (uuid, order))

    def arrange(self, uuids: Iterable[str]) -> None:
        """Makes the list hold exactly these orders, as far as they are known, in this order."""
        texts = dict(self.orders)
        self.orders = [(uuid, texts[uuid]) for uuid in uuids if uuid in texts]


class Mirror:
    """The positions, and the checksum of all of them."""

    def __init__(self) -> None:
        self.positions: dict[Key, HeldPosition] = {}
        self._sum = 0

    @property
    def checksum(self) -> str:
        """16 hex digits, as a heartbeat's."""
        return f"{self._sum % CHECKSUM_MODULUS:016x}"

    def differences(self, other: Mirror) -> list[Key]:
        """The positions that only one of the two has, or that are not the same in both."""
        keys = {**other.positions, **self.positions}
        return [key for key in keys if _part(self, key) != _part(other, key)]

    def load(self, texts: Iterable[msgspec.Raw | bytes]) -> Iterator[Key]:
        """Takes whole positions, one per step, so that a long load can be interrupted for other work."""
        for text in texts:
            body = bytes(text)
            yield self._keep(_key(body), HeldPosition.of(body))

    def remove(self, keys: Iterable[Key]) -> list[Key]:
        """Forgets positions; returns those that were there."""
        gone = [key for key in keys if key in self.positions]
        for key in gone:
            self._sum -= self.positions.pop(key).part
        return gone

    def order(self, data: msgspec.Raw | bytes) -> Key:
        """Takes an order's message in format "delta"."""
        delta = _delta.decode(data)
        held, key = self._held(delta.position)
        held.put(bytes(delta.order), min(delta.n_orders - 1, len(held.orders)))
        return self._keep(key, held)

    def change(self, frame: ChangedPosition) -> Key:
        """Takes a refresh or a correction."""
        held, key = self._held(frame.position)
        for order in frame.orders:
            held.put(bytes(order))
        if frame.order_uuids is not None:
            held.arrange(frame.order_uuids)
        return self._keep(key, held)

    def _held(self, summary: msgspec.Raw) -> tuple[HeldPosition, Key]:
        body = bytes(summary)
        key = _key(body)
        held = self.positions.get(key) or HeldPosition(body, [])
        held.summary = body
        return held, key

    def _keep(self, key: Key, held: HeldPosition) -> Key:
        before = self.positions.get(key)
        self._sum -= 0 if before is None else before.part
        held.part = position_checksum(held.json())
        self._sum += held.part
        self.positions[key] = held
        return key


def _part(mirror: Mirror, key: Key) -> int | None:
    held = mirror.positions.get(key)
    return None if held is None else held.part


def _uuid(order: Any) -> str:
    return _order_id.decode(order).order_uuid


def _key(body: bytes) -> Key:
    found = _position_id.decode(body)
    return found.miner_hotkey, found.position_uuid
