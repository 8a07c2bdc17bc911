"""Which of the package's files run while something happens."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from tests.structure import PACKAGE

_PREFIX = f"{PACKAGE}/"


@contextmanager
def files_executed() -> Iterator[set[str]]:
    """Collects the package's files, such as `stream/server.py`, in which a function is called.

    Covers this thread and threads started inside the block. Clear the set to start counting again.
    """
    files: set[str] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(_PREFIX):
            files.add(frame.f_code.co_filename.removeprefix(_PREFIX))

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield files
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
