"""Whether a reader can read the log at present: logged when that changes, not at every retry."""

from __future__ import annotations

from types import TracebackType

import structlog

from ptn_api.errors import LogError, LogPrunedError, LogReplacedError

__all__ = ["LogHealth"]

logger = structlog.get_logger()


class LogHealth:
    """A context for reads that the caller retries later.

        with health:
            head = log.head()

    It suppresses the LogError of an unreadable log. LogPrunedError and LogReplacedError pass: a retry would
    not help. Each loop that reads the log has its own instance.
    """

    def __init__(self) -> None:
        self.failing = False
        """Whether the last read failed."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None:
            if self.failing:
                logger.info("log_readable_again")
            self.failing = False
            return False
        if not isinstance(error, LogError) or isinstance(error, (LogPrunedError, LogReplacedError)):
            return False
        self.note_failure(error)
        return True

    def note_failure(self, error: LogError) -> None:
        """Logs the first failure of an outage."""
        if not self.failing:
            logger.error("log_unreadable", code=error.code, reason=str(error))
        self.failing = True
