"""An answer that goes to a file as it comes, however large."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import httpx

from ptn_api.client.exchange import Call
from ptn_api.errors import SettingsError

__all__ = ["Download", "Progress"]

Progress = Callable[[int, int | None], object]
"""Told the bytes that have come, as they travel (compressed), and how many there will be, where known."""


class Download(Call[Path]):
    """A GET whose answer's body becomes a file; what is not whole is not there: it is written beside.

    What breaks off begins again, and is not resumed (`Range`): what is downloaded changes with every order,
    and its second half is of no use to the first. Raises SettingsError for what is there and is no file: a
    device or a pipe cannot be replaced, and a folder is not meant.
    """

    def __init__(self, path: str, to_file: str | os.PathLike[str], progress: Progress | None) -> None:
        super().__init__(path, lambda body, headers: self.file, kept=False)
        self.file = Path(to_file)
        self._progress = progress
        if self.file.exists() and not self.file.is_file():
            raise SettingsError(f"{self.file} is no file that could be replaced")

    def result(self, response: httpx.Response) -> Path:
        return self.file

    @contextlib.contextmanager
    def writing(self) -> Iterator[BinaryIO]:
        """Where the body goes; raises OSError where it cannot."""
        there = self.file.resolve()  # what a link leads to is replaced, not the link
        part = there.with_name(f"{there.name}.{secrets.token_hex(4)}.part")  # there may be others at it
        try:
            with part.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(there)
        finally:
            part.unlink(missing_ok=True)

    def tell(self, response: httpx.Response) -> None:
        if self._progress is not None:
            total = response.headers.get("content-length", "")
            self._progress(response.num_bytes_downloaded, int(total) if total.isdigit() else None)
