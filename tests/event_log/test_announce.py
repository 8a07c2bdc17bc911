"""Which orders are announced, and how the position looks at each of them."""

from __future__ import annotations

import json
from typing import Any

from ptn_api.event_log.announce import Announcement, Moment, announcements
from tests.factories import T0, order, position, written

NOW = Moment(now_ms=T0 + 10_000, late_ms=60_000)


def announce(body: dict[str, Any], fresh: list[int], moment: Moment = NOW) -> list[Announcement]:
    return list(announcements(written(body), fresh, moment))


def test_state_keys_are_replaced_and_others_pass_through() -> None:
    """An intermediate event's header has the file's keys in their order, with the state as it was then."""
    body = position(1, [order(1, 0.1), order(2, 0.1)], novelty={"a": 1}, initial_entry_price=101.0)
    del body["realized_pnl"]
    made, _ = announce(body, [0, 1])
    header = json.loads(made.header)
    assert list(header) == list(body)
    assert header["novelty"] == {"a": 1}
    assert header["initial_entry_price"] == 101.0
    assert header["net_leverage"] == 0.1
    assert made.header[made.orders_at - 1 : made.orders_at + 1] == b"[]"


def test_an_intermediate_event_of_a_closed_position_is_open() -> None:
    """The position was not closed yet when the order came: close_ms is null."""
    body = position(1, [order(1, 0.1), order(2, 0.0)], closed=True)
    opened, closed = (json.loads(made.header) for made in announce(body, [0, 1]))
    assert (opened["is_closed_position"], opened["close_ms"]) == (False, None)
    assert (closed["is_closed_position"], closed["close_ms"]) == (True, T0 + 2_000)


def test_largest_ms_runs_through_the_list() -> None:
    """Sorting goes by the largest time so far, also where seen orders stand between."""
    body = position(1, [order(n, at=T0 + at) for n, at in enumerate((100, 900, 300, 950))])
    assert [made.largest_ms - T0 for made in announce(body, [0, 2, 3])] == [100, 900, 950]


def test_late_means_before_a_seen_order() -> None:
    """Repetitions of a uuid do not count as orders that were seen."""
    body = position(1, [order(1), order(2), order(3)])
    assert [made.late for made in announce(body, [0, 2])] == [True, False]
    repeated = position(1, [order(1), order(2), order(1)])
    assert [made.late for made in announce(repeated, [1])] == [False]


def test_more_than_can_be_replayed_in_passing_goes_with_the_files_summary() -> None:
    """A thousand unseen orders of one position are each shown as it stood then; thousands hold up nobody."""

    def returns(n: int) -> set[float]:
        made = announce(position(1, [order(k, 0.001) for k in range(n)], current_return=7.5), list(range(n)))
        assert [a.place for a in made] == list(range(n))
        return {json.loads(a.header)["current_return"] for a in made[:-1]}

    assert 7.5 not in returns(100)
    assert returns(2_000) == {7.5}


def test_silent_orders_are_not_announced() -> None:
    """During the baseline only orders after the log's creation are."""
    moment = Moment(now_ms=T0 + 10_000, late_ms=60_000, silent_until_ms=T0 + 2_000)
    made = announce(position(1, [order(n) for n in (1, 2, 3)]), [0, 1, 2], moment)
    assert [it.place for it in made] == [2]
