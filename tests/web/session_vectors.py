"""The cases of the client's session, for the TypeScript client: `python -m tests.web.session_vectors`.

Every session that tests/wire/test_client_session.py drives is recorded: its input and what it returned.
Property tests are replaced by some random scripts.
"""

from __future__ import annotations

import inspect
import itertools
import json
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec

from ptn_api.wire.client_session import ClientSession, Cursor, Event, Gap, StreamItem
from ptn_api.wire.frames import Heartbeat, PositionsRemoved, Subscribe
from ptn_api.wire.server_frames import ChangedPosition, OrderMessage
from tests.factories import position
from tests.wire import test_client_session as tests

__all__ = ["FILE", "cases"]

FILE = Path(__file__).parents[2] / "web" / "client" / "test" / "client_session.json"
_SCRIPTS = 12
_FRAMES = 15

Step = dict[str, Any]


class _Recorded(ClientSession):
    """A session that writes down its arguments and, after each step, its state."""

    recordings: list[dict[str, Any]]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        subscription = options.pop("subscription")
        known = {name: value for name, value in options.items() if name != "clock_offset"}
        known["cursor"] = list(options["cursor"])
        known["subscription"] = msgspec.to_builtins(subscription)
        self.steps: list[Step] = []
        self._seen = 0
        self._state: dict[str, Any] = {}
        self.recordings.append({"options": known, "steps": self.steps})

    def start(self) -> None:
        super().start()
        self._note({"do": "start"}, [])

    def receive(self, data: bytes | str, wall_ms: int) -> list[Event]:
        events = super().receive(data, wall_ms)
        text = data if isinstance(data, str) else data.decode()
        return self._note({"do": "receive", "text": text, "at": wall_ms}, events)

    def tick(self, elapsed_ms: int, wall_ms: int) -> list[Event]:
        return self._note({"do": "tick", "ms": elapsed_ms, "at": wall_ms}, super().tick(elapsed_ms, wall_ms))

    def subscribe(self, subscription: Subscribe, wall_ms: int) -> None:
        super().subscribe(subscription, wall_ms)
        self._note({"do": "subscribe", "subscription": msgspec.to_builtins(subscription), "at": wall_ms}, [])

    def unsubscribe(self, wall_ms: int) -> None:
        super().unsubscribe(wall_ms)
        self._note({"do": "unsubscribe", "at": wall_ms}, [])

    def to_send(self) -> list[str]:
        self._seen = 0
        return super().to_send()

    def _note(self, step: Step, events: list[Event]) -> list[Event]:
        """Appends the step, with its events, the frames to send, and what has changed since the last one."""
        step["events"] = [_described(event) for event in events]
        step["sent"] = [json.loads(frame) for frame in self._outbox[self._seen :]]
        self._seen = len(self._outbox)
        state = {
            "phase": self.phase.value,
            "state": self.state,
            "cursor": list(self.cursor),
            "repeats": self.repeats,
            "offset": self.clock_offset.ms,
        }
        step |= {name: value for name, value in state.items() if self._state.get(name) != value}
        self._state = state
        self.steps.append({name: value for name, value in step.items() if value != []})
        return events


def _described(event: Event) -> list[Any]:
    """Texts of warnings and details are left out: they are for people."""
    if not isinstance(event, StreamItem):
        kind = type(event).__name__
        return [kind, *(event if kind in ("StateChanged", "LoggedIn", "Refused", "Evicted") else event[:0])]
    cursor = list(event.cursor)
    match event.value:
        case OrderMessage(sequence=sequence):
            return ["order", sequence, cursor]
        case Gap() as gap:
            return ["gap", *gap, cursor]
        case Heartbeat(head=head):
            return ["heartbeat", head, cursor]
        case ChangedPosition(revision=revision):
            return ["position", revision, cursor]
        case PositionsRemoved(revision=revision):
            return ["removed", revision, cursor]
    return ["none", cursor]


def cases() -> list[dict[str, Any]]:
    """Returns the recorded sessions, each with the name of its test."""
    found = []
    for name, run in itertools.chain(_tests(), _scripts()):
        _Recorded.recordings = []
        with mock.patch.object(tests, "ClientSession", _Recorded):
            run()
        found += [{"test": name} | recording for recording in _Recorded.recordings]
    return found


def _tests() -> Iterator[tuple[str, Callable[[], None]]]:
    """Yields the test functions, once for each row of their parameters."""
    for name, function in inspect.getmembers(tests, inspect.isfunction):
        if not name.startswith("test_") or hasattr(function, "hypothesis"):
            continue
        marks = [mark for mark in getattr(function, "pytestmark", ()) if mark.name == "parametrize"]
        if not marks:
            yield name, function
        for mark in marks:
            names, rows = mark.args
            for row in rows:
                values = row if isinstance(names, tuple) else (row,)
                arguments = dict(zip(names if isinstance(names, tuple) else (names,), values, strict=True))
                yield name, partial(function, **arguments)


def _scripts() -> Iterator[tuple[str, Callable[[], None]]]:
    for seed in range(_SCRIPTS):
        yield f"script {seed}", partial(_run_script, random.Random(seed))


def _run_script(choose: random.Random) -> None:
    """Drives a session with random frames, sensible and senseless, of either version."""
    epoch = choose.choice([tests.E, tests.E, None])
    cursor = choose.choice([tests.NEW, Cursor(10, tests.E), Cursor(10)])
    filters = choose.choice([tests.ALL, Subscribe(miners=["5A"], updates=True)])
    subject = tests.session(cursor, filters, known_gap=choose.choice([None, 10]), ping_ms=700)
    tests.feed(subject, tests.success(10, epoch=epoch))
    changed = {"type": "position", "revision": 4, "after": 10, "position": position(1, [])}
    removed = {"type": "removed", "revision": 5, "after": 10, "positions": [["5A", "uuid"]]}
    failed = {"type": "resume_failed", "reason": "too_old", "epoch": "e2", "oldest_sequence": 1, "head": 20}
    last = 10
    for _ in range(_FRAMES):
        last += choose.choice([0, 1, 1, 1, 1, 2])
        frame: Any = choose.choice(
            [
                tests.order(last),
                tests.order(last, replay=True),
                {"type": "batch", "messages": [tests.order(last), tests.order(last + 1)], "count": 2},
                tests.heartbeat(last, stale=choose.random() < 0.3),
                tests.status(),
                tests.resumed(10, last + 2),
                changed,
                removed,
                failed,
                tests.success(last, epoch=epoch),
                {"status": "error", "message": "no", "code": "x"},
                {"type": "error", "code": "bad_frame", "message": "no"},
                {"type": "heartbeat", "head": "1"},
                {"type": "batch", "messages": [{"sequence": 1}]},
                {"type": "later"},
                "[]",
                "{",
                "tick",
                "unsubscribe",
                "subscribe",
            ]
        )
        match frame:
            case "tick":
                subject.tick(choose.choice([300, 900]), tests.NOW)
            case "unsubscribe":
                subject.unsubscribe(tests.NOW)
            case "subscribe":
                subject.subscribe(tests.ALL, tests.NOW)
            case _:
                tests.feed(subject, frame)


def text() -> str:
    """Returns the file's content: one case per line."""
    lines = [json.dumps(case, separators=(",", ":"), sort_keys=True) for case in cases()]
    return "[\n" + ",\n".join(lines) + "\n]\n"


if __name__ == "__main__":
    FILE.write_text(text())
