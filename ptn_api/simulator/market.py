"""A synthetic market: prices as a pure function of seed, pair and time.

A price is a sum of noises with periods from seconds to months. Each has an amplitude proportional to the
square root of its period, so that the price moves like a geometric random walk. Yet any moment can be priced
in any order: history is generated out of sequence, and a resumed simulation continues at the right prices.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import msgspec

from ptn_api.model.order import Order, OrderSource, OrderType, PriceSource

__all__ = ["INSTRUMENTS", "Instrument", "Market", "Quote", "new_uuid", "seeded"]

_DAY_MS = 86_400_000
_PERIODS_MS = tuple(8_000 * 4**k for k in range(11))
"""8 s to 97 days."""
_MASK = (1 << 64) - 1


class Instrument(msgspec.Struct, frozen=True, kw_only=True):
    """A trade pair with its price model: `price` is the usual level, `daily_volatility` a fraction per day,
    `spread` (bid to ask) a fraction of the price; `sources` names the feeds of its quotes."""

    trade_pair: tuple[str, str, float, float, float]
    price: float
    daily_volatility: float
    spread: float
    digits: int
    sources: tuple[str, str]

    @property
    def id(self) -> str:
        return self.trade_pair[0]

    @property
    def limits(self) -> tuple[float, float]:
        """Smallest and largest leverage."""
        return self.trade_pair[3], self.trade_pair[4]


class Quote(NamedTuple):
    price: float
    bid: float
    ask: float


def _crypto(base: str, price: float, volatility: float, digits: int) -> Instrument:
    return Instrument(
        trade_pair=(f"{base}USD", f"{base}/USD", 0.003, 0.01, 0.5),
        price=price,
        daily_volatility=volatility,
        spread=1e-5,
        digits=digits,
        sources=("Polygon_ws", "Tiingo_gdax_rest"),
    )


def _forex(base: str, quote: str, price: float, volatility: float, digits: int) -> Instrument:
    return Instrument(
        trade_pair=(base + quote, f"{base}/{quote}", 7e-05, 0.1, 5),
        price=price,
        daily_volatility=volatility,
        spread=6e-5,
        digits=digits,
        sources=("Polygon_ws", "Tiingo_ws"),
    )


def _stock(name: str, price: float, volatility: float, largest: float) -> Instrument:
    return Instrument(
        trade_pair=(name, name, 9e-05, 0.1, largest),
        price=price,
        daily_volatility=volatility,
        spread=1e-4,
        digits=2,
        sources=("Polygon_rest", "Tiingo_iex_rest"),
    )


INSTRUMENTS = (
    _crypto("BTC", 108_000.0, 0.025, 2),
    _crypto("ETH", 3_600.0, 0.035, 2),
    _crypto("SOL", 170.0, 0.045, 3),
    _crypto("XRP", 2.4, 0.045, 5),
    _crypto("DOGE", 0.2, 0.05, 6),
    _forex("EUR", "USD", 1.13, 0.005, 5),
    _forex("GBP", "USD", 1.32, 0.0055, 5),
    _forex("AUD", "USD", 0.66, 0.006, 5),
    _forex("USD", "CAD", 1.37, 0.004, 5),
    _forex("USD", "JPY", 148.0, 0.0065, 3),
    _forex("EUR", "JPY", 166.0, 0.0065, 3),
    _forex("GBP", "JPY", 195.0, 0.007, 3),
    _forex("XAU", "USD", 3_300.0, 0.01, 2),
    _forex("XAG", "USD", 36.0, 0.018, 3),
    _stock("NVDA", 150.0, 0.026, 3),
    _stock("AAPL", 210.0, 0.016, 3),
    _stock("TSLA", 300.0, 0.035, 3),
    _stock("SPX", 6_000.0, 0.01, 5),
)


class Market:
    """Prices of all instruments; the same seed, pair and time always give the same quote."""

    def __init__(self, seed: int, instruments: Sequence[Instrument] = INSTRUMENTS) -> None:
        self.instruments = {i.id: i for i in instruments}
        self._keys: dict[str, int] = {}
        for name in self.instruments:
            digest = hashlib.blake2b(f"{seed}/market/{name}".encode(), digest_size=8).digest()
            self._keys[name] = int.from_bytes(digest, "big") << 4  # `quote` adds the octave

    def quote(self, instrument: Instrument, at_ms: int) -> Quote:
        """Returns mid price, bid and ask at that time, in the quote currency."""
        swing = sum(
            math.sqrt(period / _DAY_MS) * _noise_at(self._keys[instrument.id] + octave, at_ms, period)
            for octave, period in enumerate(_PERIODS_MS)
        )
        exact = instrument.price * math.exp(1.2 * instrument.daily_volatility * swing)
        half = exact * instrument.spread / 2
        return Quote(*(round(p, instrument.digits) for p in (exact, exact - half, exact + half)))

    def fill(
        self,
        instrument: Instrument,
        order_type: OrderType,
        leverage: float,
        at_ms: int,
        rng: Random,
        *,
        order_uuid: str | None = None,
        sources: bool = True,
    ) -> Order:
        """Returns an order as a validator would fill it at that time, with the quotes it used."""
        quote = self.quote(instrument, at_ms)
        used = _price_sources(instrument, quote, at_ms, rng) if sources else []
        quoted = instrument.digits > 3 or rng.random() < 0.5
        return Order(
            order_type=order_type,
            leverage=leverage,
            price=quote.price,
            bid=quote.bid if quoted else 0.0,
            ask=quote.ask if quoted else 0.0,
            slippage=round(instrument.spread * abs(leverage) * rng.uniform(0.1, 1.0), 8),
            processed_ms=at_ms,
            order_uuid=order_uuid or new_uuid(rng),
            price_sources=used,
            src=OrderSource.MINER,
        )


def seeded(name: str) -> Random:
    """Returns a generator that yields the same numbers for the same name, in every process."""
    return Random(name)  # noqa: S311 - a simulation must repeat itself


def new_uuid(rng: Random) -> str:
    """Returns a random (version 4) uuid drawn from the generator."""
    bits = rng.getrandbits(128) & ~(0xF000 << 64) & ~(3 << 62) | (4 << 76) | (2 << 62)
    digits = f"{bits:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _price_sources(instrument: Instrument, quote: Quote, at_ms: int, rng: Random) -> list[PriceSource]:
    live, polled = instrument.sources
    near = round(quote.price * (1 + rng.gauss(0, instrument.spread)), instrument.digits)
    lag, polled_lag = rng.randrange(20, 500), rng.randrange(200, 3_500)
    unquoted = Quote(quote.price, 0.0, 0.0)
    trade = _source(live, 0, unquoted if live == "Polygon_ws" else quote, at_ms - lag, lag)
    minute = _source(polled, 60_000, Quote(near, quote.bid, quote.ask), at_ms - polled_lag, polled_lag)
    return [trade, minute]


def _source(name: str, timespan_ms: int, quote: Quote, start_ms: int, lag_ms: int) -> PriceSource:
    price = quote.price
    return PriceSource(
        source=name,
        timespan_ms=timespan_ms,
        open=price,
        close=price,
        vwap=price,
        high=price,
        low=price,
        start_ms=start_ms,
        websocket=not name.endswith("rest"),
        lag_ms=lag_ms,
        bid=quote.bid,
        ask=quote.ask,
    )


def _noise_at(key: int, at_ms: int, period_ms: int) -> float:
    """Returns a value between -1 and 1, interpolated linearly between random points one period apart."""
    cell, into = divmod(at_ms + key % period_ms, period_ms)
    before, after = _noise(key, cell), _noise(key, cell + 1)
    return before + (after - before) * into / period_ms


def _noise(key: int, cell: int) -> float:
    """Returns the splitmix64 hash of the cell, scaled to between -1 and 1."""
    z = (key * 0xD1342543DE82EF95 + cell * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return (z ^ (z >> 31)) / (1 << 63) - 1.0
