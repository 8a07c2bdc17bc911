"""Fees (docs/accounting.md, 3): published tables, own tables, and the times at which rules change."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptn_api.model.fees import (
    CARRY_STARTS_MS,
    CUMULATIVE_STARTS_MS,
    carry_fee,
    fee,
    spread_fee,
)
from ptn_api.model.order import SLIPPAGE_STARTS_MS, Order
from tests.model import histories, literal
from tests.model.expected import own, same, shared
from tests.model.make_data import DAY, NOW, PAIRS
from tests.model.make_data import orders as listed

HOUR = 3_600_000
CRYPTO_PER_INTERVAL = (1 - 0.1095) ** (1 / 1095)
FOREX_PER_INTERVAL = (1 - 0.03) ** (1 / 365)
MONDAY = 1_759_708_800_000
"""2025-10-06 00:00 UTC."""


def rows(*entries: list[Any]) -> list[Order]:
    return histories.typed(listed(list(entries)))


def long(at: int, leverage: float = 1.0) -> list[Any]:
    return [at, "LONG", leverage, 100.0, 0.0, 0]


def test_the_published_tables() -> None:
    """Carry factor, spread factor and next change of every position at every time."""
    for row in shared("golden/fees.json.gz")["rows"]:
        orders = rows(*row["orders"])
        close_ms = row["close_ms"] if row["is_closed_position"] else None
        for at, factor, next_change, spread in row["table__t_ms__carry_fee__next_update_ms__spread_fee"]:
            carry = carry_fee(at, orders, row["category"], row["open_ms"], close_ms)
            assert same(carry.factor, float(factor)), (row["name"], at)
            assert carry.next_change_ms - next_change in (0, 1), (row["name"], at)
            assert same(spread_fee(at, orders, row["fees"]), float(spread)), (row["name"], at)


@pytest.mark.parametrize("case", own("fees"), ids=lambda case: case["name"])
def test_own_tables(case: dict[str, Any]) -> None:
    """The project's own positions, at times within two months of their opening."""
    category, rate = PAIRS[case["pair"]]
    orders = rows(*case["orders"])
    for at, factor, next_change, spread in case["table"]:
        carry = carry_fee(at, orders, category, case["open_ms"], case["close_ms"])
        assert same([*carry, spread_fee(at, orders, rate)], [factor, next_change, spread])


@histories.patient
@given(
    histories.orders(),
    st.integers(0, 100 * DAY) | st.integers(0, 2400).map(lambda h: h * HOUR),
    st.sampled_from(sorted(PAIRS)),
)
def test_counting_intervals_equals_walking_them(bodies: list[dict[str, Any]], later: int, pair: str) -> None:
    """For any orders, even out of time order."""
    category, rate = PAIRS[pair]
    open_ms = bodies[0]["processed_ms"]
    at = open_ms + later
    wanted = literal.carry_at(at, bodies, category, open_ms, None)
    assert same([*carry_fee(at, histories.typed(bodies), category, open_ms)], [*wanted])
    assert same(
        fee(at, histories.typed(bodies), category, rate, open_ms),
        literal.fee_at(at, bodies, category, rate, open_ms, None),
    )


def test_crypto_is_charged_at_4_12_and_20_utc() -> None:
    """Nothing until 4 h, then one interval, at the leverage held."""
    orders = rows(long(MONDAY, 0.5))
    assert carry_fee(MONDAY + 4 * HOUR - 1, orders, "crypto", MONDAY) == (1.0, MONDAY + 4 * HOUR)
    charged = carry_fee(MONDAY + 4 * HOUR, orders, "crypto", MONDAY)
    assert charged.next_change_ms == MONDAY + 12 * HOUR
    assert math.isclose(charged.factor, CRYPTO_PER_INTERVAL**0.5, rel_tol=1e-12)
    assert math.isclose(
        carry_fee(MONDAY + 28 * HOUR, orders, "crypto", MONDAY).factor, CRYPTO_PER_INTERVAL**2, rel_tol=1e-12
    )


@pytest.mark.parametrize(("day", "times"), [(0, 1), (1, 3), (2, 1), (3, 1), (4, 0), (5, 0), (6, 1)])
def test_forex_is_charged_at_21_utc_by_weekday(day: int, times: int) -> None:
    """Opened at 20 h, charged at 21 h, for an interval that ends at 20 h of the next day.

    Three times if that is a Wednesday, not at all on Saturday and Sunday.
    """
    opened = MONDAY + day * DAY + 20 * HOUR
    orders = rows(long(opened, 2.0))
    assert carry_fee(opened + HOUR - 1, orders, "forex", opened).factor == 1.0
    charged = carry_fee(opened + HOUR, orders, "forex", opened)
    assert math.isclose(charged.factor, FOREX_PER_INTERVAL ** (2.0 * times), rel_tol=1e-12)
    assert charged.next_change_ms == opened + 25 * HOUR


def test_nothing_is_carried_before_carry_fees_began() -> None:
    """Before the start the factor is 1, and the next change no later than the start."""
    opened = CARRY_STARTS_MS - 3 * HOUR
    orders = rows(long(opened))
    assert carry_fee(CARRY_STARTS_MS - 1, orders, "crypto", opened) == (1.0, CARRY_STARTS_MS)
    assert carry_fee(opened - 10 * HOUR, orders, "crypto", opened) == (1.0, opened - 2 * HOUR)


def test_a_closed_position_is_charged_until_its_close() -> None:
    """The factor is constant after close_ms."""
    orders = rows(long(NOW), [NOW + 2 * DAY, "FLAT", -1.0, 100.0, 0.0, 0])
    at_close = carry_fee(NOW + 2 * DAY, orders, "crypto", NOW, NOW + 2 * DAY)
    assert carry_fee(NOW + 50 * DAY, orders, "crypto", NOW, NOW + 2 * DAY) == at_close


def test_spread_ends_when_slippage_begins() -> None:
    """Half the rate per leverage moved before that time, nothing from then on."""
    orders = rows(long(SLIPPAGE_STARTS_MS - DAY, 2.0), long(SLIPPAGE_STARTS_MS - HOUR, 1.0))
    assert math.isclose(spread_fee(SLIPPAGE_STARTS_MS - 1, orders, 0.001), 1 - 3 * 0.001 / 2)
    assert spread_fee(SLIPPAGE_STARTS_MS, orders, 0.001) == 1.0


def test_orders_that_no_miner_sent_are_not_charged_for() -> None:
    """The FLAT of an elimination or of a deprecated pair moves none of the miner's leverage."""
    opened = SLIPPAGE_STARTS_MS - DAY
    for src in (1, 2):
        orders = rows(long(opened, 2.0), [opened + 1, "FLAT", -2.0, 100.0, 0.0, src])
        assert spread_fee(opened + 1, orders, 0.001) == 1 - 2 * 0.001 / 2
    organic = rows(long(opened, 2.0), [opened + 1, "FLAT", -2.0, 100.0, 0.0, 0])
    assert spread_fee(opened + 1, organic, 0.001) == 1 - 4 * 0.001 / 2


def test_the_oldest_fee_is_the_rate_times_the_largest_leverage() -> None:
    """Before the cumulative fee; the order that closes does not count, even beyond zero."""
    opened = CUMULATIVE_STARTS_MS - DAY
    orders = rows(long(opened, 1.0), long(opened + 1, 2.0), [opened + 2, "SHORT", -9.0, 100.0, 0.0, 0])
    assert fee(CUMULATIVE_STARTS_MS - 1, orders, "crypto", 0.001, opened) == 1 - 0.001 * 3.0
    grown = orders[:2]
    assert fee(CUMULATIVE_STARTS_MS - 1, grown, "crypto", 0.001, opened) == 1 - 0.001 * 3.0
    assert fee(CUMULATIVE_STARTS_MS, grown, "crypto", 0.001, opened) == 1 - (1.0 + 2.0) * 0.001 / 2


def test_an_absurdly_late_time_is_computed_at_once() -> None:
    """The intervals of ten thousand centuries are counted, not walked."""
    orders = rows(long(NOW), long(1 << 52))
    for category in ("crypto", "forex"):
        assert 0.0 <= carry_fee(1 << 52, orders, category, NOW).factor < 1e-6
