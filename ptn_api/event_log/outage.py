"""An outage of the log: while it is unreadable, every reader retries and no client is disconnected."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager

import structlog

from ptn_api.errors import (
    LogDamagedError,
    LogError,
    LogPrunedError,
    LogReplacedError,
    LogUnwritableError,
)

__all__ = ["RETRIED_WRITE_ERRORS", "LogOutage"]

RETRIED_WRITE_ERRORS = (LogUnwritableError, LogDamagedError)
"""Errors of the log after which a writer keeps its changes and tries again."""

logger = structlog.get_logger()


class LogOutage:
    """The reads of the log that fail at present; logged when the first one fails and when all work again.

    Each part of a process that reads the log reports here under its own name, and retries later.
    """

    def __init__(self) -> None:
        self.failing: set[Hashable] = set()
        """The readers whose last read failed."""

    def failed(self, reader: Hashable, error: LogError) -> None:
        if not self.failing:
            logger.error("log_unreadable", code=error.code, reason=str(error))
        self.failing.add(reader)

    def succeeded(self, reader: Hashable) -> None:
        self._remove(reader)

    def forget(self, reader: Hashable) -> None:
        """Drops a reader that has given up: if only its reads failed, the outage is over."""
        self._remove(reader)

    def _remove(self, reader: Hashable) -> None:
        if reader in self.failing:
            self.failing.discard(reader)
            if not self.failing:
                logger.info("log_readable_again")

    @contextmanager
    def reading(self, reader: Hashable) -> Iterator[None]:
        """Reports the outcome of the block, and suppresses its LogError for a caller that retries later.

        LogPrunedError and LogReplacedError pass, since a retry cannot fix them.
        """
        try:
            yield
        except (LogPrunedError, LogReplacedError):
            raise
        except LogError as error:
            self.failed(reader, error)
        else:
            self.succeeded(reader)
