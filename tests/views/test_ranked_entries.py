"""A document joined in groups equals one joined from scratch, and shares what has not changed."""

from __future__ import annotations

import gzip
from typing import Any
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from ptn_api.event_log import PositionRemoved
from ptn_api.model.tiers import TIERS
from ptn_api.views import ranked_entries
from ptn_api.views.miner_view import TAILS
from ptn_api.views.positions import PositionViews
from ptn_api.views.ranked_entries import joined
from tests.factories import order, position, uuid, written
from tests.memory_log import MemoryLog
from tests.properties import tries
from tests.rest.serving import DAY, HOUR, NOW, FakeClock, encoded

MINERS = [f"5Miner{number}" for number in range(11)]

changes = st.tuples(
    st.integers(0, len(MINERS) - 1),
    st.sampled_from([None, 0.5, 0.9, 1.0, 1.1]),  # None: the miner's position is removed
    st.sampled_from([HOUR, 3 * DAY]),
)


def closed(number: int, current_return: float, age_ms: int) -> dict[str, Any]:
    orders = [order(2 * number, at=NOW - age_ms), order(2 * number + 1, 0.0, at=NOW - age_ms + 1)]
    body = position(number, orders, miner=MINERS[number], closed=True)
    return body | {"current_return": current_return, "return_at_close": current_return}


def views_over(log: MemoryLog) -> PositionViews:
    views = PositionViews(log, FakeClock())
    for hotkey in MINERS:
        views.build(hotkey)
    return views


@given(st.lists(st.lists(changes, min_size=1, max_size=4), max_size=8))
@tries(60)
def test_after_any_changes_it_equals_one_joined_from_scratch(rounds: list[list[Any]]) -> None:
    """In every tier, its tag included, and the checkpoint's document."""
    log = MemoryLog()
    log.baseline([written(closed(number, 1.0, HOUR)) for number in range(0, len(MINERS), 2)], NOW)
    with mock.patch.object(ranked_entries, "_GROUP", 3):
        views = views_over(log)
        for one_round in rounds:
            for number, current_return, age_ms in one_round:
                if current_return is None:
                    change: Any = PositionRemoved(miner_hotkey=MINERS[number], position_uuid=uuid(number))
                else:
                    change = written(closed(number, current_return, age_ms))
                log.append([change], NOW)
                views.build(MINERS[number])
            fresh = views_over(log)
            for tier in TIERS:
                grouped, flat = views.snapshot(tier), joined(tier, fresh.ranked(tier), TAILS[tier])
                assert [view.hotkey for view in views.ranked(tier)] == [
                    view.hotkey for view in fresh.ranked(tier)
                ]
                assert encoded(grouped) == encoded(flat)
                assert gzip.decompress(encoded(grouped, "gzip")) == encoded(flat)
                assert grouped.tag == flat.tag == fresh.snapshot(tier).tag
            assert encoded(views.for_checkpoint()) == encoded(fresh.for_checkpoint())


def test_a_change_leaves_the_other_groups_as_they_are() -> None:
    """They are the same objects, with lengths, checksums and compressed forms."""
    log = MemoryLog()
    log.baseline([written(closed(number, 1.0, HOUR)) for number in range(len(MINERS))], NOW)
    with mock.patch.object(ranked_entries, "_GROUP", 3):
        views = views_over(log)
        before = views.snapshot(100).runs
        log.append([written(closed(7, 1.0, 2 * HOUR))], NOW)
        views.build(MINERS[7])
        after = views.snapshot(100).runs
    assert [one is other for one, other in zip(before, after, strict=True)].count(False) == 1
