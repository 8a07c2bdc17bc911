"""Hostile items on the embedded queue: in the validator's process, and at the pipe's other end."""

from __future__ import annotations

import asyncio
import enum
import multiprocessing
import os
import queue
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptn_api.api_manager import APIManager, _Pipe
from ptn_api.errors import InvalidInputError, SettingsError
from ptn_api.event_log.contract import PositionWritten
from ptn_api.intake.queue import QueueReader
from ptn_api.queue_item import encode_item
from tests import factories
from tests.properties import tries
from tests.waiting import PATIENCE_S


class FailingObject:
    """A validator's object whose methods fail."""

    def model_dump(self) -> Any:
        raise ZeroDivisionError("a bug of the validator's")


class Endless:
    def to_dict(self) -> Any:
        return {"again": Endless()}


class Odd(enum.Enum):
    BYTES = b"bytes"
    OBJECT = object()


def circle() -> dict[str, Any]:
    one: dict[str, Any] = {}
    one["one"] = one
    return one


def tower(height: int) -> Any:
    value: Any = 1
    for _ in range(height):
        value = [value]
    return value


GOOD = {"position": factories.position(1, [factories.order(1)])}
STRANGE = [
    *(
        None,
        1,
        "text",
        b"bytes",
        object(),
        FailingObject(),
        Endless(),
        circle(),
        Odd.BYTES,
        Odd.OBJECT,
        set(),
    ),
    *(
        float("nan"),
        10**400,
        "\ud800",
        {1: 2},
        {(): []},
        {Odd.OBJECT: 1},
        range(3),
        lambda: 1,
        type,
        Ellipsis,
    ),
]
_VALUES = st.recursive(
    st.sampled_from(STRANGE) | st.text(max_size=9) | st.integers() | st.floats() | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@tries(300)
@given(value=_VALUES, where=st.sampled_from(["item", "position", "orders", "order", "extra"]))
def test_an_item_is_encoded_or_refused(value: Any, where: str) -> None:
    """With no exception but the one that the pump handles."""
    position: dict[str, Any] = GOOD["position"]
    item: Any = {
        "item": value,
        "position": {"position": value},
        "orders": {"position": position | {"orders": value}},
        "order": {"position": position | {"orders": [value]}},
        "extra": GOOD | {"extra": value},
    }[where]
    try:
        line = encode_item(item)
    except InvalidInputError:
        return
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1


def test_the_pump_goes_on_after_each() -> None:
    """A hostile item does not stop the next one; the validator's thread lives."""
    items: queue.Queue[Any] = queue.Queue()
    last = GOOD | {"last": True}
    for item in (*STRANGE, tower(100_000)):
        for one in (item, {"position": item}, GOOD):
            items.put(one)
    items.put(last)
    lines = pumped(items, until_line=encode_item(last))
    assert lines.count(encode_item(GOOD)) == len(STRANGE) + 1
    assert lines[-1] == encode_item(last)


def pumped(items: Any, *, until_line: bytes) -> list[bytes]:
    """Returns what the pump writes for these items."""

    class Process:
        """A process that lives until it has read the line."""

        def __init__(self) -> None:
            self.read: list[bytes] = []

        def poll(self) -> int | None:
            return 0 if until_line in self.read else None

    process = Process()
    manager = APIManager(shared_queue=items)
    with _Pipe() as pipe:

        def take() -> None:
            with os.fdopen(os.dup(pipe.reading), "rb") as file:
                for line in file:
                    process.read.append(line)
                    if line == until_line:
                        return

        reader = threading.Thread(target=take, daemon=True)
        reader.start()
        manager._pump(pipe, process)  # type: ignore[arg-type]
        reader.join(PATIENCE_S)
    return process.read


class UnpicklableOnce:
    """A queue whose next item cannot be unpickled, once."""

    def __init__(self) -> None:
        self._times = 0

    def get(self, timeout: float) -> Any:
        self._times += 1
        if self._times == 1:
            raise ModuleNotFoundError("No module named 'vali_objects'")
        if self._times == 2:
            raise AttributeError("no such enum member")
        return GOOD


def test_an_item_that_cannot_be_unpickled_costs_one_item() -> None:
    """The queue is read on."""
    assert pumped(UnpicklableOnce(), until_line=encode_item(GOOD)) == [encode_item(GOOD)]


class ClosedQueue:
    """A closed queue, which raises the same error at every call."""

    def __init__(self) -> None:
        self._times = 0

    def get(self, timeout: float) -> Any:
        self._times += 1
        if self._times < 10:
            raise ValueError("Queue is closed")
        return GOOD


def test_a_broken_queue_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """A repeated error is logged once."""
    assert pumped(ClosedQueue(), until_line=encode_item(GOOD)) == [encode_item(GOOD)]
    assert caplog.text.count("cannot be read") == 1


@pytest.mark.parametrize("made", [multiprocessing.SimpleQueue, list, dict], ids=lambda made: made.__name__)
def test_an_object_that_is_not_a_queue_is_refused_at_once(made: Any) -> None:
    """Where it is passed in, not at every attempt to read it."""
    with pytest.raises(SettingsError, match="shared_queue"):
        APIManager(shared_queue=made())


_LINES = st.lists(
    st.one_of(
        st.binary(max_size=100),
        st.sampled_from(
            [
                b"[" * 60_000,
                b'{"position":' * 9_000,
                b'{"position": {}}',
                b'{"position": null}',
                b"\0",
                b"\xff" * 50,
            ]
        ),
        st.just(b"x" * 300_000),
    ),
    max_size=8,
)


@tries(40)
@given(lines=_LINES)
def test_a_line_of_the_pipe_is_a_position_or_refused(lines: list[bytes]) -> None:
    """Garbage costs its line; a good line after it is offered."""
    offered: list[PositionWritten] = []
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(b"\n".join(lines) + b"\n" + encode_item(GOOD))

    async def read() -> None:
        async def wait_for_capacity() -> None: ...

        await QueueReader(
            reading, offered.append, line_limit=200_000, wait_for_capacity=wait_for_capacity
        ).run()

    writer = threading.Thread(target=write)
    writer.start()
    asyncio.run(read())
    writer.join()
    assert offered[-1].position.position_uuid == GOOD["position"]["position_uuid"]
