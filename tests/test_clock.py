"""The steady clock follows the wall clock, and its steps forward only after they have lasted."""

from __future__ import annotations

import pytest

from ptn_api.clock import ClockStart, SteadyClock, wall_ms

HOUR = 3_600_000


class Times:
    """A wall clock and a monotonic clock that the test sets, and a steady clock over them."""

    def __init__(self) -> None:
        self.wall = 1_000_000_000
        self.monotonic = 700_000
        self.jumps: list[int] = []
        self.start()

    def start(self, start: ClockStart | None = None, known_ms: int | None = None) -> None:
        """Replaces the steady clock by that of a new process."""
        self.clock = SteadyClock(
            start=start,
            jump_ms=60_000,
            settle_ms=600_000,
            wall=lambda: self.wall,
            monotonic=lambda: self.monotonic,
            on_jump=self.jumps.append,
        )
        if known_ms is not None:
            self.clock.compare(known_ms)

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
    """After ten minutes."""
    times = Times()
    times.wall += HOUR
    before = times.clock()
    assert before == times.wall - HOUR
    assert times.pass_ms(599_000) == before + 599_000
    assert times.clock.is_untrusted()
    assert times.pass_ms(2_000) == times.wall
    assert not times.clock.is_untrusted()
    assert times.jumps == [HOUR]


def test_a_step_back_is_followed_at_once() -> None:
    """A clock that was ahead for hours shows nothing early once it is set right; it is reported."""
    times = Times()
    times.wall += 25 * HOUR
    times.pass_ms(1)
    assert times.pass_ms(600_000) == times.wall
    times.wall -= 25 * HOUR
    assert times.clock() == times.wall
    assert times.clock.is_untrusted()
    times.pass_ms(599_000)
    assert times.clock.is_untrusted()
    assert times.pass_ms(2_000) == times.wall
    assert not times.clock.is_untrusted()
    times.wall += 25 * HOUR
    assert times.clock() == times.wall - 25 * HOUR, "the next step forward has to last again"
    assert times.jumps == [25 * HOUR, -25 * HOUR, 25 * HOUR]


def test_many_small_steps_forward_do_not_add_up() -> None:
    """At most a minute in ten, so that nobody winds the clock on by a day in a quarter of an hour."""
    times = Times()
    before = times.clock()
    for _ in range(1_000):
        times.wall += 50_000
        times.pass_ms(100)
    assert times.clock() - before <= 60_000 + 100_000
    times.wall = before + 100_000
    assert times.clock() == times.wall
    for minutes in range(30):  # a slew that a time server may cause
        times.wall += 2_000
        assert times.pass_ms(60_000) == times.wall, minutes


@pytest.mark.parametrize("known_ago_ms", [25 * HOUR, 100 * HOUR])
def test_a_start_ahead_of_what_is_known_has_to_last(known_ago_ms: int) -> None:
    """Whether the clock is wrong or the server was down: time goes on from there, for ten minutes."""
    times = Times()
    known_ms = times.wall - known_ago_ms
    times.start(known_ms=known_ms)
    assert times.clock() == known_ms
    assert times.pass_ms(599_000) == known_ms + 599_000
    assert times.clock.is_untrusted()
    assert times.pass_ms(2_000) == times.wall
    assert not times.clock.is_untrusted()
    assert times.jumps == [known_ago_ms]


def test_a_later_time_that_agrees_ends_the_wait() -> None:
    """Such as another machine's, in a log that was an old copy at the start."""
    times = Times()
    times.start(known_ms=times.wall - HOUR)
    times.clock.confirm(times.wall - HOUR)
    assert times.clock() == times.wall - HOUR
    times.clock.confirm(times.wall - 30_000)
    assert times.clock() == times.wall
    assert not times.clock.is_untrusted()


def test_a_jump_is_not_confirmed_by_a_time_before_it() -> None:
    times = Times()
    times.start(known_ms=times.wall)
    times.wall += 25 * HOUR
    times.pass_ms(1_000)
    times.clock.confirm(times.wall - 25 * HOUR)
    assert times.clock() == times.wall - 25 * HOUR
    assert times.clock.is_untrusted()


def test_a_clock_that_was_wrong_at_the_start_and_is_set_right_is_trusted() -> None:
    """At once: the right time is where the known one would be by now."""
    times = Times()
    times.start(known_ms=times.wall - 30_000)
    assert times.clock() == times.wall
    times.wall += 25 * HOUR
    times.start(known_ms=times.wall - 25 * HOUR - 30_000)
    assert times.clock.is_untrusted()
    times.wall -= 25 * HOUR
    assert times.pass_ms(1_000) == times.wall
    assert not times.clock.is_untrusted()


def test_a_start_behind_what_is_known_shows_nothing_early() -> None:
    """Either the clock is wrong now or it was before: the earlier time counts, and it is reported."""
    times = Times()
    times.start(known_ms=times.wall + 25 * HOUR)
    assert times.clock() == times.wall
    assert times.clock.is_untrusted()
    assert times.pass_ms(600_000) == times.wall
    assert not times.clock.is_untrusted()
    times.wall += 25 * HOUR
    assert times.clock() == times.wall - 25 * HOUR


def test_another_process_continues_the_clock() -> None:
    """Started while the wall clock is wrong, it goes on with the time of the one that saw the step."""
    times = Times()
    times.pass_ms(700_000)
    start = times.clock.as_start()
    times.wall += 25 * HOUR
    times.start(start, known_ms=times.wall - 99 * HOUR)
    before = times.wall - 25 * HOUR
    assert times.clock() == before, "a clock that has run for long is not bounded by what is known"
    assert times.pass_ms(599_000) == before + 599_000
    times.start(times.clock.as_start())
    assert times.pass_ms(2_000) == before + 601_000, "a new process waits again"
    assert times.pass_ms(600_000) == times.wall
    times.start(times.clock.as_start(), known_ms=times.wall - 25 * HOUR)
    assert times.clock() == times.wall


def test_a_restart_soon_after_a_start_waits_for_the_rest() -> None:
    """The ten minutes count from the start of the first process."""
    times = Times()
    start, known_ms = times.clock.as_start(), times.wall - 25 * HOUR
    times.pass_ms(400_000)
    times.start(start, known_ms + 400_000)
    assert times.clock() == known_ms + 400_000
    assert times.pass_ms(201_000) == times.wall


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
