"""Arguments that all clients share: the API key, choices of miners and trade pairs, timing."""

from __future__ import annotations

import logging
import os
import random
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import wraps
from typing import Any, ParamSpec, TypeVar, get_args

import msgspec

from ptn_api.backoff import Backoff
from ptn_api.clock import read_time, seems_seconds
from ptn_api.errors import AuthenticationError, SettingsError
from ptn_api.model.trade_pair import resolve_pair, split_names

__all__ = [
    "ALL",
    "NO_KEY",
    "WHOLE_HOTKEY",
    "Choice",
    "ReconnectBackoff",
    "Time",
    "Timing",
    "api_key_from",
    "api_keys_from",
    "as_list",
    "check_literal",
    "interval_ms",
    "miners_from",
    "optional_api_key",
    "time_from",
    "trade_pairs_from",
    "with_parameters_of",
]

logger = logging.getLogger("ptn_api.client")

P = ParamSpec("P")
T = TypeVar("T")


def with_parameters_of(function: Callable[P, Any]) -> Callable[[Callable[..., T]], Callable[P, T]]:
    """Declares that a function takes the parameters of another, for type checkers and `inspect.signature`."""
    return wraps(function, assigned=(), updated=())


# --- the API key ------------------------------------------------------------------------------------------

NO_KEY = "no API key: pass api_key= or set PTN_API_KEY"


def api_key_from(api_key: str | None) -> str:
    """Returns the argument, or else PTN_API_KEY. Raises AuthenticationError without either."""
    key = optional_api_key(api_key)
    if not key:
        raise AuthenticationError(NO_KEY, code="no_key")
    return key


def api_keys_from(api_key: str | Sequence[str] | None, count: int) -> list[str]:
    """Returns a key for each of `count` servers: one for all, or one each."""
    if api_key is None or isinstance(api_key, str):
        return [api_key_from(api_key)] * count
    if len(api_key) != count:
        raise SettingsError(
            f"{len(api_key)} API keys for {count} servers: pass one key, or one for each server"
        )
    return [api_key_from(key) for key in api_key]


def optional_api_key(api_key: str | None) -> str:
    """Returns the same, or an empty string without either.

    Strips surrounding white space, such as the line break at the end of a file. Raises AuthenticationError
    for characters that a key cannot have; the message does not repeat them.
    """
    key = (api_key or os.environ.get("PTN_API_KEY", "")).strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise AuthenticationError("the API key contains characters that no key has", code="no_key")
    return key


# --- choices ----------------------------------------------------------------------------------------------

Choice = str | Sequence[str]
"""One name, or several, also separated by commas."""


class _All(tuple[str, ...]):
    """A default that an empty choice differs from."""

    __slots__ = ()


ALL = _All()


def as_list(choice: Choice | None) -> list[str] | None:
    """Returns a list; None and ALL mean all.

    Raises SettingsError for an empty choice, such as the result of a search: it means neither all nor none.
    """
    if choice is None or choice is ALL:
        return None
    names = split_names([choice] if isinstance(choice, str) else choice)
    if not names:
        raise SettingsError("an empty choice of miners or trade pairs; leave it out to choose all")
    return names


def miners_from(choice: Choice | None) -> list[str] | None:
    """Returns a list of hotkeys; logs those that are too short, which no order matches."""
    names = as_list(choice)
    for name in names or ():
        if len(name) < WHOLE_HOTKEY:
            logger.warning("%r is not a whole hotkey (only the `ptn` command accepts prefixes)", name)
    return names


WHOLE_HOTKEY = 40
"""Letters of a name that is taken for a whole hotkey; those of the network have 48."""


def trade_pairs_from(choice: Choice | None) -> list[str] | None:
    """Returns a list of trade pair ids, from any usual spelling; logs unknown ones, misspelt or new."""
    names = as_list(choice)
    if names is None:
        return None
    for name in names:
        if resolve_pair(name) is None:
            # The server refuses it too, and suggests others.
            logger.warning("unknown trade pair %r", name, extra={"also_reported": True})
    return [resolve_pair(name) or name for name in names]


Time = int | str | datetime
"""Epoch ms, ISO 8601 (UTC by default), or a datetime with a time zone."""
_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}


def time_from(time: Time | None) -> int | None:
    """Returns the time as epoch ms. Raises SettingsError for anything else, a datetime without zone too."""
    if isinstance(time, datetime):
        if time.tzinfo is None:
            raise SettingsError("the datetime has no time zone; add one, such as timezone.utc")
        return round(time.timestamp() * 1000)
    found = read_time(time) if isinstance(time, str) else time
    if found is None and time is not None:
        raise SettingsError(f"not a time: {time!r} (give one like 2026-11-22T18:30Z, or epoch milliseconds)")
    if isinstance(time, int | str) and seems_seconds(time):
        raise SettingsError(f"{time} seems to be in seconds: give epoch milliseconds, {time}000")
    return found


def interval_ms(every: str | timedelta) -> int:
    """Returns `1d`, `6h`, `30m`, `10s`, `2w` or a timedelta as ms. Raises SettingsError."""
    if isinstance(every, timedelta):
        interval = every // timedelta(milliseconds=1)
    else:
        match = re.fullmatch(r"([0-9]{1,6})([smhdw])", every)
        interval = 0 if match is None else int(match[1]) * _UNITS_MS[match[2]]
    if interval <= 0:
        raise SettingsError(f"not an interval: {every!r} (give one like 1d, 6h or 30m)")
    return interval


def check_literal(literal: Any, value: str, name: str) -> None:
    """Raises SettingsError unless `value` is one of the Literal's values."""
    if value not in get_args(literal):
        raise SettingsError(f"{name} must be one of {', '.join(map(repr, get_args(literal)))}, not {value!r}")


# --- timing -----------------------------------------------------------------------------------------------


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Timeouts and delays, in seconds."""

    connect: float = 10.0
    """Timeout for the connection, for each step of the login, and for the answer to the subscribe."""
    close: float = 1.0
    """Timeout for the closing handshake."""
    ping: float = 15.0
    """Interval of the pings that measure the clock offset; a version 1 server is silent after two of them."""
    tick: float = 0.25
    """Resolution at which silence is measured."""
    backoff: float = 1.0
    """Longest delay before the first reconnection; doubles with every further one."""
    backoff_max: float = 10.0
    """Longest delay before any reconnection: how much later than the server a bot is back."""
    eviction: float = 15.0
    """Shortest delay after an eviction by a newer connection of the same user; doubles twice."""
    settled: float = 20.0
    """A connection that lasted this long resets the reconnection delay."""
    refused: float = 30.0
    """Shortest delay after a refused login; the longest is twice that."""
    retry: float = 0.5
    """Delay before a failed handler is called again; doubles up to `backoff_max`."""
    cursor: float = 2.0
    """Longest wait at the start for a cursor that another process still uses."""
    apart: float = 10.0
    """How far apart several servers may see the same order, when one fills another one's gap."""
    fill: float = 60.0
    """Longest wait for a server that could fill another one's gap and does not answer."""
    behind: float = 30.0
    """A server that sends an order so much later than another one counts as behind."""


class ReconnectBackoff:
    """Delays between connections, by the kind of failure.

    Lost connections use full jitter, so that clients disconnected together reconnect spread out.
    """

    def __init__(self, timing: Timing, random: Callable[[], float] = random.random) -> None:
        first, eviction, refused = timing.backoff * 1000, timing.eviction * 1000, timing.refused * 1000
        self._timing = timing
        longest = max(first, timing.backoff_max * 1000)
        self._lost = Backoff(first_ms=first, max_ms=longest, jitter=1.0, random=random)
        # Half of twice the delay is the shortest one. It is never short: six clients of one key would
        # otherwise evict each other in circles.
        self._evicted = Backoff(first_ms=2 * eviction, max_ms=8 * eviction, jitter=0.5, random=random)
        self._refused = Backoff(first_ms=2 * refused, max_ms=2 * refused, jitter=0.5, random=random)

    def connected_for(self, seconds: float) -> None:
        """Resets the delays after a connection that lasted.

        Clients that evict each other stay connected for a while in turn, so the eviction delay is reset only
        by a connection that lasted much longer than any delay.
        """
        if seconds >= self._timing.settled:
            self._lost.reset()
        if seconds >= 40 * self._timing.eviction:
            self._evicted.reset()

    def lost(self) -> float:
        """Returns the delay in s after a connection that failed or broke."""
        return self._lost.next_ms() / 1000

    def evicted(self) -> float:
        """Returns the delay in s after an eviction."""
        return self._evicted.next_ms() / 1000

    def refused(self) -> float:
        """Returns the delay in s after a refused login: the key may be added later."""
        return self._refused.next_ms() / 1000
