"""A synthetic market: prices as a pure function of seed, pair and time.

A price is a sum of noises with periods from seconds to months. Each has an amplitude proportional to the
square root of its period, so that the price moves like a geometric random walk. Yet any moment can be priced
in any order: history is generated out of sequence, and a resumed simulation continues at the right prices.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from random import Random
from typing import Literal, NamedTuple

import msgspec

from ptn_api.model.order import Order, OrderSource, OrderType, PriceSource
from ptn_api.simulator.options import Network

__all__ = [
    "INSTRUMENTS",
    "Category",
    "Instrument",
    "Market",
    "Quote",
    "SimulatedOrder",
    "new_uuid",
    "price_source",
    "seeded",
]

Category = Literal["crypto", "forex", "equities", "commodities", "indices"]

_DAY_MS = 86_400_000
_PERIODS_MS = tuple(8_000 * 4**k for k in range(11))
"""8 s to 97 days."""
_MASK = (1 << 64) - 1
_SPLIT = 2.0
_SPLIT_DAYS = 120
_DIVIDEND_DAYS = 91
_MOST_MARKS = 200_000


class Instrument(msgspec.Struct, frozen=True, kw_only=True):
    """A trade pair with its price model: `price` is the usual level, `daily_volatility` a fraction per day,
    `spread` (bid to ask) a fraction of the price; `sources` names the feeds of its quotes.

    `limits` are the smallest and largest leverage that a miner uses. `dividend` is paid per share and quarter
    by stocks that are traded as such (`spot`), which also split from time to time.
    """

    trade_pair: tuple[str, str, float, float, float]
    category: Category
    price: float
    daily_volatility: float
    spread: float
    digits: int
    sources: tuple[str, str]
    limits: tuple[float, float]
    lot: int = 1
    hyperliquid: bool = False
    spot: bool = False
    dividend: float = 0.0

    @property
    def id(self) -> str:
        return self.trade_pair[0]


class Quote(NamedTuple):
    price: float
    bid: float
    ask: float


class SimulatedOrder(Order, kw_only=True, gc=False):
    """An order whose sizes are known; those in USD and lots, and the rates, are 0 in orders of 2025."""

    leverage: float
    value: float = 0.0
    quantity: float = 0.0
    execution_type: str = "MARKET"
    quote_usd_rate: float = 0.0
    usd_base_rate: float = 0.0
    realized_pnl: float = 0.0
    margin_loan: float = 0.0


def _instrument(
    trade_pair: tuple[str, str, float, float, float],
    category: Category,
    model: tuple[float, float, int],
    spread: float,
    sources: tuple[str, str],
    *,
    largest: float | None = None,
    lot: int = 1,
    dividend: float | None = None,
) -> Instrument:
    price, volatility, digits = model
    return Instrument(
        trade_pair=trade_pair,
        category=category,
        price=price,
        daily_volatility=volatility,
        spread=spread,
        digits=digits,
        sources=sources,
        limits=(trade_pair[3], largest or trade_pair[4]),
        lot=lot,
        hyperliquid=sources[0] == "Hyperliquid_ws",
        spot=dividend is not None,
        dividend=dividend or 0.0,
    )


def _crypto(base: str, *model: float) -> Instrument:
    trade_pair = (f"{base}USD", f"{base}/USD", 0.003, 0.01, 0.5)
    return _instrument(trade_pair, "crypto", _model(model), 1e-5, ("Polygon_ws", "Tiingo_gdax_rest"))


def _forex(base: str, quote: str, *model: float, today: bool = False) -> Instrument:
    trade_pair = (base + quote, f"{base}/{quote}", 7e-05, 0.1, 10 if today else 5)
    sources = ("Polygon_ws", "Tiingo_ws")
    return _instrument(
        trade_pair, "forex", _model(model), 6e-5, sources, largest=2 if today else 5, lot=100_000
    )


def _stock(name: str, price: float, volatility: float, largest: float) -> Instrument:
    trade_pair = (name, name, 9e-05, 0.1, largest)
    return _instrument(
        trade_pair, "equities", (price, volatility, 2), 1e-4, ("Polygon_rest", "Tiingo_iex_rest")
    )


def _hyperliquid(category: Category, base: str, *model: float) -> Instrument:
    trade_pair = (f"{base}USDC", f"{base}/USDC", 0.001, 0.01, 1.0)
    return _instrument(trade_pair, category, _model(model), 2e-5, ("Hyperliquid_ws", "Hyperliquid_rest"))


def _share(name: str, price: float, volatility: float, dividend: float) -> Instrument:
    trade_pair = (name.replace(".", "_"), name, 9e-05, 0.01, 2)
    sources = ("Polygon_ws", "Tiingo_iex_rest")
    return _instrument(
        trade_pair, "equities", (price, volatility, 3), 1e-4, sources, largest=1, dividend=dividend
    )


def _model(values: tuple[float, ...]) -> tuple[float, float, int]:
    return values[0], values[1], int(values[2])


INSTRUMENTS: dict[Network, tuple[Instrument, ...]] = {
    "2025": (
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
    ),
    "today": (
        _hyperliquid("crypto", "BTC", 92_000.0, 0.025, 1),
        _hyperliquid("crypto", "ETH", 3_100.0, 0.035, 2),
        _hyperliquid("crypto", "SOL", 140.0, 0.045, 3),
        _hyperliquid("crypto", "XRP", 2.1, 0.045, 5),
        _hyperliquid("crypto", "DOGE", 0.15, 0.05, 6),
        _hyperliquid("crypto", "HYPE", 33.0, 0.05, 3),
        _hyperliquid("crypto", "LINK", 13.5, 0.045, 4),
        _hyperliquid("crypto", "AVAX", 14.0, 0.045, 4),
        _hyperliquid("crypto", "SUI", 1.6, 0.05, 5),
        _hyperliquid("crypto", "kPEPE", 0.0047, 0.06, 7),
        _hyperliquid("commodities", "GOLD", 4_200.0, 0.01, 2),
        _hyperliquid("commodities", "SILVER", 55.0, 0.02, 3),
        _hyperliquid("commodities", "WTIOIL", 60.0, 0.022, 3),
        _hyperliquid("commodities", "COPPER", 5.3, 0.015, 4),
        _hyperliquid("indices", "XYZ100", 25_500.0, 0.012, 1),
        _hyperliquid("indices", "SP500", 6_850.0, 0.01, 1),
        _hyperliquid("equities", "NVDA", 180.0, 0.026, 4),
        _hyperliquid("equities", "TSLA", 430.0, 0.035, 4),
        _hyperliquid("equities", "AAPL", 275.0, 0.016, 4),
        _forex("EUR", "USD", 1.16, 0.005, 5, today=True),
        _forex("GBP", "USD", 1.32, 0.0055, 5, today=True),
        _forex("AUD", "USD", 0.65, 0.006, 5, today=True),
        _forex("NZD", "USD", 0.57, 0.006, 5, today=True),
        _forex("USD", "CAD", 1.4, 0.004, 5, today=True),
        _forex("USD", "CHF", 0.81, 0.005, 5, today=True),
        _forex("USD", "JPY", 156.0, 0.0065, 3, today=True),
        _forex("EUR", "GBP", 0.88, 0.004, 5, today=True),
        _forex("EUR", "JPY", 181.0, 0.0065, 3, today=True),
        _forex("GBP", "JPY", 206.0, 0.007, 3, today=True),
        _share("NVDA", 180.0, 0.026, 0.01),
        _share("AAPL", 275.0, 0.016, 0.26),
        _share("TSLA", 430.0, 0.035, 0.0),
        _share("MSFT", 490.0, 0.014, 0.91),
        _share("AMZN", 230.0, 0.02, 0.0),
        _share("META", 640.0, 0.021, 0.53),
        _share("GOOGL", 315.0, 0.018, 0.21),
        _share("BRK.B", 510.0, 0.01, 0.0),
        _share("JPM", 310.0, 0.013, 1.5),
        _share("KO", 72.0, 0.009, 0.51),
    ),
}


class Market:
    """Prices of all instruments; the same seed, pair and time always give the same quote."""

    def __init__(self, seed: int, network: Network = "today") -> None:
        self.network = network
        self.instruments = {i.id: i for i in INSTRUMENTS[network]}
        self._keys: dict[str, int] = {}
        self._marks: dict[tuple[str, int], float] = {}
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
        if instrument.spot and self._splits_until(instrument, at_ms) % 2:
            exact /= _SPLIT
        half = exact * instrument.spread / 2
        return Quote(*(round(p, instrument.digits) for p in (exact, exact - half, exact + half)))

    def mark(self, instrument: Instrument, at_ms: int) -> float:
        """Returns the mid price; remembers it, for the times at which many accounts are valued."""
        key = (instrument.id, at_ms)
        if key not in self._marks:
            if len(self._marks) > _MOST_MARKS:
                self._marks.clear()
            self._marks[key] = self.quote(instrument, at_ms).price
        return self._marks[key]

    def usd_rate(self, instrument: Instrument, at_ms: int) -> float:
        """Returns how many USD one unit of the quote currency is worth; USDC counts as USD."""
        base, _, quote = instrument.trade_pair[1].partition("/")
        if quote in ("", "USD", "USDC"):
            return 1.0
        if base == "USD":
            return 1 / self.mark(instrument, at_ms)
        against = self.instruments.get(f"{quote}USD")
        if against is not None:
            return self.mark(against, at_ms)
        return 1 / self.mark(self.instruments[f"USD{quote}"], at_ms)

    # --- events of shares ---------------------------------------------------------------------------------

    def splits(self, instrument: Instrument, after_ms: int, until_ms: int) -> Iterator[tuple[int, float]]:
        """Yields the splits in a span of time, as midnight and ratio: every share alternately 2:1 and 1:2."""
        if not instrument.spot:
            return
        for count in range(
            self._splits_until(instrument, after_ms) + 1, self._splits_until(instrument, until_ms) + 1
        ):
            at_ms = (count * _SPLIT_DAYS - self._phase(instrument, _SPLIT_DAYS)) * _DAY_MS
            yield at_ms, _SPLIT if count % 2 else 1 / _SPLIT

    def ex_dates(self, instrument: Instrument, after_ms: int, until_ms: int) -> Iterator[int]:
        """Yields the midnights in a span of time at which a share trades without its next dividend."""
        if not instrument.dividend:
            return
        phase = self._phase(instrument, _DIVIDEND_DAYS)
        first = (after_ms // _DAY_MS + phase) // _DIVIDEND_DAYS + 1
        last = (until_ms // _DAY_MS + phase) // _DIVIDEND_DAYS
        for count in range(first, last + 1):
            yield (count * _DIVIDEND_DAYS - phase) * _DAY_MS

    def funding_rate(self, instrument: Instrument, hour_ms: int) -> float:
        """Returns the rate at which longs pay shorts at that full hour."""
        return 1.25e-5 + 2e-5 * _noise(self._keys[instrument.id], hour_ms)

    def _splits_until(self, instrument: Instrument, at_ms: int) -> int:
        return (at_ms // _DAY_MS + self._phase(instrument, _SPLIT_DAYS)) // _SPLIT_DAYS

    def _phase(self, instrument: Instrument, days: int) -> int:
        return (self._keys[instrument.id] >> 4) % days

    # --- fills --------------------------------------------------------------------------------------------

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
    ) -> SimulatedOrder:
        """Returns an order as a validator would fill it at that time, with the quotes it used."""
        quote = self.quote(instrument, at_ms)
        used = _price_sources(instrument, quote, at_ms, rng) if sources else []
        quoted = instrument.digits > 3 or rng.random() < 0.5
        order = SimulatedOrder(
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
        if self.network != "2025":
            order.quote_usd_rate = self.usd_rate(instrument, at_ms)
            order.usd_base_rate = 1 / (quote.price * order.quote_usd_rate)
        return order


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
    trade = price_source(live, 0, unquoted if live == "Polygon_ws" else quote, at_ms - lag, lag)
    minute = price_source(polled, 60_000, Quote(near, quote.bid, quote.ask), at_ms - polled_lag, polled_lag)
    return [trade, minute]


def price_source(name: str, timespan_ms: int, quote: Quote, start_ms: int, lag_ms: int) -> PriceSource:
    """Returns a quote as a validator stores it."""
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
