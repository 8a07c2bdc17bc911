"""The validator's documents as they are served: each compressed once per version and coding.

Nothing is parsed further than needed: elements are cut out of the text, not written anew. A document that
is no JSON of the expected shape is served as it came, and has no elements.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from ptn_api.event_log.contract import Document, EventLog
from ptn_api.http.body import Body, body_of

__all__ = ["Documents"]

T = TypeVar("T")

_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_hotkeys = msgspec.json.Decoder(list[str])


class _Statistics(msgspec.Struct):
    data: list[msgspec.Raw]


class _Hotkey(msgspec.Struct):
    hotkey: str


class _Eliminations(msgspec.Struct):
    eliminations: list[_Hotkey]


class Documents:
    """Reads the log's documents; what follows from one is kept until its revision changes."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._kept: dict[tuple[str, Document], tuple[int, Any]] = {}

    def whole(self, document: Document) -> Body | None:
        """The document as the validator wrote it; None: there is none."""
        return self._keep("whole", document, _whole)

    def statistics(self, *, checkpoints: bool) -> Body | None:
        if checkpoints:
            return self.whole(Document.STATISTICS)
        return self._keep(
            "without checkpoints",
            Document.STATISTICS,
            lambda content: None if content is None else body_of(_without_checkpoints(content)),
        )

    def statistics_of(self, hotkey: str, *, checkpoints: bool) -> bytes | None:
        """One miner's element of the statistics."""
        element = self._keep("by hotkey", Document.STATISTICS, _statistics_by_hotkey).get(hotkey)
        if element is None or checkpoints:
            return element
        return _without(element, "checkpoints")

    def perf_ledger_of(self, hotkey: str) -> bytes | None:
        """One miner's element of the perf ledgers."""
        ledgers = self._keep("elements", Document.PERF_LEDGERS, _elements)
        return bytes(ledgers[hotkey]) if hotkey in ledgers else None

    def portfolio_ledgers(self) -> Body:
        """{hotkey: portfolio ledger}, as the checkpoint holds them."""
        return self._keep("portfolios", Document.PERF_LEDGERS, _portfolios)

    def version_of(self, *documents: Document) -> tuple[int, ...]:
        """What changes whenever one of these does."""
        return tuple(self._log.document_revision(document) for document in documents)

    def content(self, document: Document) -> bytes | None:
        """The document's text."""
        return self._keep("content", document, lambda content: content)

    def element(self, document: Document, key: str) -> bytes | None:
        """The text of one key of a document that is an object."""
        value = self._keep("elements", document, _elements).get(key)
        return None if value is None else bytes(value)

    def eliminated(self) -> frozenset[str]:
        """Hotkeys of the eliminated miners."""
        return self._keep("hotkeys", Document.ELIMINATIONS, _eliminated)

    def miners(self) -> list[str] | None:
        """The hotkeys that the validator has a directory for; None: no directory is read."""
        return self._keep("hotkeys", Document.MINERS, _listed)

    def _keep(self, what: str, document: Document, make: Callable[[bytes | None], T]) -> T:
        revision = self._log.document_revision(document)
        kept = self._kept.get((what, document))
        if kept is None or kept[0] != revision:
            kept = self._kept[what, document] = (revision, make(self._log.document(document)))
        value: T = kept[1]
        return value


def _whole(content: bytes | None) -> Body | None:
    return None if content is None else body_of(content)


def _elements(content: bytes | msgspec.Raw | None) -> dict[str, msgspec.Raw]:
    try:
        return _object.decode(content or b"{}")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}


def _listed(content: bytes | None) -> list[str] | None:
    try:
        return None if content is None else _hotkeys.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _eliminated(content: bytes | None) -> frozenset[str]:
    try:
        rows = msgspec.json.decode(content or b'{"eliminations":[]}', type=_Eliminations).eliminations
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return frozenset()
    return frozenset(row.hotkey for row in rows)


def _statistics_by_hotkey(content: bytes | None) -> dict[str, bytes]:
    try:
        data = msgspec.json.decode(content or b'{"data":[]}', type=_Statistics).data
        return {msgspec.json.decode(raw, type=_Hotkey).hotkey: bytes(raw) for raw in data}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}


def _without_checkpoints(content: bytes) -> bytes:
    keys = _elements(content)
    try:
        data = msgspec.json.decode(keys.get("data", b"[]"), type=list[msgspec.Raw])
    except msgspec.MsgspecError:
        return content
    short = b"[" + b",".join(_without(bytes(raw), "checkpoints") for raw in data) + b"]"
    return msgspec.json.encode({**keys, "data": msgspec.Raw(short)}) if "data" in keys else content


def _without(element: bytes, key: str) -> bytes:
    keys = _elements(element)
    return msgspec.json.encode({k: v for k, v in keys.items() if k != key}) if key in keys else element


def _portfolios(content: bytes | None) -> Body:
    """Each miner's portfolio ledger; in the older form the miner's element is it."""
    ledgers = {}
    for hotkey, element in _elements(content).items():
        keys = _elements(element)
        if "portfolio" in keys:
            ledgers[hotkey] = keys["portfolio"]
        elif "cps" in keys:
            ledgers[hotkey] = element
    return body_of(msgspec.json.encode(ledgers))
