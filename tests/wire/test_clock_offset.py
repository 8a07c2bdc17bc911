"""The estimate of the server's clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ptn_api.wire.clock_offset import ClockOffset

NOW = 1_760_000_000_000


def test_without_samples_the_offset_is_0() -> None:
    """And not known."""
    assert (ClockOffset().ms, ClockOffset().known) == (0, False)


def test_the_shortest_round_trip_counts() -> None:
    """A slow reply is less exact."""
    offset = ClockOffset()
    offset.learn(NOW, NOW + 1_000 + 5, NOW + 10)
    offset.learn(NOW, NOW + 1_000 + 390, NOW + 400)
    assert offset.ms == 1_000


def test_a_clock_that_was_set_is_followed_at_once() -> None:
    """Earlier samples contradict the new one, whose round trip may be longer."""
    offset = ClockOffset()
    offset.learn(NOW, NOW + 1, NOW + 2)
    offset.learn(NOW, NOW + 3_600_000 + 50, NOW + 100)
    assert offset.ms == 3_600_000


def test_a_reply_before_its_request_is_dropped() -> None:
    """Our own clock was set back in between."""
    offset = ClockOffset()
    offset.learn(NOW, NOW, NOW - 1)
    assert not offset.known


@given(
    ahead=st.integers(-10_000_000, 10_000_000),
    trips=st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=1, max_size=20),
)
def test_the_error_is_half_the_shortest_recent_round_trip_at_most(
    ahead: int, trips: list[tuple[int, int]]
) -> None:
    """Regardless of the delays in each direction."""
    offset = ClockOffset()
    for there, back in trips:
        offset.learn(NOW, NOW + there + ahead, NOW + there + back)
    shortest = min(there + back for there, back in trips[-8:])
    assert abs(offset.ms - ahead) <= shortest / 2 + 1
