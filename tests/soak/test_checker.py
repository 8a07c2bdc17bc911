"""The checker of the soak finds each kind of fault, and distinguishes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.soak.checker import Deliveries, OrdersPlaced, Verdict
from tests.soak.report import BotReport, Kind, Received, Record, TraderConfig
from tests.soak.traders import Trader

HEAD = 5
PLACED = OrdersPlaced(must={f"order-{n}": "position" for n in range(1, HEAD + 1)}, may={"order-0"})
Messages = list[Received]


def message(sequence: int, *, order: int | None = None, **changes: object) -> Received:
    """Seen by intake at 1,000 times its number, received a moment later."""
    at = 1_000 * sequence
    uuid = f"order-{sequence if order is None else order}"
    plain = Received(sequence, Record.number_of(uuid), at, at + 10, at - 10, False, False, 1)
    return plain._replace(**changes)


def whole() -> Messages:
    return [message(n) for n in range(1, HEAD + 1)]


def judged(tmp_path: Path, *bots: Messages, kind: Kind = "plain", **report: object) -> Verdict:
    verdict = Verdict()
    reports = []
    for number, messages in enumerate(bots):
        file = tmp_path / f"{number}.received"
        file.write_bytes(b"".join(map(Record.packed, messages)))
        last = messages[-1].sequence if messages else 0
        reports.append(
            BotReport(number, kind, str(file), last=last, **report)  # type: ignore[arg-type]
        )
    Deliveries(PLACED, verdict, stale_ms=60_000).check(reports, HEAD, doubled=1)
    return verdict


def counts(verdict: Verdict) -> dict[str, int]:
    return {
        name: count
        for name in verdict.__struct_fields__
        if name != "problems" and (count := getattr(verdict, name))
    }


def test_everything_once_and_in_order_is_zeros(tmp_path: Path) -> None:
    """An order that may come but need not is not a fault either."""
    with_it = [message(0), *whole()]
    assert counts(judged(tmp_path, whole(), with_it)) == {}


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda m: [*m[:2], *m[3:]], {"lost": 1, "out_of_order": 1}),
        (lambda m: m[:3], {"behind": 2}),
        (lambda m: [*m[:1], *m[2:3]], {"lost": 1, "out_of_order": 1, "behind": 2}),
        (lambda m: [*m, m[-1]], {"repeated": 2}),
        (
            lambda m: [*m[:-1], m[-1]._replace(order=m[0].order)],
            {"repeated": 1, "out_of_order": 1, "lost": 1},
        ),
        (lambda m: [*m, message(6, order=99)], {"unknown": 1}),
        (lambda m: [*m[:-1], m[-1]._replace(processed_ms=-60_000)], {"unmarked_stale": 1}),
        (lambda m: [*m[:-1], m[-1]._replace(processed_ms=-60_000, late=True)], {}),
    ],
    ids=["hole", "end", "hole and end", "twice", "one for another", "never placed", "late", "marked late"],
)
def test_what_went_wrong_for_one_bot_has_its_count(
    tmp_path: Path, spoil: Callable[[Messages], Messages], found: dict[str, int]
) -> None:
    """An order not received yet is not lost; a skipped one is."""
    assert counts(judged(tmp_path, whole(), spoil(whole()))) == found


def test_when_nobody_got_to_the_end_nothing_beyond_is_lost(tmp_path: Path) -> None:
    """All are behind: the sequences of the remaining orders are unknown."""
    assert counts(judged(tmp_path, whole()[:3], whole()[:4])) == {"behind": 3}


@pytest.mark.parametrize(
    ("kind", "marked", "had_by_others_at", "found"),
    [
        ("plain", False, 4_100, {"unmarked_stale": 1}),
        ("library", False, 4_100, {"unmarked_stale": 1}),
        ("plain", True, 4_100, {}),
        ("plain", False, 4_600, {}),
        ("version 1", False, 4_100, {}),
    ],
)
def test_what_others_had_before_the_connection_must_be_marked_as_replayed(
    tmp_path: Path, kind: Kind, marked: bool, had_by_others_at: int, found: dict[str, int]
) -> None:
    """Intake may see an order long before it can be sent; version 1 has no marks."""
    others, bot = whole(), whole()
    others[3] = others[3]._replace(received=had_by_others_at)
    others[4] = others[4]._replace(received=5_010)
    bot[3] = bot[3]._replace(received=4_700, replay=marked, connected=4_500)
    assert counts(judged(tmp_path, others, bot, kind=kind)) == found


def test_one_of_several_machines_may_be_behind(tmp_path: Path) -> None:
    """An order that it learns of after the connection began is no replay, unless it is very late."""
    for spread_ms, found in ((1_000, {}), (100, {"unmarked_stale": 1})):
        others, bot = whole(), whole()
        others[3] = others[3]._replace(received=4_100)
        bot[3] = bot[3]._replace(received=4_700, connected=4_500)
        verdict, reports = Verdict(), []
        for number, messages in enumerate((others, bot)):
            file = tmp_path / f"{number}.received"
            file.write_bytes(b"".join(map(Record.packed, messages)))
            reports.append(BotReport(number, "plain", str(file), last=HEAD))
        deliveries = Deliveries(PLACED, verdict, stale_ms=60_000, spread_ms=spread_ms)
        deliveries.check(reports, HEAD, doubled=0)
        assert counts(verdict) == found


def test_the_longest_pause_of_each_fault(tmp_path: Path) -> None:
    """Between the first receptions of two orders, of any bot."""
    file = tmp_path / "0.received"
    messages = [message(n)._replace(received=at) for n, at in enumerate((100, 200, 5_200, 5_300), 1)]
    file.write_bytes(b"".join(map(Record.packed, messages)))
    deliveries = Deliveries(PLACED, Verdict(), stale_ms=60_000)
    deliveries.check([BotReport(0, "plain", str(file), last=HEAD)], HEAD, doubled=0)
    times = [("killed", 150, 160), ("killed", 300, 400), ("cut", 5_250, 5_260), ("late", 6_000, 7_000)]
    assert deliveries.pauses_ms(times) == {"killed": 5_000, "cut": 100, "late": 0}


def test_gaps_and_nonsense_are_counted(tmp_path: Path) -> None:
    """The network may cause a malformed frame for each duplication of bytes."""
    assert counts(judged(tmp_path, whole(), broken_off=1)) == {}
    assert counts(judged(tmp_path, whole(), broken_off=3)) == {"nonsense": 2}
    assert counts(judged(tmp_path, whole(), gaps=["epoch 1-9"])) == {"unexplained_gaps": 1}


def test_what_does_not_come_true_is_a_fault() -> None:
    """It is waited for."""
    verdict = Verdict()
    verdict.expect("trouble_not_shown", "seen at the second look", iter([False, True]).__next__)
    assert counts(verdict) == {}
    verdict.expect("trouble_not_shown", "never seen", lambda: False, seconds=0.01)
    assert counts(verdict) == {"trouble_not_shown": 1}


@pytest.mark.parametrize(
    ("again", "unsaved_after", "found"),
    [
        ([(6, False)], None, {}),
        ([(5, True), (6, False)], None, {}),
        ([(5, False), (6, False)], None, {"unmarked_stale": 1}),
        ([(4, True), (5, True), (6, False)], None, {"repeated": 1}),
        ([(3, True), (4, True), (5, True), (6, False)], 3, {}),
        ([(2, True), (3, True), (4, True), (5, True), (6, False)], 3, {"repeated": 1}),
        ([(3, True), (5, True), (6, False)], 3, {"out_of_order": 1}),
        ([(7, False)], None, {"lost": 1, "out_of_order": 1}),
    ],
    ids=["next", "last", "unmarked", "committed", "unsaved", "saved", "hole in repeats", "hole"],
)
def test_a_restarted_trader_gets_again_what_it_had_not_saved(
    tmp_path: Path, again: list[tuple[int, bool]], unsaved_after: int | None, found: dict[str, int]
) -> None:
    """The last order, which it may not have committed; more while its cursor could not be saved."""
    verdict = Verdict()
    config = TraderConfig("", "", "alias", "", str(tmp_path))
    trader = Trader(0, config, tmp_path / "trader.received", verdict)
    trader.take(["began", 0])
    for n in range(1, HEAD + 1):
        trader.take(["order", 0, n, f"order-{n}", 0, 0, False, False])
    trader.unsaved_after = unsaved_after
    trader.take(["began", 0])
    for n, replay in again:
        trader.take(["order", 0, n, f"order-{n}", 0, 0, False, replay])
    placed = OrdersPlaced(must=PLACED.must | {"order-6": "position"}, may={"order-7"})
    Deliveries(placed, verdict, stale_ms=60_000).check([trader.close()], again[-1][0], doubled=0)
    assert counts(verdict) == found
