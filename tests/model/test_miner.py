"""A miner's entry: aggregates and sort order (docs/accounting.md, 5)."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from ptn_api.model.accounting import rebuild
from ptn_api.model.miner import (
    DEFAULT_LOOKBACK_DAYS,
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
from ptn_api.model.tiers import TIER_LAG_MS, Tier
from tests import factories
from tests.model.expected import golden, same, shared
from tests.model.make_data import DAY, NOW


def closed(return_at_close: float, *, opened: int = NOW - DAY, lasted: int = 60_000) -> Outcome:
    return Outcome(opened, opened + lasted, return_at_close)


@pytest.mark.parametrize("scenario", [0, 1, 2])
def test_the_published_aggregates(scenario: int) -> None:
    """Of every miner in every tier, except for eliminated ones, who had none by an older rule."""
    case = shared("golden/tiers.json.gz")["scenarios"][scenario]
    now = case["now_ms"]
    eliminated = {e["hotkey"] for e in case["input"]["eliminations_json"]["eliminations"]}
    for tier, miners in case["expected"]["tiers"].items():
        for hotkey, bodies in case["input"]["positions_on_disk"].items():
            if hotkey not in eliminated:
                entry = entry_of([parse(body) for body in bodies], int(tier), now, lookback_days=90)
                wanted = {k: miners[hotkey][k] for k in entry.__struct_fields__}
                assert same(msgspec.structs.asdict(entry), wanted)


@pytest.mark.parametrize("days", [90, 120, 180])
def test_the_published_lookbacks(days: int) -> None:
    """All three that validators have used, at tier 100, to the millisecond."""
    wanted = golden("aggregates")
    for hotkey, bodies in golden("tiers")["files"].items():
        entry = entry_of([parse(body) for body in bodies], 100, wanted["now_ms"], lookback_days=days)
        assert same(msgspec.structs.asdict(entry), wanted["expected"][str(days)][hotkey]), hotkey


def test_archived_positions_count_with_the_others() -> None:
    """Where a document lists both."""
    wanted, files = golden("aggregates"), golden("tiers")["files"]
    for hotkey, archived in wanted["archived"].items():
        positions = [parse(body) for body in files.get(hotkey, []) + archived]
        entry = entry_of(positions, 100, wanted["now_ms"])
        assert same(msgspec.structs.asdict(entry), wanted["expected"]["180_with_archived"][hotkey]), hotkey


def parse(body: dict[str, Any]) -> Position:
    return parse_position(json.dumps(body).encode())[0]


def entry_of(
    positions: list[Position], tier: Tier, now_ms: int, *, lookback_days: float = DEFAULT_LOOKBACK_DAYS
) -> Aggregates:
    shown = []
    for position in positions:
        what = appearance(position, tier, now_ms - TIER_LAG_MS)
        if not isinstance(what, Hidden):
            outcome = Outcome.of(what.position.state if isinstance(what, Rebuilt) else position)
            shown.append((position_order(outcome.close_ms, position.position_uuid), outcome))
    ordered = [outcome for _, outcome in sorted(shown, key=lambda pair: pair[0])]
    return aggregates(ordered, now_ms, lookback_days=lookback_days)


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


@pytest.mark.parametrize("days", [180, 90, 0.5])
def test_returns_of_the_window_go_back_so_many_days(days: float) -> None:
    """By the opening, strictly after the window's start; older positions stay in the all-time returns."""
    for age, recent in ((days * DAY, 1.0), (days * DAY - 1, 1.1)):
        added = aggregates([closed(1.1, opened=int(NOW - age))], NOW, lookback_days=days)
        assert (added.thirty_day_returns, added.all_time_returns) == (recent, 1.1)


def test_when_the_window_moves_past_a_position() -> None:
    """The first millisecond at which the aggregates differ; positions that do not count are ignored."""
    shown = [closed(1.1, opened=NOW), closed(1.2, opened=NOW + 5), closed(9.0, opened=NOW - 9, lasted=1)]
    first = next_aggregate_change_ms(shown, NOW, lookback_days=90)
    assert first == NOW + 90 * DAY
    assert aggregates(shown, first - 1, lookback_days=90) == aggregates(shown, NOW, lookback_days=90)
    assert aggregates(shown, first, lookback_days=90).thirty_day_returns == 1.2
    assert next_aggregate_change_ms(shown, first, lookback_days=90) == first + 5
    assert next_aggregate_change_ms(shown, first + 5, lookback_days=90) is None


def test_an_outcome_is_taken_from_a_file_or_a_rebuild() -> None:
    """An open position has no close_ms, even if a file says 0."""
    body = factories.position(1, [factories.order(1)], close_ms=0)
    position, _ = parse_position(json.dumps(body).encode())
    assert Outcome.of(position) == Outcome(position.open_ms, None, 1.009)
    rebuilt = rebuild(position)
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
