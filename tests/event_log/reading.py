"""Shorthands for reading a log in tests."""

from __future__ import annotations

import json

from ptn_api.event_log import Event, EventLog, LoggedPosition, PositionRemoved
from tests.factories import MINER, T0, uuid

FIRST = T0 + 1
"""The first sequence of a log created at T0."""
NOW = T0 + 30_000
DAY = 86_400_000


def announced(log: EventLog) -> list[Event]:
    return log.read(log.floor() - 1, 10_000)


def numbers(log: EventLog) -> list[int]:
    """The numbers of the announced orders, as in `factories.order`."""
    return [int(event.order_uuid[-4:], 16) - 1000 for event in announced(log)]


def order_numbers(orders: tuple[bytes, ...]) -> list[int]:
    return [int(json.loads(text)["order_uuid"][-4:], 16) - 1000 for text in orders]


def the_position(log: EventLog, n: int = 1, miner: str = MINER) -> LoggedPosition:
    position = log.position(miner, uuid(n))
    assert position is not None
    return position


def removal(n: int, miner: str = MINER) -> PositionRemoved:
    return PositionRemoved(miner_hotkey=miner, position_uuid=uuid(n))
