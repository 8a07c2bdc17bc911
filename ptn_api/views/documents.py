"""The validator's documents as they are served, each compressed once per version and coding.

Documents are parsed no further than necessary: elements are cut out of the text, not encoded again. A
document that is not JSON of the expected shape is served unchanged and has no elements.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import wraps
from typing import Annotated, Any, Generic, TypeVar

import msgspec

from ptn_api.event_log.contract import Document, EventLog
from ptn_api.http.body import Body, body_of
from ptn_api.model.documents import (
    DebtLedgerSummary,
    EntityEndpoint,
    Period,
    eliminations_by_hotkey,
    periods,
)
from ptn_api.model.miner import MinerElimination
from ptn_api.model.statistics import lookback_days

__all__ = ["Documents", "Recent", "elements_of", "portfolio_ledger"]

T = TypeVar("T")

_MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_array = msgspec.json.Decoder(list[msgspec.Raw])
_hotkeys = msgspec.json.Decoder(list[str])


class _Hotkey(msgspec.Struct):
    hotkey: str


class _Statistics(msgspec.Struct):
    data: list[msgspec.Raw]


class _Subaccount(msgspec.Struct):
    synthetic_hotkey: str = ""
    status: str = ""
    hl_address: str | None = None


class _Entity(msgspec.Struct):
    subaccounts: dict[str, _Subaccount] = {}
    endpoint_url: str | None = None


class _DebtCheckpoint(msgspec.Struct):
    timestamp_ms: Annotated[float, msgspec.Meta(ge=0, lt=1 << 53)] | None = None
    performance: dict[str, Any] = {}


class _DebtLedger(msgspec.Struct):
    """The part of a debt ledger from which its summary is computed."""

    summary: dict[str, Any] = {}
    checkpoints: list[_DebtCheckpoint] = []

    def summary_of(self, hotkey: str) -> dict[str, Any]:
        """Returns the summary's values, if present, and those of the last checkpoint."""
        last = self.checkpoints[-1]
        numbers, parts = (
            {key: value for key, value in given.items() if type(value) in (int, float)}
            for given in (self.summary, last.performance)
        )
        pnl = parts.get("realized_pnl", 0.0) + parts.get("unrealized_pnl", 0.0)
        return {key: numbers.get(key) for key in DebtLedgerSummary.__struct_fields__} | {
            "hotkey": hotkey,
            "total_checkpoints": len(self.checkpoints),
            "latest_checkpoint_ms": None if last.timestamp_ms is None else int(last.timestamp_ms),
            "net_pnl": parts.get("net_pnl", pnl),
        }


class Recent(Generic[T]):
    """Recently used values, each kept until its version changes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[Hashable, tuple[Hashable, T]] = OrderedDict()
        """The least recently used one first."""

    def get(self, key: Hashable, version: Hashable) -> T | None:
        """Returns the value if it has this version."""
        kept = self._kept.get(key)
        if kept is None or kept[0] != version:
            return None
        self._kept.move_to_end(key)
        return kept[1]

    def last(self, key: Hashable) -> T | None:
        """Returns the value, of any version."""
        kept = self._kept.get(key)
        return None if kept is None else kept[1]

    def keep(self, key: Hashable, version: Hashable, value: T) -> T:
        """Keeps the value; evicts its older version, or the least recently used value."""
        self._kept[key] = (version, value)
        self._kept.move_to_end(key)
        if len(self._kept) > self._limit:
            self._kept.popitem(last=False)
        return value


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
        self._collateral: tuple[int, dict[str, list[dict[str, Any]]]] = (0, {})

    def snapshot(self, document: Document) -> Body | None:
        """The document as the validator wrote it; None without one."""
        return self._keep("snapshot", document, lambda text: None if text is None else body_of(text))

    def content(self, document: Document) -> bytes | None:
        """The document's text."""
        return self._keep("content", document, lambda text: text)

    def elements(self, document: Document) -> dict[str, msgspec.Raw]:
        """The texts of an object's values; empty if the document is not an object."""
        return self._keep("elements", document, elements_of)

    def element(self, document: Document, key: str) -> bytes | None:
        """The text of one value of an object."""
        value = self.elements(document).get(key)
        return None if value is None else bytes(value)

    def read(self, document: Document) -> bytes | None:
        """Reads the document from the log: unlike `content`, it is not kept in memory."""
        return self._log.document(document)

    def of_miner(self, document: Document, hotkey: str) -> bytes | None:
        """Reads one miner's document from the log: documents of miners are not kept in memory."""
        return self._log.document(document, hotkey)

    def revisions_by_miner(self, document: Document) -> dict[str, int]:
        """Returns the miners with such a document and the revision at which each last changed; sorted."""
        return self._keep(
            "revisions_by_miner",
            document,
            lambda _: dict(sorted(self._log.document_revisions(document).items())),
        )

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
        keys = elements_of(content)
        try:
            miners = _array.decode(keys["data"])
        except (KeyError, msgspec.MsgspecError):
            return body_of(content)
        data = b"[" + b",".join(_without(bytes(miner), "checkpoints") for miner in miners) + b"]"
        return body_of(msgspec.json.encode({**keys, "data": msgspec.Raw(data)}))

    @_derived_from(Document.STATISTICS)
    def lookback_days(self, content: bytes | None) -> float:
        """Returns the days that `thirty_day_returns` looks back."""
        try:
            return lookback_days(msgspec.json.decode(elements_of(content).get("constants", b"{}")))
        except _MALFORMED:
            return lookback_days({})

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
    def eliminated(self, content: bytes | None) -> dict[str, MinerElimination]:
        """Returns the eliminated miners."""
        try:
            return eliminations_by_hotkey(msgspec.json.decode(content or b"{}"))
        except _MALFORMED:
            return {}

    @_derived_from(Document.CHALLENGEPERIOD)
    def challenge_periods(self, content: bytes | None) -> dict[str, list[Period]]:
        """Returns each miner's buckets, oldest first."""
        try:
            return periods(msgspec.json.decode(content or b"{}"))
        except _MALFORMED:
            return {}

    @_derived_from(Document.MINERS)
    def miners(self, content: bytes | None) -> list[str] | None:
        """The hotkeys that the validator has a directory for; None if intake reads no directory."""
        try:
            return None if content is None else _hotkeys.decode(content)
        except _MALFORMED:
            return None

    @_derived_from(Document.ACCOUNT_SIZES)
    def collateral_records(self, content: bytes | None) -> tuple[int, dict[str, list[dict[str, Any]]]]:
        """The records of each miner's account size, oldest first, and a number that changes when they do.

        The file has other values of the accounts as well, which change with every order.
        """
        found = {}
        for hotkey, element in elements_of(content).items():
            try:
                state = msgspec.json.decode(element)
            except _MALFORMED:
                continue
            if isinstance(state, dict):
                state = state.get("collateral_records")
            if isinstance(state, list):
                # A list may end in the account's other values, which are not a record.
                found[hotkey] = [row for row in state if isinstance(row, dict) and "update_time_ms" in row]
        number, records = self._collateral
        if found != records:
            self._collateral = (number + 1, found)
        return self._collateral

    @_derived_from(Document.ENTITIES)
    def endpoints(self, content: bytes | None) -> dict[tuple[str, str], EntityEndpoint]:
        """Returns the endpoints of the entities that state an address, by the keys of their subaccounts.

        The keys are ("subaccount", its hotkey) and ("hl_address", its address in lower case).
        """
        found: dict[tuple[str, str], EntityEndpoint] = {}
        for hotkey, element in elements_of(content).items():
            try:
                entity = msgspec.json.decode(element, type=_Entity)
            except _MALFORMED:
                continue
            if not entity.endpoint_url:
                continue
            endpoint = EntityEndpoint(
                status="success", entity_hotkey=hotkey, endpoint_url=entity.endpoint_url
            )
            for account in entity.subaccounts.values():
                found["subaccount", account.synthetic_hotkey] = endpoint
                if account.hl_address and account.status in ("active", "pending"):
                    found["hl_address", account.hl_address.lower()] = endpoint
        return found

    # --- ledgers ------------------------------------------------------------------------------------------

    @_derived_from(Document.PERF_LEDGERS)
    def portfolio_ledgers(self, content: bytes | None) -> dict[str, msgspec.Raw]:
        """Returns the perf ledger of each miner's portfolio."""
        return _portfolio_ledgers(content)

    @_derived_from(Document.PERF_LEDGERS)
    def perf_ledgers_body(self, content: bytes | None) -> Body:
        """Returns {hotkey: portfolio ledger}, as in the checkpoint."""
        return body_of(msgspec.json.encode(_portfolio_ledgers(content)))

    def ledgers(self, document: Document) -> dict[str, msgspec.Raw]:
        """Returns the miners' elements of the debt, emissions or penalty ledgers."""
        return self._keep("ledgers", document, lambda text: elements_of(elements_of(text).get("ledgers")))

    @_derived_from(Document.DEBT_LEDGERS)
    def debt_summaries(self, content: bytes | None) -> Body | None:
        """Returns a summary of each debt ledger that has a checkpoint; None without debt ledgers."""
        if content is None:
            return None
        summaries = {}
        for hotkey, element in self.ledgers(Document.DEBT_LEDGERS).items():
            try:
                ledger = msgspec.json.decode(element, type=_DebtLedger)
            except _MALFORMED:
                continue
            if ledger.checkpoints:
                summaries[hotkey] = ledger.summary_of(hotkey)
        return body_of(msgspec.json.encode(summaries))

    def _keep(self, name: str, document: Document, derive: Callable[[bytes | None], T]) -> T:
        revision = self._log.document_revision(document)
        kept = self._kept.get((name, document))
        if kept is None or kept[0] != revision:
            kept = self._kept[name, document] = (revision, derive(self._log.document(document)))
        value: T = kept[1]
        return value


def elements_of(text: bytes | msgspec.Raw | None) -> dict[str, msgspec.Raw]:
    """Returns the texts of an object's values; empty if the text is not an object."""
    try:
        return _object.decode(text or b"{}")
    except _MALFORMED:
        return {}


def portfolio_ledger(element: msgspec.Raw) -> msgspec.Raw | None:
    """Returns the ledger of a miner's portfolio. Some validators keep one of each trade pair, too."""
    keys = elements_of(element)
    return keys.get("portfolio", element if "cps" in keys else None)


def _portfolio_ledgers(content: bytes | None) -> dict[str, msgspec.Raw]:
    ledgers = ((hotkey, portfolio_ledger(element)) for hotkey, element in elements_of(content).items())
    return {hotkey: ledger for hotkey, ledger in ledgers if ledger is not None}


def _without(element: bytes, key: str) -> bytes:
    keys = elements_of(element)
    return msgspec.json.encode({k: v for k, v in keys.items() if k != key}) if key in keys else element
