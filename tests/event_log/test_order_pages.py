"""Pages of orders: newest first, complete, the same in every copy; and what older logs and writers lack."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from ptn_api.cluster.commit import TableRows, decode_part, decode_rows, encode_part, encode_rows
from ptn_api.event_log import (
    EventLog,
    EventLogWriter,
    open_reader,
    open_writer,
    order_pages,
    schema,
    sqlite_reader,
)
from ptn_api.event_log.contract import LoggedOrder, OrderKey
from ptn_api.event_log.damage import row_checksum
from ptn_api.event_log.database import connect_writer, log_path
from tests.cluster.machines import begin, content, machine
from tests.cluster.memory_broker import MemoryBroker
from tests.event_log.conftest import MakeLog
from tests.event_log.reading import DAY, NOW, removal
from tests.factories import EURUSD, MINER, OTHER_MINER, T0, order, position, uuid, written
from tests.properties import tries


def pages(log: EventLog, size: int = 2, **filters: Any) -> list[LoggedOrder]:
    """All orders, page by page."""
    found: list[LoggedOrder] = []
    before: OrderKey | None = None
    while True:
        page, before = log.orders_before(before, size, **filters)
        assert len(page) <= size
        found += page
        if before is None:
            return found


def numbers(orders: list[LoggedOrder]) -> list[int]:
    return [int(one.order_uuid[-12:], 16) - 1000 for one in orders]


def fill(log: EventLogWriter) -> None:
    """Two miners, two pairs, and an order of which two positions have a copy."""
    log.append([written(position(1, [order(1), order(4)]))], NOW)
    log.append([written(position(2, [order(2), order(5)], miner=OTHER_MINER, trade_pair=EURUSD))], NOW)
    log.append([written(position(3, [order(3, at=T0 - DAY), order(4)]))], NOW)


def test_orders_come_newest_first_each_once(log: EventLogWriter) -> None:
    """With the names of their positions, and the sequence of those that were announced."""
    fill(log)
    orders = pages(log)
    assert numbers(orders) == [5, 4, 4, 2, 1, 3]
    assert [(one.processed_ms, one.order_uuid) for one in orders] == sorted(
        ((one.processed_ms, one.order_uuid) for one in orders), reverse=True
    )
    events = {(e.miner_hotkey, e.order_uuid): e.sequence for e in log.read(log.floor() - 1, 100)}
    assert [one.sequence for one in orders] == [events.get((o.miner_hotkey, o.order_uuid)) for o in orders]
    assert orders[-1].sequence is None
    assert (orders[0].miner_hotkey, orders[0].position_uuid, orders[0].trade_pair) == (
        OTHER_MINER,
        uuid(2),
        "EURUSD",
    )
    assert msgspec.json.decode(orders[0].text) == order(5)
    assert [pages(log, size) for size in (1, 3, 6, 100)] == [orders] * 4


@pytest.mark.parametrize("examined", [1, 2, 4, 100])
def test_filters_choose_and_lose_nothing(
    log: EventLogWriter, monkeypatch: pytest.MonkeyPatch, examined: int
) -> None:
    """Also where a page of the index has no order that they choose, and for miners with few orders."""
    monkeypatch.setattr(order_pages, "_EXAMINED", examined)
    fill(log)
    assert numbers(pages(log, miners={MINER})) == [4, 4, 1, 3]
    assert numbers(pages(log, trade_pairs={"EURUSD"})) == [5, 2]
    assert numbers(pages(log, miners={MINER}, trade_pairs={"EURUSD"})) == []
    assert numbers(pages(log, miners={MINER, OTHER_MINER}, trade_pairs={"BTCUSD", "EURUSD"})) == [
        5, 4, 4, 2, 1, 3,
    ]  # fmt: skip


def test_orders_are_listed_as_their_positions_are_now(log: EventLogWriter) -> None:
    """Corrected ones as corrected, where their time puts them; those of removed positions not at all."""
    fill(log)
    log.append([written(position(1, [order(1, price=9.0), order(4, at=T0 + 500)]))], NOW)
    orders = pages(log)
    assert numbers(orders) == [5, 4, 2, 1, 4, 3]
    assert msgspec.json.decode(orders[3].text)["price"] == 9.0
    log.append([written(position(1, [order(1)], trade_pair=EURUSD))], NOW)  # dropped, and another pair
    assert numbers(pages(log)) == [5, 4, 2, 1, 3]
    assert numbers(pages(log, trade_pairs={"EURUSD"})) == [5, 2, 1]
    log.append([removal(1), removal(3)], NOW)
    assert numbers(pages(log)) == [5, 2]
    sequence = log.head().sequence
    log.append([written(position(1, [order(1), order(4)]))], NOW)
    assert numbers(pages(log)) == [5, 4, 2, 1]
    assert log.head().sequence == sequence
    assert pages(log)[1].sequence is not None


def test_a_place_holds_while_orders_arrive(log: EventLogWriter) -> None:
    """New orders come before it, so the rest is what it was; it may be of an order that is gone."""
    fill(log)
    first, place = log.orders_before(None, 2)
    rest = pages(log)[2:]
    log.append([written(position(4, [order(n) for n in (6, 7, 8)]))], NOW)
    assert log.orders_before(place, 10) == (rest, None)
    log.append([removal(2, miner=OTHER_MINER)], NOW)
    assert numbers(log.orders_before(place, 10)[0]) == [4, 1, 3]
    assert numbers(first) == [5, 4]


def test_a_removed_position_is_kept_as_it_was(make_log: MakeLog) -> None:
    """As long as its tombstone, for documents of the past; its miner too."""
    log = make_log(retention_ms=DAY)
    log.baseline([], T0)
    fill(log)
    before = log.position(OTHER_MINER, uuid(2))
    assert before is not None
    log.append([removal(2, miner=OTHER_MINER)], NOW + 5)
    assert (log.hotkeys(), log.removed_hotkeys(removed_after_ms=NOW + 5)) == ([MINER], [])
    assert log.removed_hotkeys(removed_after_ms=NOW) == [OTHER_MINER]
    (kept,) = log.removed_positions(OTHER_MINER, removed_after_ms=NOW)
    assert (kept.text, kept.close_ms) == (before.text, before.close_ms)
    assert [*log.removed_positions(OTHER_MINER, removed_after_ms=NOW + 5)] == []
    assert [*log.removed_positions(MINER, removed_after_ms=NOW)] == []
    log.prune(NOW + 2 * DAY)
    assert [*log.removed_positions(OTHER_MINER, removed_after_ms=NOW)] == []
    assert log.removed_hotkeys(removed_after_ms=NOW) == []


def test_removed_positions_are_read_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, each in a short transaction; one that returns meanwhile is left out."""
    monkeypatch.setattr(sqlite_reader, "_FIRST_BATCH", 2)
    monkeypatch.setattr(sqlite_reader, "_LARGEST_BATCH", 2)
    with contextlib.closing(open_writer(tmp_path)) as log:
        log.baseline([written(position(n, [order(n)])) for n in range(1, 8)], T0)
        log.append([removal(n) for n in range(1, 8)], NOW)
        found = log.removed_positions(MINER, removed_after_ms=T0)
        uuids = [next(found).position_uuid for _ in range(2)]
        log.append([written(position(7, [order(7)]))], NOW)
        uuids += [removed.position_uuid for removed in found]
        assert uuids == [uuid(n) for n in range(1, 7)]


steps = st.lists(
    st.tuples(
        st.integers(1, 3),  # position
        st.lists(st.integers(1, 6), max_size=4),  # orders; none: the position is removed
        st.sampled_from([None, 9.0]),
        st.sampled_from(["BTCUSD", "EURUSD"]),
    ),
    max_size=8,
)


@given(steps)
@tries(60)
def test_the_index_follows_every_change(changes: list[tuple[int, list[int], float | None, str]]) -> None:
    """Whatever is written, corrected, dropped and removed: the pages have what the positions have."""
    with (
        TemporaryDirectory() as folder,
        contextlib.closing(open_writer(Path(folder), clock=lambda: T0)) as log,
    ):
        log.baseline([], T0)
        for number, orders, price, pair in changes:
            texts = [order(n) | ({} if price is None else {"price": price}) for n in orders]
            change = written(position(number, texts, trade_pair=[pair, pair])) if orders else removal(number)
            log.append([change], NOW)
        expected = [
            (one.processed_ms, one.order_uuid, position_.position_uuid, text)
            for position_ in log.positions()
            for one, text in zip(position_.text.position().orders, position_.text.orders, strict=True)
        ]
        found = pages(log)
        assert sorted((o.processed_ms, o.order_uuid, o.position_uuid, o.text) for o in found) == sorted(
            expected
        )
        assert log.find_damage() == []


# --- older logs and writers -------------------------------------------------------------------------------


def as_schema_4(db: sqlite3.Connection) -> None:
    """Makes a log what the version before had written."""
    db.create_function("row_checksum", -1, row_checksum)
    for statement in (
        "DROP INDEX orders_by_time",
        "ALTER TABLE orders DROP COLUMN processed_ms",
        "ALTER TABLE orders DROP COLUMN trade_pair",
        "UPDATE orders SET crc = row_checksum(id, uuid, revision, text) WHERE crc <> -1",
        "ALTER TABLE seen DROP COLUMN sequence",
        "UPDATE seen SET crc = row_checksum(miner, uuid, processed_ms, leverage)",
        "PRAGMA user_version = 4",
    ):
        db.execute(statement)


def test_an_older_log_gets_the_index(tmp_path: Path) -> None:
    """With the rows that it would have had from the beginning; damaged rows stay damaged."""
    if sqlite3.sqlite_version_info < (3, 35):
        pytest.skip("SQLite cannot drop columns")
    with contextlib.closing(open_writer(tmp_path, clock=lambda: T0)) as log:
        log.baseline([], T0)
        fill(log)
        expected, text = pages(log), dict(content(tmp_path))
    with contextlib.closing(connect_writer(log_path(tmp_path))) as db:
        as_schema_4(db)
    with contextlib.closing(open_writer(tmp_path)) as log:
        assert pages(log) == expected
        assert (content(tmp_path), log.find_damage()) == (text, [])
    with contextlib.closing(connect_writer(log_path(tmp_path))) as db:
        as_schema_4(db)
        db.execute("UPDATE orders SET text = x'7b7d' WHERE uuid = ?", (uuid(1002),))
    with capture_logs(), contextlib.closing(open_writer(tmp_path)) as log:
        assert [damage.key[2] for damage in log.find_damage()] == [uuid(2)]
        assert 2 not in numbers(pages(log))


def test_a_long_migration_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line every few seconds says that it goes on."""
    if sqlite3.sqlite_version_info < (3, 35):
        pytest.skip("SQLite cannot drop columns")
    with contextlib.closing(open_writer(tmp_path, clock=lambda: T0)) as log:
        log.baseline([written(position(n, [order(40 * n + k) for k in range(40)])) for n in range(20)], T0)
    with contextlib.closing(connect_writer(log_path(tmp_path))) as db:
        as_schema_4(db)
    monkeypatch.setattr(schema, "_REPORT_S", 0.0)
    with capture_logs() as logs:
        open_writer(tmp_path).close()
    assert [entry["event"] for entry in logs][-1] == "log_migrated"
    assert {"event": "log_migrating", "log_level": "info", "checksums": 1000} in logs


def test_a_copy_completes_the_rows_of_an_older_writer(tmp_path: Path) -> None:
    """Copies are upgraded first: until the writer is, its commits lack the new columns."""
    broker = MemoryBroker()
    begin(broker)
    with contextlib.closing(machine(tmp_path / "writer", broker)) as writer:
        writer.take_over()
        writer.baseline([], T0)
        fill(writer)
        writer.append([written(position(1, [order(1, price=9.0), order(4, at=T0 + 500)]))], NOW)
        expected = pages(writer)
    older = MemoryBroker()
    for entry in broker.read(0, 1 << 30):
        older.publish(_as_older(entry.payload), expected=entry.index - 1)
    with contextlib.closing(machine(tmp_path / "copy", older)) as copy:
        copy.confirm()
        assert pages(copy) == expected
        assert copy.find_damage() == []
    assert content(tmp_path / "copy") == content(tmp_path / "writer")


def _as_older(payload: bytes) -> bytes:
    """The entry as a writer of the version before would have published it."""
    part = decode_part(payload)
    tables = []
    for written_ in decode_rows([part.body]):
        new = {"orders": ("processed_ms", "trade_pair"), "seen": ("sequence",)}.get(written_.table, ())
        kept = [n for n, column in enumerate(written_.columns) if column not in new]
        columns = tuple(written_.columns[n] for n in kept)
        rows = [tuple(row[n] for n in kept) for row in written_.rows]
        if new:
            crc = columns.index("crc")
            rows = [(*row[:crc], row_checksum(*row[:crc]), *row[crc + 1 :]) for row in rows]
        tables.append(TableRows(written_.table, columns, rows, written_.deleted))
    ((body, _),) = encode_rows(tables)
    return encode_part(msgspec.structs.replace(part, schema=4, body=body))


# --- damage -----------------------------------------------------------------------------------------------


def test_damaged_rows_are_left_out_and_reported(tmp_path: Path) -> None:
    """An order, a position, the record of a sequence."""
    with contextlib.closing(open_writer(tmp_path, clock=lambda: T0)) as log:
        log.baseline([], T0)
        fill(log)
    with contextlib.closing(connect_writer(log_path(tmp_path))) as db:
        db.execute("UPDATE orders SET trade_pair = 'EURUSD' WHERE uuid = ?", (uuid(1001),))
        db.execute("UPDATE positions SET revision = 99 WHERE uuid = ?", (uuid(2),))
        db.execute("UPDATE seen SET sequence = 7 WHERE uuid = ?", (uuid(1004),))
    with capture_logs() as logs, contextlib.closing(open_reader(tmp_path)) as reader:
        orders = pages(reader)
        assert numbers(orders) == [4, 4, 3]
        assert {one.sequence for one in orders} == {None}
        assert numbers(pages(reader, trade_pairs={"EURUSD"})) == []
        assert {entry["table"] for entry in logs} == {"orders", "positions", "seen"}
        assert reader.damaged() == 3
