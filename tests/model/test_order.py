"""Orders as structs."""

from __future__ import annotations

import msgspec
import pytest

from ptn_api.model.order import Order, OrderSource, PriceSource

OLD = {
    "order_type": "SHORT",
    "leverage": -0.25,
    "price": 0.9773,
    "processed_ms": 1711443744885,
    "order_uuid": "cf5419db-926d-4d7c-a13f-2005e393b09d",
    "price_sources": [],
}


def test_missing_fields_of_an_older_order_are_zero() -> None:
    """Bid, ask, slippage and src: a miner sent it."""
    order = msgspec.convert(OLD, Order)
    assert (order.bid, order.ask, order.slippage, order.src) == (0.0, 0.0, 0.0, OrderSource.MINER)


def test_nulls_and_unknown_keys_are_accepted() -> None:
    """A newer validator may write more keys, and null for missing values."""
    order = msgspec.convert(
        OLD | {"bid": None, "src": None, "leverage_v2": [1], "price_sources": None}, Order
    )
    assert (order.bid, order.src, order.price_sources) == (None, None, None)


def test_price_sources_may_lack_anything() -> None:
    """Each value of a quote is optional or null."""
    order = msgspec.convert(OLD | {"price_sources": [{}, {"source": "TiingoFX_rest", "bid": None}]}, Order)
    assert order.price_sources == [PriceSource(), PriceSource(source="TiingoFX_rest")]


@pytest.mark.parametrize(
    "change", [{"order_type": "BUY"}, {"leverage": "0.1"}, {"processed_ms": 1.5}, {"order_uuid": None}]
)
def test_a_mistyped_field_is_refused(change: dict[str, object]) -> None:
    """Fields that the accounting needs must be there, with the right type."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(OLD | change, Order)
