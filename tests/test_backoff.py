"""Delays between retries."""

from __future__ import annotations

from ptn_api.backoff import Backoff


def test_delays_double_up_to_the_maximum_and_start_over_after_a_success() -> None:
    """100, 200, 250, 250 ms; then 100 again."""
    backoff = Backoff(first_ms=100, max_ms=250)
    assert [backoff.next_ms() for _ in range(4)] == [100, 200, 250, 250]
    backoff.reset()
    assert backoff.next_ms() == 100


def test_jitter_only_shortens_a_delay() -> None:
    """By at most its share, and not always by the same amount."""
    delays = [Backoff(first_ms=100, max_ms=100, jitter=0.3).next_ms() for _ in range(50)]
    assert all(70 <= delay <= 100 for delay in delays)
    assert len(set(delays)) > 1


def test_full_jitter_draws_from_zero_up_to_the_delay() -> None:
    """Jitter 1; the delays keep doubling underneath."""
    draws = iter([0.0, 0.5, 1.0])
    backoff = Backoff(first_ms=100, max_ms=1_000, jitter=1.0, random=lambda: next(draws))
    assert [backoff.next_ms() for _ in range(3)] == [100, 100, 0]
