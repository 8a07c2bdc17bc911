"""The one ordered history: every order gets its number here, once, for ever, before anybody hears of it.

`contract` says what a log promises; `open_writer` and `open_reader` keep it in SQLite.
Intake is the only writer; REST and stream read.
"""

from ptn_api.event_log.contract import (
    Change,
    CommitListener,
    Document,
    DocumentWritten,
    Event,
    EventLog,
    EventLogWriter,
    Head,
    LoggedPosition,
    PositionRemoved,
    PositionWritten,
    RemovedPosition,
    SourceStatus,
)
from ptn_api.event_log.sqlite_log import open_reader, open_writer

__all__ = [
    "Change",
    "CommitListener",
    "Document",
    "DocumentWritten",
    "Event",
    "EventLog",
    "EventLogWriter",
    "Head",
    "LoggedPosition",
    "PositionRemoved",
    "PositionWritten",
    "RemovedPosition",
    "SourceStatus",
    "open_reader",
    "open_writer",
]
