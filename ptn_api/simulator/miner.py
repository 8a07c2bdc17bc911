"""Simulated miners: addresses in the network's format, and habits that differ by miner."""

from __future__ import annotations

import hashlib
from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate
from random import Random

import msgspec

from ptn_api.model.order import OrderType
from ptn_api.simulator.market import Instrument, Market, seeded

__all__ = ["Miner", "Roster", "Trade", "make_hotkey", "make_miner"]

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


class Trade(msgspec.Struct, frozen=True):
    """A miner's instruction; `leverage` is the signed change of the position's leverage."""

    order_type: OrderType
    leverage: float


class Miner(msgspec.Struct, frozen=True, kw_only=True):
    """A miner's habits, a function of its hotkey.

    `activity` is its weight in the choice of the next trader, `orders` the usual number of orders per
    position, `size` an order's share of the largest leverage, `bias` the share of long positions.
    """

    hotkey: str
    pairs: tuple[Instrument, ...]
    activity: float
    orders: float
    size: float
    bias: float

    def opening(self, instrument: Instrument, rng: Random) -> Trade:
        return self._trade(self._size(instrument, rng) * (1 if rng.random() < self.bias else -1))

    def next_trade(self, instrument: Instrument, net: float, rng: Random) -> Trade:
        """Closes, increases or reduces a position of that net leverage; never reverses it."""
        if rng.random() < 1 / self.orders:
            return self.closing(net)
        return self.adjustment(instrument, net, rng)

    def adjustment(self, instrument: Instrument, net: float, rng: Random) -> Trade:
        """Increases or reduces a position, within the pair's limits."""
        smallest, largest = instrument.limits
        side = 1 if net > 0 else -1
        change = self._size(instrument, rng)
        if rng.random() < 0.55 and abs(net) + change <= largest:
            return self._trade(side * change)
        reduced = round(abs(net) * rng.uniform(0.2, 0.7), 5)
        if abs(net) - reduced >= smallest and reduced > 0:
            return self._trade(-side * reduced)
        return self._trade(side * smallest)

    def closing(self, net: float) -> Trade:
        return Trade("FLAT", -net)

    def _size(self, instrument: Instrument, rng: Random) -> float:
        smallest, largest = instrument.limits
        return round(max(smallest, largest * self.size * rng.uniform(0.5, 1.5)), 5)

    @staticmethod
    def _trade(leverage: float) -> Trade:
        return Trade("LONG" if leverage > 0 else "SHORT", leverage)


def make_hotkey(seed: int, number: int) -> str:
    """Returns a well-formed ss58 address (prefix 42, 48 characters) without a known private key."""
    public = hashlib.blake2b(f"{seed}/miner/{number}".encode(), digest_size=32).digest()
    body = b"\x2a" + public
    checksum = hashlib.blake2b(b"SS58PRE" + body).digest()[:2]
    return _base58(body + checksum)


def make_miner(hotkey: str, instruments: Sequence[Instrument]) -> Miner:
    """Returns the miner with that hotkey, always with the same habits."""
    rng = seeded(f"habits/{hotkey}")
    specialist = rng.random() < 0.3
    count = min(len(instruments), rng.randint(1, 2) if specialist else rng.randint(3, 8))
    return Miner(
        hotkey=hotkey,
        pairs=tuple(rng.sample(list(instruments), count)),
        activity=rng.paretovariate(1.5),
        orders=rng.choice([2.5, 3.5, 4.5, 7.0]),
        size=rng.choice([0.03, 0.08, 0.2, 0.4]),
        bias=rng.uniform(0.35, 0.75),
    )


class Roster:
    """All miners that have a directory. Eliminated ones no longer trade."""

    def __init__(self, market: Market) -> None:
        self._instruments = list(market.instruments.values())
        self._miners: dict[str, Miner] = {}
        self._active: list[Miner] = []
        self._weights: list[float] = []
        self.eliminated: set[str] = set()

    def hotkeys(self) -> list[str]:
        return list(self._miners)

    def miners(self) -> list[Miner]:
        return list(self._miners.values())

    def get(self, hotkey: str) -> Miner | None:
        return self._miners.get(hotkey)

    def add(self, hotkey: str) -> Miner:
        miner = self._miners[hotkey] = make_miner(hotkey, self._instruments)
        self._update_weights()
        return miner

    def remove(self, hotkey: str) -> None:
        self._miners.pop(hotkey, None)
        self._update_weights()

    def eliminate(self, hotkeys: set[str]) -> None:
        """Replaces the set of eliminated miners."""
        self.eliminated = hotkeys
        self._update_weights()

    def choose(self, rng: Random) -> Miner | None:
        """Returns an active miner, weighted by activity; None if all are eliminated."""
        if not self._active:
            return None
        return self._active[bisect(self._weights, rng.random() * self._weights[-1], hi=len(self._active) - 1)]

    def _update_weights(self) -> None:
        self._active = [m for m in self._miners.values() if m.hotkey not in self.eliminated]
        self._weights = list(accumulate(m.activity for m in self._active))


def _base58(data: bytes) -> str:
    number = int.from_bytes(data, "big")
    digits = ""
    while number:
        number, digit = divmod(number, 58)
        digits = _BASE58[digit] + digits
    return digits
