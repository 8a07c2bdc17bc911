"""A writer for tests to kill: `python -m tests.event_log.writer_process DATA_DIR FIRST`.

Appends orders from number FIRST on, five to a position. Once the log has acknowledged an order, it prints
"<number> <sequence>".
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

from ptn_api.event_log import Document, DocumentWritten, EventLogWriter, PositionWritten, open_writer
from tests.factories import T0, order, position, written

PER_POSITION = 5


def text_with(number: int) -> PositionWritten:
    """The position's text right after this order."""
    n, index = divmod(number, PER_POSITION)
    return written(position(n, [order(n * PER_POSITION + k) for k in range(index + 1)]))


def write(log: EventLogWriter, first: int) -> None:
    for number in itertools.count(first):
        head = log.append([text_with(number)], T0 + number * 1_000)
        os.write(1, b"%d %d\n" % (number, head.sequence))
        if number % 20 == 0:
            content = b'"' + os.urandom(600_000).hex().encode() + b'"'
            log.append([DocumentWritten(document=Document.STATISTICS, content=content)], T0)
        if number % 50 == 0:
            log.prune(T0 + number * 1_000)


if __name__ == "__main__":
    log = open_writer(Path(sys.argv[1]), clock=lambda: T0 - 1)
    if not log.ready():
        log.baseline([], T0)
    write(log, int(sys.argv[2]))
