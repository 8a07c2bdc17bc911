"""What a tier shows (docs/accounting.md, 4), and when that changes."""

from __future__ import annotations

import hashlib
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptn_api.model.position import parse_position
from ptn_api.model.tiers import AS_IS, Hidden, Replayed, is_live, next_change_ms, view
from tests import factories
from tests.model import histories
from tests.model.expected import shared
from tests.model.histories import make_order, written
from tests.model.make_data import DAY, NOW

TIERS = (0, 30, 50, 100)


def seen(*times: int, **extra: Any) -> Any:
    """A position with one order at each of these times, the first LONG 0.5, each further one LONG 0.1."""
    listed = [make_order(t, "LONG", 0.1 if i else 0.5, 100.0 + i, f"order-{i}") for i, t in enumerate(times)]
    return written(listed, **extra)[0]


def test_the_published_sample() -> None:
    """Every position's share, and so which tiers show it live."""
    for scenario in shared("golden/tiers.json.gz")["scenarios"]:
        for uuid, share in scenario["hash_mod_100"].items():
            assert [t for t in TIERS if is_live(uuid, t)] == [t for t in TIERS if share < t]


@given(st.text(min_size=1))
def test_tiers_nest(uuid: str) -> None:
    """Nothing is live for tier 0, everything for 100, and each tier's sample holds the lower ones'."""
    live = [is_live(uuid, tier) for tier in TIERS]
    share = int(hashlib.sha256(uuid.encode()).hexdigest(), 16) % 100
    assert live == [False, share < 30, share < 50, True]


def test_samples_have_about_their_size() -> None:
    """Over 2000 uuids, 30 and 50 of a hundred."""
    for tier in (30, 50):
        share = sum(is_live(f"position-{n}", tier) for n in range(2000)) / 2000
        assert abs(share - tier / 100) < 0.04


def test_an_order_shows_from_one_millisecond_after() -> None:
    """Strictly before the cutoff."""
    position = seen(NOW)
    assert view(position, 0, NOW) == Hidden("not_yet")
    assert isinstance(view(position, 0, NOW + 1), Replayed)


def test_only_orders_before_the_cutoff_count_wherever_they_stand() -> None:
    """The second of three is too young; the state is that of the other two."""
    shown = view(seen(NOW, NOW + 9, NOW + 5), 0, NOW + 9)
    assert isinstance(shown, Replayed)
    assert shown.places == (0, 2)
    assert shown.replay.state.net_leverage == pytest.approx(0.6)


def test_an_untouched_open_position_is_replayed_too() -> None:
    """The validator refreshes its returns every minute; a lagging tier must not tick with that."""
    position = seen(NOW, current_return=1.5)
    shown = view(position, 0, NOW + 9 * DAY)
    assert isinstance(shown, Replayed)
    assert shown.replay.state.current_return == 1.0


def test_a_position_closed_before_the_cutoff_is_shown_as_it_is() -> None:
    """From one millisecond after its close; at the cutoff itself it was still open."""
    listed = [make_order(NOW, "LONG", 0.5, 100.0, "a"), make_order(NOW + 5, "FLAT", -0.5, 101.0, "b")]
    position, _ = written(listed)
    at_close = view(position, 0, NOW + 5)
    assert isinstance(at_close, Replayed)
    assert at_close.replay.state.is_closed_position is False
    assert view(position, 0, NOW + 6) == AS_IS


@pytest.mark.parametrize("close_ms", [None, 0])
def test_a_close_without_a_time_is_not_before_the_cutoff(close_ms: int | None) -> None:
    """What says it is closed but not when is replayed."""
    assert isinstance(view(seen(NOW, is_closed_position=True, close_ms=close_ms), 0, NOW + 1), Replayed)


def test_an_open_position_with_a_time_of_close_is_open() -> None:
    """is_closed_position decides; some files say close_ms 0 or more while open."""
    assert isinstance(view(seen(NOW, is_closed_position=False, close_ms=NOW), 0, NOW + 1), Replayed)


def test_what_cannot_be_replayed_is_hidden_with_that_reason() -> None:
    """An unknown pair without a fee that tells, or no orders at all; tier 100 shows it as it came."""
    unknown = seen(NOW, trade_pair=["NEW", "NEW", 0.5e-3, 0.1, 5])
    empty = parse_position(json.dumps(factories.position(1, [])).encode())[0]
    for position in (unknown, empty):
        assert view(position, 0, NOW + 1) == Hidden("not_replayable")
        assert view(position, 100, NOW + 1) == AS_IS


def test_an_unknown_pair_that_closed_before_the_cutoff_needs_no_replay() -> None:
    """Only where a state must be replayed does the pair matter."""
    position = seen(NOW, trade_pair="NEW", is_closed_position=True, close_ms=NOW + 1)
    assert view(position, 0, NOW + 2) == AS_IS


def test_moments_of_change() -> None:
    """Each order's and the close's next millisecond, then never; never for what is live."""
    position = seen(NOW, NOW + 10, is_closed_position=True, close_ms=NOW + 20)
    assert next_change_ms(position, 0, 0) == NOW + 1
    assert next_change_ms(position, 0, NOW) == NOW + 1
    assert next_change_ms(position, 0, NOW + 1) == NOW + 11
    assert next_change_ms(position, 0, NOW + 11) == NOW + 21
    assert next_change_ms(position, 0, NOW + 21) is None
    assert next_change_ms(position, 100, 0) is None


@histories.patient
@given(histories.orders(earliest=NOW, latest=NOW + 40), st.integers(NOW - 2, NOW + 44))
def test_between_the_moments_nothing_changes(bodies: list[dict[str, Any]], cutoff: int) -> None:
    """Going from moment to moment meets every view that any cutoff has."""
    position, _ = written(bodies)
    at = NOW - 2
    while (following := next_change_ms(position, 0, at)) is not None and following <= cutoff:
        assert following > at
        at = following
    assert view(position, 0, cutoff) == view(position, 0, at)


@histories.patient
@given(histories.orders(earliest=NOW, latest=NOW + 40), st.integers(NOW, NOW + 41))
def test_a_tier_includes_all_that_a_lower_one_shows(bodies: list[dict[str, Any]], cutoff: int) -> None:
    """What a lower tier shows is shown by a higher one the same way or live."""
    position, _ = written(bodies)
    views = [view(position, tier, cutoff) for tier in TIERS]
    for lower, higher in itertools.pairwise(views):
        assert higher in (AS_IS, lower)
