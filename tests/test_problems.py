"""Problems that last for a while after their last sign."""

from __future__ import annotations

from ptn_api.problems import Recent


def test_what_happens_again_is_counted_until_it_has_not_happened_for_the_window() -> None:
    """By name, and together. At the window's end it is over; then it starts over."""
    now = 1_000
    recent = Recent(100, lambda: now)
    assert (recent.total, recent.counts()) == (0, {})
    recent.note()
    now += 99
    recent.note("alice")
    recent.note("alice")
    assert recent.counts() == {"": 1, "alice": 2}
    now += 1
    assert recent.counts() == {"alice": 2}
    now += 98
    recent.note("alice")
    now += 99
    assert recent.total == 3
    now += 1
    assert recent.total == 0
    recent.note("alice")
    assert recent.total == 1
