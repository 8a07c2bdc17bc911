"""The last answers that carried an ETag, so that an unchanged document is not sent, nor read, again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

__all__ = ["AnswerCache"]


class AnswerCache:
    """Keeps so many results, those used last; 0 keeps none."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: OrderedDict[Hashable, tuple[str, Any]] = OrderedDict()

    def headers(self, key: Hashable) -> dict[str, str]:
        """What makes a question conditional."""
        kept = self._kept.get(key)
        return {} if kept is None else {"if-none-match": kept[0]}

    def get(self, key: Hashable) -> Any:
        """The result that the server says still holds; None if it is none of ours."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        self._kept.move_to_end(key)
        return kept[1]

    def keep(self, key: Hashable, etag: str | None, result: Any) -> None:
        if etag is None or self._size == 0:
            return
        self._kept[key] = (etag, result)
        self._kept.move_to_end(key)
        if len(self._kept) > self._size:
            self._kept.popitem(last=False)
