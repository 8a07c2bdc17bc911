"""Rate limits: bursts, refill, and waiting times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptn_api.access.limits import Allowance, LoginGuard, RateLimit

ALICE, BOB = "aaaaaaaa", "bbbbbbbb"
NOW = 1_700_000_000_000


def test_a_minutes_quota_may_be_used_at_once() -> None:
    """After that, one request per share of the minute."""
    limit = RateLimit(60)
    taken = [limit.take("a", NOW) for _ in range(61)]
    assert [t.remaining for t in taken if t] == [*range(59, -1, -1), 0]
    assert [t.allowed for t in taken if t] == [True] * 60 + [False]
    assert [taken[0], taken[-1]] == [Allowance(60, 59, 1, 0), Allowance(60, 0, 60, 1)]
    assert limit.retry_s("a", NOW) == 1
    assert limit.retry_s("a", NOW + 1_000) == 0
    later = limit.take("a", NOW + 1_000)
    assert later is not None
    assert later.allowed


def test_what_costs_more_uses_up_the_quota_sooner() -> None:
    """It is allowed only as a whole."""
    limit = RateLimit(60)
    costs = [40, 30, 20, 1]
    taken = [limit.take("a", NOW, cost=cost) for cost in costs]
    assert [t and t.allowed for t in taken] == [True, False, True, False]
    assert taken[1] == Allowance(60, 0, 40, 10)


@given(st.lists(st.integers(0, 20_000), min_size=1, max_size=300), st.integers(1, 100))
def test_no_minute_takes_more_than_twice_the_limit(gaps: list[int], per_minute: int) -> None:
    """A full quota and its refill. After the returned wait the next request is allowed."""
    limit, now, taken = RateLimit(per_minute), NOW, []
    for gap in gaps:
        now += gap
        allowance = limit.take("a", now)
        assert allowance is not None
        if allowance.allowed:
            taken.append(now)
        else:
            assert limit.retry_s("a", now) == allowance.retry_s
            assert limit.retry_s("a", now + 1000 * allowance.retry_s) == 0
    assert all(sum(start <= other < start + 60_000 for other in taken) <= 2 * per_minute for start in taken)


def test_names_do_not_share_and_zero_is_no_limit() -> None:
    """A name over its limit does not affect another."""
    limit = RateLimit(1)
    assert [bool(t and t.allowed) for t in (limit.take("a", NOW), limit.take("a", NOW))] == [True, False]
    other = limit.take("b", NOW)
    assert other is not None
    assert other.allowed
    assert RateLimit(0).take("a", NOW) is None
    assert RateLimit(0).retry_s("a", NOW) == 0


def test_a_clock_step_backwards_costs_a_minute_at_most() -> None:
    """A time in the future counts as a used-up quota, which refills."""
    limit = RateLimit(60)
    for _ in range(60):
        limit.take("a", NOW + 86_400_000)
    refused = limit.take("a", NOW)
    assert refused is not None
    assert not refused.allowed
    assert refused.retry_s <= 60


def test_memory_is_bounded() -> None:
    """Beyond the maximum, the name whose last request is oldest is forgotten."""
    limit = RateLimit(1, most_names=2)
    for name in "abc":
        limit.take(name, NOW)
    assert limit.retry_s("a", NOW) == 0
    assert limit.retry_s("b", NOW) > 0


def test_after_too_many_failures_an_address_waits_even_with_a_valid_key() -> None:
    """Otherwise guessing on would find a key. A key that logged in from there before is exempt."""
    guard = LoginGuard(3)
    assert guard.record_attempt("1.2.3.4", ALICE, NOW) == 0
    assert [guard.record_attempt("1.2.3.4", None, NOW) for _ in range(3)] == [0, 0, 0]
    assert guard.record_attempt("1.2.3.4", None, NOW) > 0
    assert guard.record_attempt("1.2.3.4", BOB, NOW) > 0
    assert guard.record_attempt("1.2.3.4", ALICE, NOW) == 0
    assert guard.record_attempt("5.6.7.8", BOB, NOW) == 0
    assert guard.record_attempt("1.2.3.4", BOB, NOW + 20_000) == 0


def test_an_exempt_address_never_waits() -> None:
    """Loopback peers have no group."""
    guard = LoginGuard(1)
    assert [guard.record_attempt(None, None, NOW) for _ in range(10)] == [0] * 10


def test_the_known_keys_of_addresses_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the maximum, the one whose last login is oldest counts as unknown."""
    monkeypatch.setattr("ptn_api.access.limits.MOST_NAMES", 2)
    guard = LoginGuard(1)
    for address in ("1.1.1.1", "2.2.2.2"):
        guard.record_attempt(address, ALICE, NOW)
        assert guard.record_attempt(address, None, NOW) == 0
    assert [guard.record_attempt(address, ALICE, NOW) for address in ("1.1.1.1", "2.2.2.2")] == [0, 0]
    guard.record_attempt("3.3.3.3", ALICE, NOW)
    assert guard.record_attempt("2.2.2.2", ALICE, NOW) == 0
    assert guard.record_attempt("1.1.1.1", ALICE, NOW) > 0
