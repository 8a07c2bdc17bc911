"""The usage of all machines of a cluster, by key and day (access/usage.py).

Each machine publishes its own sums, each of which replaces the one before, so one that is published twice
counts once. Whoever reads them adds up the machines.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from typing import Protocol

import msgspec

from ptn_api.access.usage import UsageFile, UsageRow, day_of
from ptn_api.clock import Clock, wall_ms

__all__ = ["UsageBroker", "UsageCopy", "last_use", "usage_since"]

_LATE_DAYS = 2
"""Records of a day are written for this long after it."""
_FIRST_DAY = "2000-01-01"


class UsageBroker(Protocol):
    """Values by name, replicated; a new value replaces the one of the same name.

    Names have three parts with dots between, of which `*` stands for any. A stale server may lack new values.
    """

    def put_usage(self, name: str, record: bytes) -> None:
        """Raises BrokerError."""
        ...

    def usage(self, names: str) -> Iterator[bytes]:
        """The values of these names, in the order in which they were stored. Raises BrokerError."""
        ...

    def last_usage(self, names: str) -> bytes | None:
        """The one of them that was stored last. Raises BrokerError."""
        ...


_rows = msgspec.json.Decoder(UsageRow)


def _decoded(records: Iterable[bytes]) -> Iterator[UsageRow]:
    """Omits malformed ones: every machine may write records."""
    for record in records:
        with contextlib.suppress(msgspec.MsgspecError, ValueError):
            row = _rows.decode(record)
            if _FIRST_DAY <= row.day == date.fromisoformat(row.day).isoformat():
                yield row


class UsageCopy:
    """Publishes the records of this machine. It alone writes those with its name."""

    def __init__(self, broker: UsageBroker, file: UsageFile, *, clock: Clock = wall_ms) -> None:
        self._broker = broker
        self._file = file
        self._clock = clock
        self._machine = ""
        self._since = ""
        """No earlier day has records to be published."""
        self._published: dict[str, UsageRow] = {}
        """Those since then, by name."""

    def publish(self) -> int:
        """Publishes changed records; returns how many. Raises BrokerError, sqlite3.Error, OSError."""
        if not self._machine:
            self._look_up()
        count = 0
        # By day, so the last one that is stored shows how far an interrupted call has come.
        for row in sorted(self._file.read(since_day=self._since), key=lambda row: row.day):
            name = f"{row.day}.{self._machine}.{_name_of(row.alias, row.fingerprint)}"
            if self._published.get(name) != row:
                self._broker.put_usage(name, msgspec.json.encode(row))
                self._published[name] = row
                count += 1
        self._go_on_from(day_of(self._clock()))
        return count

    def _look_up(self) -> None:
        """Finds out what this machine published before its start."""
        machine = self._file.machine()
        last = self._broker.last_usage(f"*.{machine}.*")
        for newest in _decoded([last] if last else []):
            self._go_on_from(min(newest.day, day_of(self._clock())))
            for day in _days(self._since, _LATE_DAYS + 1):
                for row in _decoded(self._broker.usage(f"{day}.{machine}.*")):
                    self._published[f"{day}.{machine}.{_name_of(row.alias, row.fingerprint)}"] = row
        self._machine = machine

    def _go_on_from(self, day: str) -> None:
        self._since = (date.fromisoformat(day) - timedelta(days=_LATE_DAYS)).isoformat()
        self._published = {name: row for name, row in self._published.items() if row.day >= self._since}


def usage_since(broker: UsageBroker, day: str, days: int) -> Iterator[UsageRow]:
    """Returns the records of all machines for `days` days, beginning with `day`. Raises BrokerError."""
    for each in _days(day, days):
        yield from _decoded(broker.usage(f"{each}.*.*"))


def last_use(broker: UsageBroker, alias: str, fingerprint: str) -> int | None:
    """When the key was last used on any machine, as far as it is published. Raises BrokerError."""
    record = broker.last_usage(f"*.*.{_name_of(alias, fingerprint)}")
    return max((row.seen_ms for row in _decoded([record] if record else [])), default=None)


def _days(first: str, count: int) -> Iterator[str]:
    return ((date.fromisoformat(first) + timedelta(days=n)).isoformat() for n in range(count))


def _name_of(alias: str, fingerprint: str) -> str:
    """A user's name may contain anything, a subject of the broker may not."""
    return hashlib.blake2b(f"{fingerprint} {alias}".encode(), digest_size=8).hexdigest()
