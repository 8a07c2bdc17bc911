"""The WebSocket close codes, and whether a client should reconnect after them.

    4000-4099   reconnect, with backoff
    4100-4199   do not reconnect: the same login would be refused again

After any other code, or none, reconnect.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "AUTH_TIMEOUT",
    "BAD_FIRST_FRAME",
    "BAD_PAYLOAD",
    "CLOSE_CODES",
    "INSUFFICIENT_TIER",
    "INTERNAL_ERROR",
    "INVALID_KEY",
    "KEY_REVOKED",
    "MESSAGE_TOO_BIG",
    "NOT_READY",
    "PROTOCOL_ERROR",
    "REPLACED",
    "REPLAY_OVERTAKEN",
    "SHUTTING_DOWN",
    "SLOW_CONSUMER",
    "STANDARD_CODES",
    "TOO_MANY_REQUESTS",
    "CloseCode",
    "should_return",
]


class CloseCode(NamedTuple):
    code: int
    reason: str
    """Sent in the close frame."""


SHUTTING_DOWN = CloseCode(4000, "server is shutting down")
SLOW_CONSUMER = CloseCode(4001, "too slow: resume from your last sequence")
INTERNAL_ERROR = CloseCode(4002, "internal error")
AUTH_TIMEOUT = CloseCode(4003, "no login in time")
REPLACED = CloseCode(4004, "replaced by a newer connection of the same user")
REPLAY_OVERTAKEN = CloseCode(4005, "the log was pruned below the replay")
TOO_MANY_REQUESTS = CloseCode(4006, "too many requests")
NOT_READY = CloseCode(4007, "server is starting, or behind the others")
BAD_FIRST_FRAME = CloseCode(4100, "the first frame must be the login")
INVALID_KEY = CloseCode(4101, "invalid API key")
INSUFFICIENT_TIER = CloseCode(4102, "insufficient tier")
KEY_REVOKED = CloseCode(4103, "key revoked or downgraded")

CLOSE_CODES: dict[int, CloseCode] = {
    row.code: row
    for row in (
        SHUTTING_DOWN,
        SLOW_CONSUMER,
        INTERNAL_ERROR,
        AUTH_TIMEOUT,
        REPLACED,
        REPLAY_OVERTAKEN,
        TOO_MANY_REQUESTS,
        NOT_READY,
        BAD_FIRST_FRAME,
        INVALID_KEY,
        INSUFFICIENT_TIER,
        KEY_REVOKED,
    )
}

# Codes of RFC 6455: the client broke a rule of WebSocket itself.
PROTOCOL_ERROR = CloseCode(1002, "not a WebSocket frame")
BAD_PAYLOAD = CloseCode(1007, "not deflated")
MESSAGE_TOO_BIG = CloseCode(1009, "message too big")

STANDARD_CODES: dict[int, CloseCode] = {
    row.code: row for row in (PROTOCOL_ERROR, BAD_PAYLOAD, MESSAGE_TOO_BIG)
}


def should_return(code: int | None) -> bool:
    """Returns whether a client should reconnect with the same login after this close code."""
    return code is None or not 4100 <= code <= 4199
