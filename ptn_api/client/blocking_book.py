"""The live mirror for programs that block: `Book`, kept up in a thread of its own.

with open_book("ws://localhost:8765", "http://localhost:48888", api_key=...) as book:
    for position in book.positions(status="open"):
        ...
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from types import TracebackType
from typing import Literal, ParamSpec

from ptn_api.client.background import Background
from ptn_api.client.book import Book
from ptn_api.model.position import Position
from ptn_api.wire.client_session import Cursor

__all__ = ["OpenBook", "open_book"]

P = ParamSpec("P")


class OpenBook:
    """Every position of a server (tier 100), made by `open_book()`; works in a notebook.

    Entering `with` waits until there is something to read. Reading takes place in the book's own thread, so
    that no position is seen half changed; `on_change` and `on_state` are called there, and may read.
    """

    def __init__(self, make: Callable[[], Book]) -> None:
        self._background = Background()
        try:
            self._book = self._background.call(make)
        except BaseException:
            self._background.end(_nothing)
            raise

    def __enter__(self) -> OpenBook:
        try:
            self._background.run(self._begin())
        except BaseException:
            self.close()
            raise
        return self

    async def _begin(self) -> None:
        await self._book.__aenter__()
        await self._book.loaded()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Follows no more; what is there can't be read any more."""
        self._background.end(self._book.close)
        self._background.join()

    def __len__(self) -> int:
        return self._background.call(self._book.__len__)

    @property
    def verified(self) -> bool:
        """Whether the last heartbeat's checksum was ours, and nothing was missed since."""
        return self._book.verified

    @property
    def cursor(self) -> Cursor:
        """How far the stream was followed."""
        return self._background.call(lambda: self._book.cursor)

    def position(self, miner_hotkey: str, position_uuid: str) -> Position | None:
        """As of now; `close_ms` is None while it is open."""
        return self._background.call(lambda: self._book.position(miner_hotkey, position_uuid))

    def positions(
        self, miner_hotkey: str | None = None, *, status: Literal["open", "closed"] | None = None
    ) -> list[Position]:
        """All positions as of now, at one moment."""
        return self._background.call(lambda: list(self._book.positions(miner_hotkey, status=status)))

    def until_verified(self) -> None:
        """Waits until a heartbeat has confirmed the state."""
        self._background.run(self._book.until_verified())


async def _nothing() -> None:
    """There is no book to close."""


def _blocking(book: Callable[P, Book]) -> Callable[P, OpenBook]:
    """So that what can be asked for is said in one place."""

    @wraps(book, assigned=(), updated=())
    def open_book(*args: P.args, **options: P.kwargs) -> OpenBook:
        """Every position as of now, for programs that block; takes what `Book` takes, see `OpenBook`."""
        return OpenBook(lambda: book(*args, **options))

    return open_book


open_book = _blocking(Book)
