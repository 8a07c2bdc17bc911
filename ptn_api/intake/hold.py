"""Positions from the queue that stand until their file holds them. Pure: no clock, no timers."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from ptn_api.intake.position_files import Key

__all__ = ["Holds"]


class _Hold:
    __slots__ = ("orders", "withheld")

    def __init__(self, orders: AbstractSet[str]) -> None:
        self.orders = orders
        self.withheld = False


class Holds:
    """For each position that the queue brought: the orders that its file is yet to show."""

    def __init__(self) -> None:
        self._holds: dict[Key, _Hold] = {}

    def start(self, key: Key, orders: AbstractSet[str]) -> object:
        """Holds back older files of the position from now on. Returns what `expire` asks for."""
        hold = _Hold(orders)
        previous = self._holds.get(key)
        if previous is not None:
            hold.withheld = previous.withheld
        self._holds[key] = hold
        return hold

    def admits(self, key: Key, orders: AbstractSet[str]) -> bool:
        """Whether a file with these orders may be handed on. One that is older than the queue's body may not.

        A file that has all the queue's orders ends the hold, and so does one with an order of its own: the
        directory is the truth, and what it says must be announced.
        """
        hold = self._holds.get(key)
        if hold is None:
            return True
        if orders < hold.orders:
            hold.withheld = True
            return False
        del self._holds[key]
        return True

    def release(self, key: Key) -> None:
        """Ends a hold, if there is one."""
        self._holds.pop(key, None)

    def needless(self, key: Key, orders: AbstractSet[str]) -> bool:
        """The log had all these orders already: ends their hold; whether a file was held back meanwhile."""
        hold = self._holds.get(key)
        if hold is None or hold.orders != orders:
            return False
        del self._holds[key]
        return hold.withheld

    def expire(self, key: Key, hold: object) -> bool:
        """Ends this very hold; whether it still stood, so that the file is to be looked at again."""
        if self._holds.get(key) is not hold:
            return False
        del self._holds[key]
        return True
