"""The one ordered history: each order gets its sequence here, once, before any reader sees it.

`contract` is what a log promises; `open_writer` and `open_reader` open the one in SQLite. Intake is the only
writer; REST and stream read.
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
