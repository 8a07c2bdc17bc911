"""The validator's documents as they are served, each compressed once per version and coding.

Documents are parsed no further than necessary: elements are cut out of the text, not encoded again. A
document that is not JSON of the expected shape is served unchanged and has no elements.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import msgspec

from ptn_api.event_log.contract import Document, EventLog
from ptn_api.http.body import Body, body_of

__all__ = ["Documents"]

T = TypeVar("T")

_MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_array = msgspec.json.Decoder(list[msgspec.Raw])
_hotkeys = msgspec.json.Decoder(list[str])


class _Statistics(msgspec.Struct):
    data: list[msgspec.Raw]


class _Hotkey(msgspec.Struct):
    hotkey: str


class _Eliminations(msgspec.Struct):
    eliminations: list[_Hotkey]


def _derived_from(
    document: Document,
) -> Callable[[Callable[[Documents, bytes | None], T]], Callable[[Documents], T]]:
    """Decorates a method that takes a document's content, to be called without it.

    Without a document the method receives None. The result is kept until the document changes.
    """

    def decorate(derive: Callable[[Documents, bytes | None], T]) -> Callable[[Documents], T]:
        @wraps(derive)
        def cached(self: Documents) -> T:
            return self._keep(derive.__name__, document, lambda content: derive(self, content))

        return cached

    return decorate


class Documents:
    """The log's documents, and values derived from them that are kept until their revision changes."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._kept: dict[tuple[str, Document], tuple[int, Any]] = {}

    def snapshot(self, document: Document) -> Body | None:
        """The document as the validator wrote it; None without one."""
        return self._keep("snapshot", document, lambda text: None if text is None else body_of(text))

    def content(self, document: Document) -> bytes | None:
        """The document's text."""
        return self._keep("content", document, lambda text: text)

    def elements(self, document: Document) -> dict[str, msgspec.Raw]:
        """The texts of an object's values; empty if the document is not an object."""
        return self._keep("elements", document, _elements)

    def element(self, document: Document, key: str) -> bytes | None:
        """The text of one value of an object."""
        value = self.elements(document).get(key)
        return None if value is None else bytes(value)

    def revisions_of(self, *documents: Document) -> tuple[int, ...]:
        """The revisions at which these documents last changed."""
        return tuple(self._log.document_revision(document) for document in documents)

    # --- statistics ---------------------------------------------------------------------------------------

    def statistics_of(self, hotkey: str, *, checkpoints: bool) -> bytes | None:
        """One miner's element of the statistics."""
        element = self.statistics_by_hotkey().get(hotkey)
        return element if element is None or checkpoints else _without(element, "checkpoints")

    @_derived_from(Document.STATISTICS)
    def statistics_without_checkpoints(self, content: bytes | None) -> Body | None:
        """The statistics without the miners' checkpoints, or unchanged if they are malformed."""
        if content is None:
            return None
        keys = _elements(content)
        try:
            miners = _array.decode(keys["data"])
        except (KeyError, msgspec.MsgspecError):
            return body_of(content)
        data = b"[" + b",".join(_without(bytes(miner), "checkpoints") for miner in miners) + b"]"
        return body_of(msgspec.json.encode({**keys, "data": msgspec.Raw(data)}))

    @_derived_from(Document.STATISTICS)
    def statistics_by_hotkey(self, content: bytes | None) -> dict[str, bytes]:
        """The miners' elements; none if the statistics are malformed."""
        try:
            data = msgspec.json.decode(content or b'{"data":[]}', type=_Statistics).data
            return {msgspec.json.decode(raw, type=_Hotkey).hotkey: bytes(raw) for raw in data}
        except _MALFORMED:
            return {}

    # --- miners -------------------------------------------------------------------------------------------

    @_derived_from(Document.ELIMINATIONS)
    def eliminated(self, content: bytes | None) -> frozenset[str]:
        """Hotkeys of the eliminated miners."""
        try:
            rows = msgspec.json.decode(content or b'{"eliminations":[]}', type=_Eliminations).eliminations
        except _MALFORMED:
            return frozenset()
        return frozenset(row.hotkey for row in rows)

    @_derived_from(Document.MINERS)
    def miners(self, content: bytes | None) -> list[str] | None:
        """The hotkeys that the validator has a directory for; None if intake reads no directory."""
        try:
            return None if content is None else _hotkeys.decode(content)
        except _MALFORMED:
            return None

    # --- perf ledgers -------------------------------------------------------------------------------------

    def perf_ledger_of(self, hotkey: str) -> bytes | None:
        """One miner's element of the perf ledgers."""
        return self.element(Document.PERF_LEDGERS, hotkey)

    @_derived_from(Document.PERF_LEDGERS)
    def portfolio_ledgers(self, content: bytes | None) -> Body:
        """{hotkey: portfolio ledger}, as in the checkpoint; an element in the older form is the ledger."""
        ledgers = {}
        for hotkey, element in _elements(content).items():
            keys = _elements(element)
            if "portfolio" in keys:
                ledgers[hotkey] = keys["portfolio"]
            elif "cps" in keys:
                ledgers[hotkey] = element
        return body_of(msgspec.json.encode(ledgers))

    def _keep(self, name: str, document: Document, derive: Callable[[bytes | None], T]) -> T:
        revision = self._log.document_revision(document)
        kept = self._kept.get((name, document))
        if kept is None or kept[0] != revision:
            kept = self._kept[name, document] = (revision, derive(self._log.document(document)))
        value: T = kept[1]
        return value


def _elements(text: bytes | msgspec.Raw | None) -> dict[str, msgspec.Raw]:
    try:
        return _object.decode(text or b"{}")
    except _MALFORMED:
        return {}


def _without(element: bytes, key: str) -> bytes:
    keys = _elements(element)
    return msgspec.json.encode({k: v for k, v in keys.items() if k != key}) if key in keys else element
