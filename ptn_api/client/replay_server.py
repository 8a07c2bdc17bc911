"""A replay behind the real protocol, for clients that cannot be given a handler.

with ReplayServer(Replay("orders.ndjson", speed=10)) as server:
    print(server.url)       # point any client there; every key is good
    server.play()
"""

from __future__ import annotations

import threading
import time

from ptn_api.client.fake_server import FakeServer
from ptn_api.client.message import PTNWebSocketMessage
from ptn_api.client.replaying import Moment, Replay
from ptn_api.clock import wall_ms
from ptn_api.errors import InvalidInputError, ServerUnreachableError
from ptn_api.wire.server_session import State

__all__ = ["ReplayServer"]

_LOOK_S = 0.01
"""Between looks whether somebody has subscribed."""


class ReplayServer:
    """Serves a replay on localhost (`port` 0: any free one); to be used with `with`, once.

    Numbers are given anew, without holes, beginning with the first message's. Times are those of then, and
    so is the server's clock as clients measure it. What was sent is kept in memory and can be resumed from.
    """

    def __init__(self, past: Replay, *, port: int = 0, heartbeat_ms: int = 15_000) -> None:
        self._moments = (moment for moment in past.moments() if moment.at_ms is not None)
        self._first = next(self._moments, None)
        self._server = FakeServer(port=port, heartbeat_ms=heartbeat_ms, first_sequence=self._first_sequence())
        self._server.keys = _EveryKey()
        self._stand_at(self._first)

    def __enter__(self) -> ReplayServer:
        try:
            self._server.__enter__()
        except OSError as error:
            raise ServerUnreachableError(f"port {self._server.port}: {error.strerror}") from None
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.__exit__(*exception)

    @property
    def url(self) -> str:
        return self._server.url

    def play(self, stop: threading.Event | None = None) -> int:
        """Waits for the first subscriber, then sends everything at the replay's speed; returns how much.

        Blocks until the end or `stop`. Raises InvalidInputError for messages without their positions' orders
        (recorded in format "delta").
        """
        stop = stop or threading.Event()
        moment, served = self._first, 0
        while not self._subscribed() and not stop.wait(_LOOK_S):
            self._stand_at(moment)  # what a client measures at its login
        waited = time.monotonic() - (moment.due if moment else 0.0)
        while moment is not None and not stop.wait(max(0.0, moment.due + waited - time.monotonic())):
            served += self._publish(moment)
            moment = next(self._moments, None)
        return served

    def _subscribed(self) -> bool:
        return any(client.session.state is State.LIVE for client in list(self._server.clients))

    def _publish(self, moment: Moment) -> int:
        messages = moment.begin()
        self._stand_at(moment)
        for message in messages:
            beside = message.data
            position = beside.pop("position")
            if not position.get("orders"):
                problem = "recorded in format delta: there are no whole positions to serve"
                raise InvalidInputError(problem, code="not_a_recording")
            time_ms = message.timestamp
            self._server.publish(position, timestamp_ms=time_ms, late=message.late, extra=beside)
        return len(messages)

    def _stand_at(self, moment: Moment | None) -> None:
        if moment is not None and moment.at_ms is not None:
            self._server.clock_ahead_ms = moment.at_ms - wall_ms()

    def _first_sequence(self) -> int:
        what = self._first.what[0] if self._first is not None else None
        return what.sequence if isinstance(what, PTNWebSocketMessage) else 1


class _EveryKey(set[str]):
    """It is the client that is tried out, not its key."""

    def __contains__(self, key: object) -> bool:
        return True
