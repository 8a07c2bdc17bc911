"""The simulated market and the miners' habits."""

from __future__ import annotations

import hashlib
import itertools
import math
import statistics
from random import Random
from uuid import UUID

import pytest

from ptn_api.model.trade_pair import category_and_rate, trade_pairs
from ptn_api.simulator.market import INSTRUMENTS, Instrument, Market, new_uuid
from ptn_api.simulator.miner import make_hotkey, make_miner
from ptn_api.simulator.options import Network
from tests.factories import T0

DAY_MS = 86_400_000
ALL = [(network, instrument) for network, instruments in INSTRUMENTS.items() for instrument in instruments]
each = pytest.mark.parametrize(
    ("network", "instrument"), ALL, ids=[f"{network}-{instrument.id}" for network, instrument in ALL]
)
BTC, FOREX = INSTRUMENTS["2025"][0], INSTRUMENTS["2025"][5]


def test_the_same_seed_pair_and_time_give_the_same_quote_in_any_order() -> None:
    """A price depends on its arguments only, so a resumed simulation continues the same market."""
    times = [T0 + k * 3_600_000 for k in range(50)]
    forwards = [Market(5, "2025").quote(BTC, at) for at in times]
    market = Market(5, "2025")
    assert [market.quote(BTC, at) for at in reversed(times)] == forwards[::-1]
    assert Market(6, "2025").quote(BTC, T0) != forwards[0]


@each
def test_prices_move_as_much_as_the_instrument_usually_does(network: Network, instrument: Instrument) -> None:
    """Daily and five-minute moves both fit the daily volatility, as in a random walk."""
    market = Market(1, network)
    for step_ms, per_day in ((DAY_MS, 1), (300_000, 288)):
        # A share's price halves at a split.
        times = [T0 + k * step_ms for k in range(300)]
        prices = [
            market.quote(instrument, at).price
            / math.prod(r for _, r in market.splits(instrument, at, times[-1]))
            for at in times
        ]
        moves = [math.log(b / a) for a, b in itertools.pairwise(prices)]
        volatility = statistics.stdev(moves) * math.sqrt(per_day)
        assert 0.5 < volatility / instrument.daily_volatility < 2
        assert all(0.25 < price / instrument.price < 4 for price in prices)


@each
def test_bid_and_ask_enclose_the_price_of_a_known_pair(network: Network, instrument: Instrument) -> None:
    quote = Market(1, network).quote(instrument, T0)
    assert quote.bid <= quote.price <= quote.ask
    assert quote.bid < quote.ask
    assert category_and_rate(list(instrument.trade_pair)) is not None
    if network == "today":
        pair = trade_pairs()[instrument.id]
        assert (pair.display, pair.category, pair.lot_size) == (
            instrument.trade_pair[1],
            instrument.category,
            instrument.lot,
        )
        assert (pair.source == "hyperliquid") == instrument.hyperliquid


def test_a_fill_carries_the_quotes_that_were_looked_at() -> None:
    """Two sources that start before the order, with prices close to its own."""
    order = Market(1, "2025").fill(FOREX, "LONG", 0.5, T0, Random(1))
    assert order.price_sources is not None
    assert [s.source for s in order.price_sources] == list(FOREX.sources)
    for source in order.price_sources:
        assert source.close == pytest.approx(order.price, rel=1e-3)
        assert source.start_ms is not None
        assert source.start_ms < T0
    assert 0 < (order.slippage or 0) < 1e-3


def test_uuids_are_well_formed() -> None:
    """Version 4, variant RFC 4122, for all bits of the generator."""
    rng = Random(2)
    made = [UUID(new_uuid(rng)) for _ in range(200)]
    assert {u.version for u in made} == {4}
    assert len(set(made)) == 200


def test_hotkeys_are_ss58_addresses() -> None:
    """48 characters, prefix 42 and a valid checksum, so the network's tools accept them."""
    alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    for number in range(50):
        hotkey = make_hotkey(1, number)
        value = 0
        for letter in hotkey:
            value = value * 58 + alphabet.index(letter)
        raw = value.to_bytes(35, "big")
        assert len(hotkey) == 48
        assert raw[0] == 42
        assert raw[33:] == hashlib.blake2b(b"SS58PRE" + raw[:33]).digest()[:2]


def test_miners_differ_and_keep_their_habits() -> None:
    """Habits depend on the hotkey only."""
    hotkeys = [make_hotkey(1, n) for n in range(30)]
    miners = [make_miner(hotkey, Market(1, "2025")) for hotkey in hotkeys]
    assert miners == [make_miner(hotkey, Market(1, "2025")) for hotkey in hotkeys]
    assert len({(m.orders, m.size, m.pairs) for m in miners}) > 20


def test_a_miner_never_turns_a_position_around() -> None:
    """Adjustments keep the side and the pair's limits; the close ends at exactly zero."""
    rng = Random(4)
    for number in range(20):
        miner = make_miner(make_hotkey(2, number), Market(1, "2025"))
        instrument = miner.pairs[0]
        net = miner.opening(instrument, rng).leverage
        for _ in range(200):
            changed = net + miner.adjustment(instrument, net, rng).leverage
            assert changed * net > 0
            assert abs(changed) <= instrument.limits[1] + instrument.limits[0]
            net = changed
        assert net + miner.closing(net).leverage == 0
