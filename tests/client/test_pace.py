"""Pauses between attempts."""

from __future__ import annotations

from ptn_api.client.pace import Backoff, Pace

PACE = Pace(backoff=1, backoff_max=60, eviction=15, refused=30, settled=20)


def longest(low: float, high: float) -> float:
    return high


def shortest(low: float, high: float) -> float:
    return low


def test_pauses_double_up_to_a_limit() -> None:
    """For ever: there is no last attempt."""
    backoff = Backoff(PACE, longest)
    assert [backoff.lost() for _ in range(9)] == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert all(backoff.lost() == 60 for _ in range(2_000))


def test_the_jitter_is_full() -> None:
    """Clients that were cut off together come back spread out from zero on."""
    backoff = Backoff(PACE, shortest)
    assert [backoff.lost() for _ in range(3)] == [0, 0, 0]


def test_a_connection_that_lasted_ends_the_doubling() -> None:
    """One that was closed at once does not."""
    backoff = Backoff(PACE, longest)
    assert [backoff.lost() for _ in range(3)] == [1, 2, 4]
    backoff.lasted(5)
    assert backoff.lost() == 8
    backoff.lasted(20)
    assert backoff.lost() == 1


def test_an_evicted_client_never_comes_back_soon() -> None:
    """And later each time, though each of six clients is up for a while in its turn."""
    backoff = Backoff(PACE, shortest)
    pauses = []
    for _ in range(4):
        pauses.append(backoff.evicted())
        backoff.lasted(60)
    assert pauses == [15, 30, 60, 60]
    backoff.lasted(600)
    assert backoff.evicted() == 15


def test_a_refused_login_is_tried_again_slowly() -> None:
    """Every 30 to 60 s by default: the key may be added later."""
    assert Backoff(PACE, shortest).refused() == 30
    assert Backoff(PACE, longest).refused() == 60
