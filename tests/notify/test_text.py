"""The text of notifications, which hotkeys and trade pairs cannot turn into markup."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptn_api.client import PTNWebSocketMessage
from ptn_api.client.testing import fake_order, fake_position
from ptn_api.notify.text import digest_text, order_text
from tests.properties import tries

MINER = "5Synr98gHa7RAmPKXBxQBMe4B4kLs8WYw1A64Ewmi21gB1Mu"


def message(
    miner: str = MINER, pair: Any = "BTCUSD", leverage: float = 0.5, **marks: Any
) -> PTNWebSocketMessage:
    orders = [fake_order(leverage, 64_123.5, processed_ms=1_795_600_000_000)]
    position = fake_position("BTCUSD", orders, miner=miner)
    position["trade_pair"] = [pair, pair, 0.001, 0.01, 0.5]
    return PTNWebSocketMessage({"sequence": 1, "timestamp": 1, "data": {"position": position}} | marks)


def test_one_order() -> None:
    """The title is short enough for a phone; the body has the whole hotkey."""
    title, body = order_text(message(late=True, replay=True))
    assert title == "BTCUSD LONG +0.5 by 5Synr98g"
    assert body.splitlines() == [
        f"Miner {MINER}",
        "Price 64123.5",
        "Position net leverage +0.5, return +0.00 %",
        "2026-11-25 09:46:40 UTC, seen late, missed before",
    ]


def test_a_subaccount_keeps_its_number() -> None:
    assert order_text(message(f"{MINER}_7"))[0].endswith("by 5Synr98g_7")


def test_a_digest_counts_orders_miners_and_pairs() -> None:
    title, body = digest_text([message(), message(pair="ETHUSD"), message("5Other00", "ETHUSD")])
    assert title == "3 orders by 2 miners in 2 pairs"
    assert "Miners: 5Synr98g 2, 5Other00 1" in body
    assert "Pairs: ETHUSD 2, BTCUSD 1" in body


def test_a_digest_of_many_miners_stays_short() -> None:
    """It names the most active ones."""
    title, body = digest_text([message(f"5M{n:06}", f"P{n}") for n in range(1000)])
    assert title == "1000 orders by 1000 miners in 1000 pairs"
    assert "and 992 more" in body
    assert len(body) < 400


HOSTILE = [
    "**bold**",
    "[text](https://evil.example)",
    "https://evil.example/x",
    "evil.example",
    "@everyone",
    "<@123>",
    "<b>x</b>",
    "`code`",
    "a\nb\r\n# heading",
    "\u202emirrored",
    "x" * 10_000,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_no_markup(name: str) -> None:
    """Neither as a hotkey nor as a pair, in neither kind of text."""
    check(name)


@tries(50)
@given(st.text())
def test_no_name_is_markup(name: str) -> None:
    check(name)


def check(name: str) -> None:
    texts = [*order_text(message(name, name)), *digest_text([message(name, name), message()])]
    for text in texts:
        assert re.fullmatch(r"[A-Za-z0-9_?+\-.,:% \n]*", text)
        assert max(map(len, text.splitlines())) < 200
    assert [text.count("\n") for text in texts] == [0, 3, 0, 2]
