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

__all__ = ["Miner", "Roster", "Trade", "entity_of", "make_hotkey", "make_miner", "make_synthetic_hotkey"]

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


class Trade(msgspec.Struct, frozen=True):
    """A miner's instruction; `leverage` is the signed change of the position's leverage."""

    order_type: OrderType
    leverage: float


class Miner(msgspec.Struct, frozen=True, kw_only=True):
    """A miner's habits, a function of its hotkey.

    `activity` is its weight in the choice of the next trader, `orders` the usual number of orders per
    position, `size` an order's share of the largest leverage, `bias` the share of long positions.

    The rest is known of miners of today only: the account in USD, the class of assets that it may trade, and
    the address at Hyperliquid of a subaccount that trades there.
    """

    hotkey: str
    pairs: tuple[Instrument, ...]
    activity: float
    orders: float
    size: float
    bias: float
    account_size: float = 0.0
    asset_class: str = ""
    hl_address: str | None = None

    @property
    def entity(self) -> str | None:
        """The entity of which it is a subaccount."""
        return entity_of(self.hotkey)

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


def make_synthetic_hotkey(seed: int, number: int) -> str:
    """Returns the hotkey of a miner of today: every third miner is one of four subaccounts of an entity."""
    if number % 3 < 2:
        return make_hotkey(seed, number)
    entity, place = divmod(number // 3, 4)
    return f"{make_hotkey(seed, -1 - entity)}_{place}"


def entity_of(hotkey: str) -> str | None:
    """Returns the entity of which the miner is a subaccount."""
    return hotkey.partition("_")[0] if "_" in hotkey else None


def make_miner(hotkey: str, market: Market) -> Miner:
    """Returns the miner with that hotkey, always with the same habits."""
    instruments: Sequence[Instrument] = list(market.instruments.values())
    rng = seeded(f"habits/{hotkey}")
    if market.network == "2025":
        return _habits(hotkey, instruments, rng)
    # A miner of today has selected a class of assets, and trades those alone.
    subaccount = entity_of(hotkey) is not None
    classes = ("crypto", "forex", "equities", "commodities", "all_markets", "hl_all")
    asset_class = rng.choices(classes, (3, 4, 3, 1, 2, 8 if subaccount else 0))[0]
    miner = _habits(hotkey, [i for i in instruments if is_allowed(i, asset_class)], rng)
    return msgspec.structs.replace(
        miner,
        account_size=rng.choice([25_000.0, 50_000.0, 100_000.0, 250_000.0]),
        asset_class=asset_class,
        hl_address=f"0x{rng.getrandbits(160):040x}" if asset_class == "hl_all" else None,
    )


def is_allowed(instrument: Instrument, asset_class: str) -> bool:
    """Returns whether a miner that selected this class may trade the instrument."""
    if asset_class in ("crypto", "commodities"):
        return instrument.hyperliquid and instrument.category == asset_class
    if asset_class in ("forex", "equities"):
        return not instrument.hyperliquid and instrument.category == asset_class
    return asset_class == "all_markets" or instrument.hyperliquid


def _habits(hotkey: str, instruments: Sequence[Instrument], rng: Random) -> Miner:
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
        self._market = market
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
        miner = self._miners[hotkey] = make_miner(hotkey, self._market)
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
