"""A miner's entry: aggregates and sort order (docs/accounting.md, 5)."""

from __future__ import annotations

import json

import msgspec
import pytest

from ptn_api.model.accounting import rebuild
from ptn_api.model.miner import (
    Aggregates,
    MinerEntry,
    Outcome,
    aggregates,
    miner_order,
    next_aggregate_change_ms,
    position_order,
)
from ptn_api.model.position import Position, parse_position
from ptn_api.model.rendering import Hidden, Rebuilt, appearance
from ptn_api.model.tiers import TIER_LAG_MS
from tests import factories
from tests.model.expected import same, shared
from tests.model.make_data import DAY, NOW


def closed(return_at_close: float, *, opened: int = NOW - DAY, lasted: int = 60_000) -> Outcome:
    return Outcome(opened, opened + lasted, return_at_close)


@pytest.mark.parametrize("scenario", [0, 1, 2])
def test_the_published_aggregates(scenario: int) -> None:
    """Of every miner in every tier, and the miners' order."""
    case = shared("golden/tiers.json.gz")["scenarios"][scenario]
    now = case["now_ms"]
    eliminated = {e["hotkey"] for e in case["input"]["eliminations_json"]["eliminations"]}
    for tier, miners in case["expected"]["tiers"].items():
        for hotkey, bodies in case["input"]["positions_on_disk"].items():
            positions = [parse_position(json.dumps(body).encode())[0] for body in bodies]
            entry = entry_of(positions, int(tier), now, eliminated=hotkey in eliminated)
            assert same(
                msgspec.structs.asdict(entry), {k: miners[hotkey][k] for k in entry.__struct_fields__}
            )
    live = case["expected"]["tiers"]["100"]
    returns = [live[hotkey]["thirty_day_returns"] for hotkey in case["expected"]["miner_order"]]
    ordered = sorted(miner_order(entry["thirty_day_returns"], hotkey) for hotkey, entry in live.items())
    assert returns == [-key for key, _ in ordered]


def entry_of(positions: list[Position], tier: int, now_ms: int, *, eliminated: bool) -> Aggregates:
    shown = []
    for position in positions:
        what = appearance(position, tier, now_ms - TIER_LAG_MS)
        if not isinstance(what, Hidden):
            outcome = Outcome.of(what.position.state if isinstance(what, Rebuilt) else position)
            shown.append((position_order(outcome.close_ms, position.position_uuid), outcome))
    return aggregates([o for _, o in sorted(shown, key=lambda pair: pair[0])], now_ms, eliminated=eliminated)


def test_aggregates_by_hand() -> None:
    """Two wins and a loss; a position without gain is not a win."""
    added = aggregates([closed(1.1), closed(0.9), closed(1.2), closed(1.0)], NOW)
    assert added == Aggregates(
        thirty_day_returns=1.1 * 0.9 * 1.2,
        all_time_returns=1.1 * 0.9 * 1.2,
        n_positions=4,
        percentage_profitable=0.5,
    )


def test_products_are_taken_in_shown_order() -> None:
    """Float multiplication is not associative, and users compare digits."""
    factors = [1.1, 0.7, 1.3]
    assert aggregates(map(closed, factors), NOW).all_time_returns == 1.1 * 0.7 * 1.3
    assert 1.1 * 0.7 * 1.3 != 1.3 * 0.7 * 1.1


@pytest.mark.parametrize(("lasted", "counts"), [(59_999, 0), (60_000, 1)])
def test_a_position_counts_from_sixty_seconds(lasted: int, counts: int) -> None:
    """To the millisecond."""
    assert aggregates([closed(1.1, lasted=lasted)], NOW).n_positions == counts


def test_open_positions_do_not_count() -> None:
    """At any return."""
    assert aggregates([Outcome(0, None, 2.0)], NOW) == Aggregates()


@pytest.mark.parametrize(("age", "recent"), [(90 * DAY, 1.1), (90 * DAY + 1, 1.0)])
def test_returns_of_the_window_go_back_ninety_days(age: int, recent: float) -> None:
    """By the opening; older positions stay in the all-time returns."""
    added = aggregates([closed(1.1, opened=NOW - age)], NOW)
    assert (added.thirty_day_returns, added.all_time_returns) == (recent, 1.1)


def test_when_the_window_moves_past_a_position() -> None:
    """The first millisecond at which the aggregates differ; positions that do not count are ignored."""
    shown = [closed(1.1, opened=NOW), closed(1.2, opened=NOW + 5), closed(9.0, opened=NOW - 9, lasted=1)]
    first = next_aggregate_change_ms(shown, NOW)
    assert first == NOW + 90 * DAY + 1
    assert aggregates(shown, first - 1) == aggregates(shown, NOW)
    assert aggregates(shown, first).thirty_day_returns == 1.2
    assert next_aggregate_change_ms(shown, first) == first + 5
    assert next_aggregate_change_ms(shown, first + 5) is None


def test_an_eliminated_miner_has_empty_aggregates() -> None:
    """In every tier, at once; the positions stay."""
    assert aggregates([closed(1.1)], NOW, eliminated=True) == Aggregates() == aggregates([], NOW)


def test_an_outcome_is_taken_from_a_file_or_a_rebuild() -> None:
    """An open position has no close_ms, even if a file says 0."""
    body = factories.position(1, [factories.order(1)], close_ms=0)
    position, _ = parse_position(json.dumps(body).encode())
    assert Outcome.of(position) == Outcome(position.open_ms, None, 1.009)
    rebuilt = rebuild(position.orders, position.trade_pair, position.position_uuid)
    assert rebuilt is not None
    assert Outcome.of(rebuilt.state) == Outcome(position.orders[0].processed_ms, None, 1.0)


def test_positions_are_sorted_by_close_with_open_ones_last() -> None:
    """Ties by uuid."""
    positions = [(None, "a"), (7, "c"), (9, "a"), (None, "0"), (7, "b")]
    ordered = sorted(positions, key=lambda position: position_order(*position))
    assert ordered == [(7, "b"), (7, "c"), (9, "a"), (None, "0"), (None, "a")]


def test_miners_are_sorted_best_first() -> None:
    """Ties by hotkey."""
    miners = [(1.0, "b"), (1.2, "c"), (1.0, "a"), (0.0, "d")]
    assert sorted(miners, key=lambda miner: miner_order(*miner)) == [
        (1.2, "c"),
        (1.0, "a"),
        (1.0, "b"),
        (0.0, "d"),
    ]


def test_a_served_entry_is_read() -> None:
    """With positions, and without `tier`, as in the checkpoint."""
    body = {"positions": [factories.position(1, [factories.order(1)])], "n_positions": 3, "new_key": 1}
    entry = msgspec.convert(body, MinerEntry)
    assert (entry.positions[0].orders[0].price, entry.n_positions, entry.tier) == (101.0, 3, None)


def test_a_miner_of_the_live_network() -> None:
    """In an entry as a validator served it, the aggregates follow from the positions."""
    for name in ("miner_2025_ck", "miner_2025_tm"):
        document = shared(f"real/{name}.json.gz")
        entry = msgspec.convert(document, MinerEntry)
        shown = sorted(entry.positions, key=lambda p: position_order(Outcome.of(p).close_ms, p.position_uuid))
        added = aggregates(map(Outcome.of, shown), shown[-1].orders[-1].processed_ms)
        assert added.n_positions == entry.n_positions
        assert same(added.all_time_returns, entry.all_time_returns)
        assert same(added.percentage_profitable, entry.percentage_profitable)
