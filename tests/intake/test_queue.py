"""The embedded queue makes an order visible sooner, never twice, and yields to the directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ptn_api.errors import InvalidInputError
from ptn_api.event_log.contract import Document
from ptn_api.intake.queue import Lines, parse_item
from tests.factories import MINER, OTHER_MINER, order, position, uuid
from tests.intake.running import WATCH_ALONE, running
from tests.intake.validator_dir import ValidatorDir

LONG_HOLD = {"queue_hold_ms": 60_000}


# --- lines and items --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_lines_do_not_depend_on_the_chunks(size: int) -> None:
    """However the bytes are split, the lines are the same; empty lines are skipped."""
    stream = b"one\n\ntwo\n \nthree\nfour"
    lines = Lines(100)
    got = [line for at in range(0, len(stream), size) for line in lines.feed(stream[at : at + size])]
    assert got == [b"one", b"two", b"three"]


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_only_the_line_that_is_too_long_is_dropped(size: int) -> None:
    """Lines before and after it are kept, and memory stays within the limit."""
    stream = b"a\n" + b"x" * 50 + b"\nb\n" + b"y" * 10 + b"\n"
    lines = Lines(10)
    got = [line for at in range(0, len(stream), size) for line in lines.feed(stream[at : at + size])]
    assert got == [b"a", b"b", b"y" * 10]
    assert lines.dropped == 1


def test_other_keys_are_kept() -> None:
    """Keys next to the position are passed on unchanged."""
    item = parse_item(json.dumps({"a": [1, {"b": None}], "position": position(1, [order(1)])}).encode())
    assert json.loads(item.extra) == {"a": [1, {"b": None}]}
    assert parse_item(json.dumps({"position": position(1, [order(1)])}).encode()).extra == b""


def _bad_items() -> dict[str, bytes]:
    good = json.dumps({"position": position(1, [order(1)])}).encode()
    return {
        "no JSON": b"hello",
        "the end of a line": json.dumps({"position": position(1, [order(1)])}).encode()[40:],
        "no position": b'{"heartbeat": 1}',
        "a list": b"[1]",
        "position is not an object": b'{"position": 5}',
        "NaN": json.dumps({"position": position(1, [order(1, price=float("nan"))])}).encode(),
        "negative time": json.dumps({"position": position(1, [order(1, at=-1)])}).encode(),
        "path in the hotkey": json.dumps({"position": position(1, [order(1)], miner="../../etc")}).encode(),
        "slash in the uuid": json.dumps({"position": position(1, [], position_uuid="a/b")}).encode(),
        "no UTF-8": b'{"x": "\xff", "position": {}}',
        "a number that no float holds": good.replace(b"{", b'{"x": 1e400, ', 1),
        "nested deeply": good.replace(b"{", b'{"x": ' + b"[" * 60 + b"]" * 60 + b", ", 1),
    }


@pytest.mark.parametrize("kind", _bad_items())
def test_a_malformed_item_is_refused(kind: str) -> None:
    """With InvalidInputError, never another exception."""
    with pytest.raises(InvalidInputError):
        parse_item(_bad_items()[kind])


# --- without a directory ----------------------------------------------------------------------------------


async def test_the_queue_alone_is_enough(data: Path) -> None:
    """Each order is announced once; the list of miners follows from the positions."""
    async with running(data) as intake:
        intake.enqueue({"position": position(1, [order(1)])})
        intake.enqueue({"position": position(1, [order(1), order(2)])})
        intake.enqueue({"position": position(2, [order(3)], miner=OTHER_MINER)})
        await intake.until(lambda: len(intake.events()) == 3)
        assert intake.announced() == [order(n)["order_uuid"] for n in (1, 2, 3)]
        await intake.until(
            lambda: json.loads(intake.log.document(Document.MINERS) or b"[]") == sorted([MINER, OTHER_MINER])
        )
        source = intake.log.source()
        assert source.swept_ms is None
        # No sweep tells a later start how late it is.
        await intake.until(lambda: (intake.log.source().steady_ms or 0) > (source.steady_ms or 0))
    async with running(data) as intake:
        intake.enqueue({"position": position(1, [order(1), order(2)])})
        intake.enqueue({"position": position(1, [order(1), order(2), order(4)])})
        await intake.until(lambda: len(intake.events()) == 4)
        assert len(intake.state()[MINER, uuid(1)]["orders"]) == 3


async def test_without_a_directory_the_queue_has_the_last_word(data: Path) -> None:
    """The latest item with a new order replaces the position."""
    async with running(data) as intake:
        intake.enqueue({"position": position(1, [order(1), order(2)])})
        await intake.until(lambda: len(intake.events()) == 2)
        latest = position(1, [order(1), order(3)])
        intake.enqueue({"position": latest})
        await intake.until(lambda: intake.state()[MINER, uuid(1)] == latest)


async def test_a_bad_item_is_counted_and_the_next_one_taken(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even half a line, as a restarted intake may read it."""
    async with running(data) as intake:
        for item in _bad_items().values():
            intake.enqueue(item + b"\n")
        intake.enqueue({"position": position(1, [order(1)])})
        await intake.until(lambda: len(intake.events()) == 1)
        await intake.until(lambda: intake.log.source().invalid == len(_bad_items()))
    assert capsys.readouterr().out.count("queue_item_skipped") == len(_bad_items())


async def test_an_item_that_is_too_long_is_counted(data: Path) -> None:
    """And only that one is lost."""
    async with running(data, queue_line_limit_bytes=3_000) as intake:
        intake.enqueue({"position": position(1, [order(n) for n in range(20)])})
        intake.enqueue({"position": position(2, [order(50)])})
        await intake.until(lambda: intake.announced() == [order(50)["order_uuid"]])
        await intake.until(lambda: intake.log.source().invalid == 1)
        assert intake.log.source().findings["files_refused"] == 0
        assert intake.counters.queue_refused == 1  # the process reports it as queue_items_refused


# --- with a directory -------------------------------------------------------------------------------------


async def test_queue_and_file_announce_an_order_once(validator: ValidatorDir, data: Path) -> None:
    """In either order; other keys of the queue's item are kept if the queue was first."""
    async with running(data, validator, **WATCH_ALONE, **LONG_HOLD) as intake:
        first, second = position(1, [order(1)]), position(1, [order(1), order(2)])
        intake.enqueue({"position": first, "from": "queue"})
        await intake.until(lambda: len(intake.events()) == 1)
        validator.write(first)
        validator.write(second)
        await intake.until(lambda: len(intake.events()) == 2)
        intake.enqueue({"position": second})
        intake.enqueue({"position": position(2, [order(3)])})
        await intake.until(lambda: len(intake.events()) == 3)
        assert intake.announced() == [order(n)["order_uuid"] for n in (1, 2, 3)]
        assert [json.loads(event.extra or b"{}") for event in intake.events()] == [{"from": "queue"}, {}, {}]


async def test_an_older_file_is_withheld(validator: ValidatorDir, data: Path) -> None:
    """A refresh without the new order does not remove it; a file with the order replaces the item."""
    validator.write(position(1, [order(1)]))
    async with running(data, validator, **WATCH_ALONE, **LONG_HOLD) as intake:
        newer = position(1, [order(1), order(2)])
        intake.enqueue({"position": newer})
        await intake.until(lambda: len(intake.events()) == 1)
        validator.write(position(1, [order(1)], current_return=0.9))
        validator.write(position(2, [order(5)]))
        await intake.until(lambda: (MINER, uuid(2)) in intake.state())
        assert intake.state()[MINER, uuid(1)] == newer
        filed = position(1, [order(1), order(2)], current_return=0.8)
        validator.write(filed)
        await intake.until(lambda: intake.state()[MINER, uuid(1)] == filed)


async def test_the_overlay_expires(validator: ValidatorDir, data: Path) -> None:
    """If the file never gets the order, the file counts again. The order stays announced."""
    filed = position(1, [order(1)])
    validator.write(filed)
    async with running(data, validator, **WATCH_ALONE) as intake:
        intake.enqueue({"position": position(1, [order(1), order(2)])})
        await intake.until(lambda: len(intake.events()) == 1)
        await intake.until(lambda: intake.state()[MINER, uuid(1)] == filed)
        assert intake.announced() == [order(2)["order_uuid"]]


async def test_a_position_that_never_gets_a_file_is_removed(validator: ValidatorDir, data: Path) -> None:
    """The directory is the truth."""
    async with running(data, validator) as intake:
        intake.enqueue({"position": position(1, [order(1)])})
        await intake.until(lambda: len(intake.events()) == 1)
        await intake.until(lambda: intake.state() == {})


async def test_a_file_with_an_order_of_its_own_is_not_withheld(validator: ValidatorDir, data: Path) -> None:
    """An order that only the directory has is announced at once."""
    validator.write(position(1, [order(1)]))
    async with running(data, validator, **WATCH_ALONE, **LONG_HOLD) as intake:
        intake.enqueue({"position": position(1, [order(1), order(2)])})
        await intake.until(lambda: len(intake.events()) == 1)
        validator.write(position(1, [order(1), order(3)]))
        await intake.until(lambda: len(intake.events()) == 2)


async def test_the_queue_only_adds(validator: ValidatorDir, data: Path) -> None:
    """An item that lacks a known order does not remove it."""
    validator.write(position(1, [order(1), order(2)]))
    async with running(data, validator, **WATCH_ALONE, **LONG_HOLD) as intake:
        intake.enqueue({"position": position(1, [order(1), order(3)])})
        await intake.until(lambda: intake.announced() == [order(3)["order_uuid"]])
        uuids = [o["order_uuid"] for o in intake.state()[MINER, uuid(1)]["orders"]]
        assert uuids == [order(n)["order_uuid"] for n in (1, 2, 3)]


async def test_an_item_without_a_new_order_changes_nothing(validator: ValidatorDir, data: Path) -> None:
    """It is as old as the file, or older."""
    filed = position(1, [order(1, price=5.0)])
    validator.write(filed)
    async with running(data, validator, **WATCH_ALONE, **LONG_HOLD) as intake:
        intake.enqueue({"position": position(1, [order(1)])})
        intake.enqueue({"position": position(2, [order(2)])})
        await intake.until(lambda: (MINER, uuid(2)) in intake.state())
        assert intake.state()[MINER, uuid(1)] == filed
        later = position(1, [order(1, price=6.0)])
        validator.write(later)
        await intake.until(lambda: intake.state()[MINER, uuid(1)] == later)


async def test_the_end_of_the_queue_is_not_the_end_of_intake(validator: ValidatorDir, data: Path) -> None:
    """The directory is followed after the validator has closed its end."""
    async with running(data, validator, **WATCH_ALONE) as intake:
        intake.close_queue()
        validator.write(position(1, [order(1)]))
        await intake.until(lambda: len(intake.events()) == 1)


def test_an_item_up_to_the_limit_is_read() -> None:
    """However it arrives; a byte more is dropped up to its end."""
    for size, dropped in ((10, 0), (11, 1)):
        for step in (1, 7, 100):
            lines, sent = Lines(10), b"x" * size + b"\nnext\n"
            got = [line for at in range(0, len(sent), step) for line in lines.feed(sent[at : at + step])]
            assert (got[-1], len(got), lines.dropped) == (b"next", 2 - dropped, dropped)
