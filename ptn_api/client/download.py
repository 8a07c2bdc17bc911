"""An answer that goes to a file as it comes, however large."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import httpx

from ptn_api.client.exchange import Call

__all__ = ["Download", "Progress"]

Progress = Callable[[int, int | None], object]
"""Told the bytes that have come, as they travel (compressed), and how many there will be, where known."""


class Download(Call[Path]):
    """A GET whose answer's body becomes a file; what is not whole is not there: it is written beside."""

    def __init__(self, path: str, to_file: str | os.PathLike[str], progress: Progress | None) -> None:
        super().__init__(path, lambda body, headers: self.file, kept=False)
        self.file = Path(to_file)
        self._progress = progress

    def result(self, response: httpx.Response) -> Path:
        return self.file

    @contextlib.contextmanager
    def writing(self) -> Iterator[BinaryIO]:
        """Where the body goes; raises OSError where it cannot."""
        part = self.file.with_name(self.file.name + ".part")
        try:
            with part.open("wb") as file:
                yield file
            part.replace(self.file)
        finally:
            part.unlink(missing_ok=True)

    def tell(self, response: httpx.Response) -> None:
        if self._progress is not None:
            total = response.headers.get("content-length", "")
            self._progress(response.num_bytes_downloaded, int(total) if total.isdigit() else None)
