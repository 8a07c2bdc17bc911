"""The contract of every log: orders and sequences (docs/architecture.md, "The event log")."""

from __future__ import annotations

import json
from collections.abc import Iterator

import msgspec
import pytest

from ptn_api.errors import LogPrunedError
from ptn_api.event_log import (
    Change,
    Event,
    EventLogWriter,
    Head,
    SourceStatus,
)
from tests.event_log.conftest import MakeLog
from tests.event_log.reading import DAY, FIRST, NOW, announced, numbers, order_numbers, removal
from tests.factories import MINER, OTHER_MINER, T0, order, position, uuid, written

# --- a new log --------------------------------------------------------------------------------------------


def test_a_new_log_counts_from_its_creation_time(make_log: MakeLog) -> None:
    """The head is the creation time in milliseconds, the floor is one above, and the log is empty."""
    log = make_log()
    assert log.created_ms == T0
    assert log.head() == Head(sequence=T0, revision=0)
    assert log.floor() == T0 + 1
    assert log.read(log.head().sequence, 10) == []
    assert not log.ready()
    assert log.source() == SourceStatus()
    assert log.oldest_revision() == 0


def test_a_log_of_one_machine_is_never_behind(log: EventLogWriter) -> None:
    """Only a copy of another machine's log can be; right after a change it is at most seconds behind."""
    log.append([written(position(1, [order(1)]))], NOW)
    assert log.behind_ms() is not None


def test_every_new_log_has_a_different_epoch(make_log: MakeLog) -> None:
    """A cursor of one log is not valid in another."""
    first, second = make_log(), make_log()
    assert first.epoch != second.epoch
    assert len(first.epoch) == 32


def test_baseline_makes_state_without_events(make_log: MakeLog) -> None:
    """Orders from before the log's creation are served and not announced."""
    log = make_log()
    head = log.baseline([written(position(1, [order(-2), order(-1)])), written(position(2, [order(0)]))], NOW)
    assert head == Head(sequence=FIRST - 1, revision=2)
    assert log.ready()
    assert announced(log) == []
    assert [p.position_uuid for p in log.positions()] == [uuid(1), uuid(2)]
    assert log.seen(MINER, [uuid(998), uuid(999), uuid(1000), uuid(1001)]) == {
        uuid(998),
        uuid(999),
        uuid(1000),
    }


def test_baseline_announces_orders_processed_after_the_creation(make_log: MakeLog) -> None:
    """An order that arrived during the first scan is new, and the baseline announces it."""
    log = make_log()
    log.baseline([written(position(1, [order(-1), order(1), order(2)]))], NOW)
    assert numbers(log) == [1, 2]
    assert [event.sequence for event in announced(log)] == [FIRST, FIRST + 1]
    assert [event.late for event in announced(log)] == [False, False]


def test_baseline_order_before_an_old_one_is_late(make_log: MakeLog) -> None:
    """Orders taken silently count as seen: a new order before one of them is late."""
    log = make_log()
    log.baseline([written(position(1, [order(-2), order(2), order(-1), order(3)]))], NOW)
    assert numbers(log) == [2, 3]
    assert [event.late for event in announced(log)] == [True, False]


def test_an_interrupted_baseline_is_repeated(make_log: MakeLog) -> None:
    """Nothing of it was committed, so the next baseline starts from an empty log."""
    log = make_log()

    def interrupted() -> Iterator[Change]:
        yield written(position(1, [order(0)]))
        raise InterruptedError("killed halfway")

    with pytest.raises(InterruptedError):
        log.baseline(interrupted(), NOW)
    assert not log.ready()
    assert log.head() == Head(sequence=FIRST - 1, revision=0)
    assert list(log.positions()) == []
    log.baseline([written(position(1, [order(0)]))], NOW)
    assert log.ready()
    assert log.head().revision == 1
    assert announced(log) == []


def test_only_new_orders_are_announced_after_the_baseline(make_log: MakeLog) -> None:
    """A position of the baseline that gains an order announces that order."""
    log = make_log()
    log.baseline([written(position(1, [order(-1)]))], NOW)
    log.append([written(position(1, [order(-1), order(1)]))], NOW)
    assert numbers(log) == [1]


def test_orders_from_before_the_creation_are_never_announced(log: EventLogWriter) -> None:
    """Also if their file becomes readable, or a synchronisation inserts them, long after the baseline."""
    log.append([written(position(1, [order(1, at=T0 - DAY), order(2, at=T0)]))], NOW)
    log.append([written(position(2, [order(3, at=T0), order(4, at=T0 + 1)]))], NOW + DAY)
    log.append([written(position(1, [order(5, at=T0 - 1), order(1, at=T0 - DAY), order(2, at=T0)]))], NOW)
    assert numbers(log) == [4]
    assert announced(log)[0].late
    assert log.seen(MINER, [uuid(1001), uuid(1002), uuid(1003), uuid(1005)]) == {
        uuid(1001),
        uuid(1002),
        uuid(1003),
        uuid(1005),
    }
    assert len(list(log.positions())) == 2


def test_orders_of_a_downtime_are_announced_late(log: EventLogWriter) -> None:
    """Orders that were placed after the log's creation, while the API was down."""
    log.append([written(position(1, [order(0, at=T0 + 1)]))], NOW + DAY)
    (event,) = announced(log)
    assert event.late


def test_a_second_baseline_is_an_append(log: EventLogWriter) -> None:
    """Once the baseline is complete, another first scan is news and loses no order."""
    log.baseline([written(position(1, [order(1), order(2)]))], NOW)
    assert numbers(log) == [1, 2]


def test_an_order_without_a_leverage_is_an_order(log: EventLogWriter) -> None:
    """It is announced once. A leverage that is added later is a conflict, like any other change of it."""
    change = written(position(1, [order(1), order(2)]))
    msgspec.structs.force_setattr(change.position.orders[1], "leverage", None)
    log.append([change], NOW)
    log.append([change, written(position(2, [order(3)]))], NOW)
    assert numbers(log) == [1, 2, 3]
    assert log.counters()["conflicts"] == 0
    log.append([written(position(1, [order(1), order(2, 0.3)]))], NOW)
    assert numbers(log) == [1, 2, 3]
    assert log.counters()["conflicts"] == 1


def test_append_before_the_baseline_keeps_history_silent(make_log: MakeLog) -> None:
    """An order that arrives before the first scan is announced, the orders before it are not."""
    log = make_log()
    log.append([written(position(1, [order(-1), order(1)]))], NOW)
    assert numbers(log) == [1]
    assert not log.ready()


# --- announcing -------------------------------------------------------------------------------------------


def test_an_event_is_one_order(log: EventLogWriter) -> None:
    """The event of a position's newest order contains everything that a message needs."""
    body = position(1, [order(1), order(2)])
    log.append([written(body, extra=b'{"ticket":7}')], NOW)
    first, second = announced(log)
    assert second == Event(
        sequence=FIRST + 1,
        revision=1,
        timestamp_ms=NOW,
        miner_hotkey=MINER,
        position_uuid=uuid(1),
        trade_pair="BTCUSD",
        order_uuid=uuid(1002),
        processed_ms=T0 + 2000,
        order=json.dumps(order(2), separators=(",", ":")).encode(),
        header=written(body).text.header,
        orders_at=written(body).text.orders_at,
        n_orders=2,
        extra=b'{"ticket":7}',
        orders=written(body).text.orders,
    )
    assert (first.sequence, first.n_orders, len(first.orders)) == (FIRST, 1, 1)


def test_events_can_be_read_without_orders(log: EventLogWriter) -> None:
    """A caller that needs no orders of the position does not pay for them."""
    log.append([written(position(1, [order(1), order(2)]))], NOW)
    (event, _) = log.read(FIRST - 1, 10, orders=False)
    assert event.orders == ()
    assert event.order_uuid == uuid(1001)


def test_each_of_several_new_orders_is_an_event_with_the_position_as_of_it(log: EventLogWriter) -> None:
    """Event i shows the state rebuilt up to order i, the last one the file's own summary."""
    body = position(1, [order(1, 0.1), order(2, 0.2), order(3, -0.1)], current_return=1.5)
    log.append([written(body)], NOW)
    headers = [json.loads(event.header) for event in announced(log)]
    assert [round(header["net_leverage"], 9) for header in headers] == [0.1, 0.3, 0.2]
    assert [header["current_return"] == 1.5 for header in headers] == [False, False, True]
    assert [list(header) for header in headers] == [list(body)] * 3
    assert [order_numbers(event.orders) for event in announced(log)] == [[1], [1, 2], [1, 2, 3]]


def test_order_inserted_before_a_seen_one_is_late_with_the_files_summary(log: EventLogWriter) -> None:
    """A synchronisation may insert an order in the middle: it is announced once, marked late."""
    log.append([written(position(1, [order(1), order(3)]))], NOW)
    log.append([written(position(1, [order(1), order(2), order(3)], current_return=1.25))], NOW)
    event = announced(log)[-1]
    assert event.late
    assert json.loads(event.header)["current_return"] == 1.25
    assert order_numbers(event.orders) == [1, 2]
    assert event.n_orders == 2


def test_order_processed_long_ago_is_late(make_log: MakeLog) -> None:
    """An order first seen more than late_ms after its time is late; one exactly that old is not."""
    log = make_log(late_ms=10_000)
    log.baseline([], T0)
    log.append([written(position(1, [order(1, at=NOW - 10_001)]))], NOW)
    log.append([written(position(2, [order(2, at=NOW - 10_000)]))], NOW)
    assert [event.late for event in announced(log)] == [True, False]


def test_events_of_one_append_are_sorted_as_documented(log: EventLogWriter) -> None:
    """By largest processed_ms so far in the list, then position_uuid, then index in the list."""
    log.append(
        [
            written(position(3, [order(7, at=T0 + 500)])),
            written(position(2, [order(1, at=T0 + 900), order(2, at=T0 + 100), order(3, at=T0 + 950)])),
            written(position(1, [order(4, at=T0 + 900)], miner=OTHER_MINER)),
        ],
        NOW,
    )
    assert numbers(log) == [7, 4, 1, 2, 3]


def test_a_position_written_twice_in_one_append_keeps_its_order(log: EventLogWriter) -> None:
    """Two orders faster than the writer: the event of the later text follows, with that text."""
    log.append(
        [
            written(position(1, [order(1, at=T0 + 900)], current_return=1.1)),
            written(position(1, [order(1, at=T0 + 900), order(2, at=T0 + 100)], current_return=1.2)),
        ],
        NOW,
    )
    first, second = announced(log)
    assert [json.loads(event.header)["current_return"] for event in (first, second)] == [1.1, 1.2]
    assert [first.revision, second.revision] == [1, 2]
    assert numbers(log) == [1, 2]


def test_an_order_corrected_within_one_append_is_announced_once(log: EventLogWriter) -> None:
    """The same order in two texts of one append is one event."""
    log.append(
        [written(position(1, [order(1)])), written(position(1, [order(1, price=99.0)]))],
        NOW,
    )
    assert numbers(log) == [1]


def test_append_is_idempotent(log: EventLogWriter) -> None:
    """Writing the same text again changes nothing."""
    change = written(position(1, [order(1)]))
    head = log.append([change], NOW)
    assert log.append([change], NOW + 5) == head
    assert log.append([], NOW) == head
    assert numbers(log) == [1]


def test_a_refresh_makes_a_revision_and_announces_nothing(log: EventLogWriter) -> None:
    """The validator rewrites returns every minute: a change of the state, not an order."""
    log.append([written(position(1, [order(1)]))], NOW)
    head = log.append([written(position(1, [order(1)], current_return=1.3))], NOW)
    assert head == Head(sequence=FIRST, revision=2)
    assert numbers(log) == [1]


def test_uuid_twice_in_one_list_is_one_event(log: EventLogWriter) -> None:
    """The first of the repeated orders counts."""
    log.append([written(position(1, [order(1), order(1, 0.3), order(2)]))], NOW)
    assert numbers(log) == [1, 2]
    assert log.counters()["conflicts"] == 1


def test_same_uuid_of_another_miner_is_another_order(log: EventLogWriter) -> None:
    """An order's identity is (miner_hotkey, order_uuid)."""
    log.append([written(position(1, [order(1)]))], NOW)
    log.append([written(position(2, [order(1)], miner=OTHER_MINER))], NOW)
    assert numbers(log) == [1, 1]


def test_seen_orders_outlive_removal_split_and_restored_backup(log: EventLogWriter) -> None:
    """No change of the files, by a synchronisation or an operator, announces an order twice."""
    log.append([written(position(1, [order(1), order(2), order(3)]))], NOW)
    log.append([removal(1)], NOW)
    log.append([written(position(1, [order(1), order(2), order(3)]))], NOW)  # back
    log.append([written(position(1, [order(1)])), written(position(2, [order(2), order(3)]))], NOW)  # split
    log.append([written(position(1, [])), removal(2)], NOW)
    log.append([written(position(1, [order(1), order(2)]))], NOW)  # an older backup
    assert numbers(log) == [1, 2, 3]


def test_seen_orders_outlive_pruning(make_log: MakeLog) -> None:
    """An announced order is not announced again after its event and tombstone are pruned."""
    log = make_log(retention_ms=DAY)
    log.baseline([], T0)
    log.append([written(position(1, [order(1)]))], NOW)
    log.append([removal(1)], NOW)
    log.prune(NOW + 3 * DAY)
    log.append([written(position(1, [order(1)]))], NOW + 3 * DAY)
    assert announced(log) == []
    assert log.counters()["events"] == 1


def test_same_uuid_with_another_time_or_leverage_is_counted(log: EventLogWriter) -> None:
    """The first version stays in the stream; the conflict is counted once, not at every refresh."""
    log.append([written(position(1, [order(1)]))], NOW)
    log.append([written(position(1, [order(1, 0.7)]))], NOW)
    log.append([written(position(1, [order(1, 0.7)], current_return=1.2))], NOW)
    assert log.counters()["conflicts"] == 1
    assert numbers(log) == [1]
    log.append([written(position(1, [order(1, 0.1, at=T0)]))], NOW)
    assert log.counters()["conflicts"] == 2
    (event,) = announced(log)
    assert json.loads(event.order)["leverage"] == 0.1
    assert event.processed_ms == T0 + 1000


def test_a_corrected_price_is_not_a_conflict(log: EventLogWriter) -> None:
    """Validators correct prices and quotes every day."""
    log.append([written(position(1, [order(1)]))], NOW)
    log.append([written(position(1, [order(1, price=101.5, bid=1.0)]))], NOW)
    assert log.counters() == {"events": 1, "late": 0, "conflicts": 0, "pruned": 0, "skipped": 0}


def test_events_of_a_position_that_cannot_be_rebuilt_have_the_files_summary(log: EventLogWriter) -> None:
    """Every event shows the file's values then."""
    body = position(1, [order(1), order(2)], trade_pair="WHATEVER", current_return=1.7)
    log.append([written(body)], NOW)
    assert [json.loads(event.header)["current_return"] for event in announced(log)] == [1.7, 1.7]
    assert [event.trade_pair for event in announced(log)] == ["WHATEVER", "WHATEVER"]


def test_a_flat_appended_by_the_rebuild_is_left_out(log: EventLogWriter) -> None:
    """The FLAT of a liquidation is announced when the file contains it, not before."""
    fatal = order(2, 0.1, price=0.0001)
    flat = order(3, 0.0, order_uuid=uuid(1)[::-1], src=1, price=0, processed_ms=fatal["processed_ms"])
    log.append([written(position(1, [order(1, 5.0), fatal, flat], closed=True))], NOW)
    events = announced(log)
    assert [len(event.orders) for event in events] == [1, 2, 3]
    liquidated = json.loads(events[1].header)
    assert liquidated["is_closed_position"]
    assert liquidated["current_return"] == 0
    assert events[2].order_uuid == uuid(1)[::-1]


# --- sequences and pages ----------------------------------------------------------------------------------


def test_sequences_grow_by_one(log: EventLogWriter) -> None:
    """Many appends leave no gap and repeat no sequence."""
    for n in range(1, 30):
        log.append([written(position(p, [order(100 * p + k) for k in range(n)])) for p in (1, 2)], NOW)
    assert [event.sequence for event in announced(log)] == list(range(FIRST, FIRST + 58))
    assert log.head().sequence == FIRST + 57


def test_events_are_read_in_pages(log: EventLogWriter) -> None:
    """At most `limit` events after `after`, none beyond the head."""
    log.append([written(position(1, [order(n) for n in range(1, 8)]))], NOW)
    assert [e.sequence for e in log.read(FIRST + 1, 3)] == [FIRST + 2, FIRST + 3, FIRST + 4]
    assert log.read(FIRST + 6, 3) == []
    assert log.read(FIRST + 100, 3) == []
    assert log.first_timestamp_after(FIRST + 5) == NOW
    assert log.first_timestamp_after(FIRST + 6) is None


def test_pruning_by_age_moves_the_floor(make_log: MakeLog) -> None:
    """Events older than the retention are deleted; reading from before the floor is an error."""
    log = make_log(retention_ms=DAY)
    log.baseline([], T0)
    log.append([written(position(1, [order(1)]))], NOW)
    log.append([written(position(2, [order(2), order(3)]))], NOW + DAY)
    assert log.prune(NOW + DAY) == FIRST
    assert log.prune(NOW + DAY + 1) == FIRST + 1
    assert log.floor() == FIRST + 1
    with pytest.raises(LogPrunedError):
        log.read(FIRST - 1, 10)
    assert [event.sequence for event in log.read(FIRST, 10)] == [FIRST + 1, FIRST + 2]
    assert log.prune(NOW + 9 * DAY) == FIRST + 3
    assert log.read(FIRST + 2, 10) == []
    assert log.counters()["pruned"] == 3
    assert len(list(log.positions())) == 2


def test_new_orders_are_announced_while_the_clock_is_behind_the_logs_creation(log: EventLogWriter) -> None:
    """Set back by mistake, or set right after it was ahead: the validator's orders have its times, too."""
    now_ms = T0 - DAY
    log.append([written(position(1, [order(1, at=now_ms - 2 * 60_000), order(2, at=now_ms - 5)]))], now_ms)
    assert numbers(log) == [2]
    assert [event.late for event in announced(log)] == [False]
    log.append([written(position(2, [order(3, at=now_ms - 5)]))], NOW)
    assert numbers(log) == [2]


@pytest.mark.parametrize(
    ("times", "prune_ms"),
    [((NOW + 9 * DAY, NOW, NOW), NOW + DAY + 1), ((NOW, NOW, NOW - 9 * DAY), NOW)],
    ids=["set forward", "set back"],
)
def test_pruning_after_the_clock_was_wrong_loses_no_event(
    make_log: MakeLog, times: tuple[int, int, int], prune_ms: int
) -> None:
    """An event whose order has been removed since needs to know where it was, however old that seems."""
    log = make_log(retention_ms=DAY)
    log.baseline([], T0)
    log.append([written(position(2, [order(3)]))], times[0])
    log.append([written(position(1, [order(1), order(2)]))], times[1])
    log.append([written(position(1, [order(1)]))], times[2])
    assert log.prune(prune_ms) == FIRST
    assert [event.sequence for event in announced(log)] == [FIRST, FIRST + 1, FIRST + 2]
    assert [len(event.orders) for event in announced(log)] == [1, 1, 2]
    assert log.prune(NOW + 11 * DAY) == FIRST + 3
    assert log.damaged() == 0


def test_sequences_continue_after_everything_was_pruned(make_log: MakeLog) -> None:
    """A sequence is never reused, not even without any event left."""
    log = make_log(retention_ms=DAY)
    log.baseline([], T0)
    log.append([written(position(1, [order(1)]))], NOW)
    log.prune(NOW + 2 * DAY)
    log.append([written(position(1, [order(1), order(2)]))], NOW + 2 * DAY)
    assert [event.sequence for event in announced(log)] == [FIRST + 1]


def test_pruning_by_size_keeps_the_newest(make_log: MakeLog) -> None:
    """The oldest events are deleted until the rest fits."""
    log = make_log(retention_bytes=10_000)
    log.baseline([], T0)
    for n in range(1, 3001, 500):
        orders = [order(k, bid=None, ask=None) for k in range(n, n + 500)]
        log.append([written(position(n, orders))], NOW)
    floor = log.prune(NOW)
    kept = announced(log)
    assert FIRST + 2980 < floor <= FIRST + 2999
    assert [event.sequence for event in kept] == list(range(floor, FIRST + 3000))
    assert sum(len(e.order) + len(e.header) for e in kept) < 10_000
