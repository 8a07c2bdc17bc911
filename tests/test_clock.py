"""The steady clock follows the wall clock, and its jumps only after they have lasted."""

from __future__ import annotations

from ptn_api.clock import SteadyClock, wall_ms


class Times:
    """A wall clock and a monotonic clock that the test sets."""

    def __init__(self) -> None:
        self.wall = 1_000_000_000
        self.monotonic = 5_000
        self.jumps: list[int] = []
        self.clock = SteadyClock(
            jump_ms=60_000,
            settle_ms=600_000,
            wall=lambda: self.wall,
            monotonic=lambda: self.monotonic,
            on_jump=self.jumps.append,
        )

    def pass_ms(self, ms: int) -> int:
        self.wall += ms
        self.monotonic += ms
        return self.clock()


def test_it_follows_time_and_small_steps() -> None:
    """A time server's correction is followed at once."""
    times = Times()
    assert times.pass_ms(1_000) == times.wall
    times.wall += 59_000
    assert times.clock() == times.wall
    assert times.jumps == []


def test_a_jump_is_reported_once_and_followed_when_it_has_lasted() -> None:
    """Forward or backward, after ten minutes."""
    for jump in (3_600_000, -3_600_000):
        times = Times()
        times.wall += jump
        before = times.clock()
        assert abs(before - times.wall) >= 3_600_000 - 60_000
        assert times.pass_ms(599_000) == before + 599_000
        assert times.pass_ms(2_000) == times.wall
        assert times.jumps == [jump]


def test_a_jump_that_is_undone_is_never_followed() -> None:
    """A clock that was set wrong and then right again reveals nothing early."""
    times = Times()
    times.wall += 86_400_000
    times.clock()
    times.wall -= 86_400_000
    assert times.pass_ms(700_000) == times.wall
    times.wall += 86_400_000
    assert times.clock() == times.wall - 86_400_000


def test_a_second_jump_must_last_as_long_as_the_first() -> None:
    """Otherwise one that comes just before the first is followed would be followed at once."""
    for jump in (86_400_000, -3_600_000, 61_000):
        times = Times()
        times.wall += 7_200_000
        before = times.clock()
        assert times.pass_ms(599_000) == before + 599_000
        times.wall += jump
        assert times.pass_ms(2_000) == before + 601_000
        assert times.pass_ms(599_000) == before + 1_200_000
        assert times.pass_ms(2_000) == times.wall
        assert times.jumps == [7_200_000, 7_200_000 + jump]


def test_small_steps_after_a_jump_do_not_restart_the_wait() -> None:
    """A time server's corrections are followed together with the jump."""
    times = Times()
    times.wall += 7_200_000
    before = times.clock()
    times.wall -= 59_000
    assert times.pass_ms(599_000) == before + 599_000
    assert times.pass_ms(2_000) == times.wall
    assert times.jumps == [7_200_000]


def test_wall_ms_is_now_in_milliseconds() -> None:
    """Not seconds, not microseconds."""
    assert 1_600_000_000_000 < wall_ms() < 5_000_000_000_000
