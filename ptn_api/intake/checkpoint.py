"""A `validator_checkpoint.json`, gzipped or not, as the baseline of a new log.

Cut into raw JSON, never decoded as a whole: 200 MB cost their bytes and one position at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import structlog

from ptn_api.errors import InvalidInputError
from ptn_api.event_log.contract import Change, Document, DocumentWritten, PositionWritten
from ptn_api.gzip_file import read_maybe_gzipped
from ptn_api.intake.files import check_name, check_object, check_utf8
from ptn_api.model.limit_order import LimitOrderFile, parse_limit_order
from ptn_api.model.position import parse_position
from ptn_api.model.repair import sound_json

__all__ = ["read_checkpoint"]

logger = structlog.get_logger()

Raw = msgspec.Raw

_object = msgspec.json.Decoder(dict[str, Raw])
_list = msgspec.json.Decoder(list[Raw])
_NULL = b"null"
_DOCUMENTS = {
    "eliminations": Document.ELIMINATIONS,
    "challengeperiod": Document.CHALLENGEPERIOD,
    "perf_ledgers": Document.PERF_LEDGERS,
    "miner_account_sizes": Document.ACCOUNT_SIZES,
    "asset_selections": Document.ASSET_SELECTIONS,
    "entities": Document.ENTITIES,
}
"""By their keys in a checkpoint."""


def read_checkpoint(path: Path) -> Iterator[Change]:
    """Yields its positions, then its documents, then the list of its miners.

    Reads checkpoints of present and older validators, and answers of REST. An entry that is malformed, or
    contradicts the miner it is listed under, is logged and skipped. Raises InvalidInputError, before the
    first change, if the file cannot be used: `unreadable`, `damaged`, `not_json`, `not_utf8` or
    `not_a_checkpoint`.
    """
    body = read_maybe_gzipped(path, "checkpoint")
    check_utf8(body)
    body = sound_json(body)
    try:
        keys = _object.decode(body)
        entries = _object.decode(keys["positions"])
    except (msgspec.ValidationError, KeyError):
        raise InvalidInputError("checkpoint: no positions in it", code="not_a_checkpoint") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidInputError(f"checkpoint: {error}", code="not_json") from None
    miners: list[str] = []
    for hotkey, entry in entries.items():
        bodies = _positions_of(hotkey, entry)
        if bodies is not None:
            miners.append(hotkey)
            yield from _read_positions(hotkey, bodies)
    yield from _documents(keys)
    yield from _limit_orders(keys)
    yield from _archived_positions(keys)
    yield DocumentWritten(document=Document.MINERS, content=msgspec.json.encode(sorted(miners)))
    logger.info("checkpoint_read", miners=len(miners))


def _skip(code: str, **fields: str) -> None:
    logger.warning("checkpoint_entry_skipped", code=code, **fields)


def _positions_of(hotkey: str, entry: Raw) -> list[Raw] | None:
    """Returns a miner's positions; its entry is an object with `positions`, or the list of them."""
    try:
        check_name(hotkey)
        is_object = bytes(memoryview(entry)[:1]) == b"{"
        return _list.decode(_object.decode(entry)["positions"] if is_object else entry)
    except (InvalidInputError, msgspec.DecodeError, KeyError):
        _skip("not_a_miner", hotkey=ascii(hotkey)[:200])
        return None


def _read_positions(hotkey: str, bodies: Iterable[Raw]) -> Iterator[PositionWritten]:
    for body in bodies:
        try:
            yield _position(hotkey, body)
        except InvalidInputError as error:
            _skip(error.code, hotkey=ascii(hotkey)[:200], reason=str(error))


def _position(hotkey: str, body: Raw) -> PositionWritten:
    problems: list[str] = []
    position, text = parse_position(bytes(body), problems)
    if position.miner_hotkey != hotkey:
        raise InvalidInputError("another miner's position", code="wrong_folder", field="miner_hotkey")
    check_name(position.position_uuid)
    if position.close_ms == 0 and not position.is_closed_position:
        # REST answers, and checkpoints made from them, have 0 where the validator writes null.
        keys = _object.decode(text.json())
        position, text = parse_position(msgspec.json.encode(keys | {"close_ms": Raw(_NULL)}))
    if problems:
        uuid = position.position_uuid
        logger.warning("position_incomplete", hotkey=hotkey, uuid=uuid, reason=problems[0])
    return PositionWritten(position=position, text=text)


def _documents(keys: dict[str, Raw]) -> Iterator[DocumentWritten]:
    for key, document in _DOCUMENTS.items():
        content = _content(keys, key)
        if document is Document.ELIMINATIONS and content.startswith(b"["):
            content = b'{"eliminations":' + content + b"}"
        try:
            if content:
                check_object(content)
                yield DocumentWritten(document=document, content=content)
        except InvalidInputError as error:
            _skip(error.code, document=key)


def _limit_orders(keys: dict[str, Raw]) -> Iterator[DocumentWritten]:
    """Yields the orders of {PAIR: {H: [order]}} by miner; they all wait."""
    by_miner: dict[str, list[LimitOrderFile]] = {}
    for pair, miners in _members(keys, "limit_orders"):
        for hotkey, orders in _members({pair: miners}, pair):
            try:
                check_name(hotkey)
                listed = _list.decode(orders)
            except (InvalidInputError, msgspec.DecodeError):
                _skip("not_a_miner", document="limit_orders", hotkey=ascii(hotkey)[:200])
                continue
            for body in listed:
                problems: list[str] = []
                try:
                    check_object(body)
                    order = parse_limit_order(bytes(body), problems)
                except InvalidInputError as error:
                    _skip(error.code, document="limit_orders", hotkey=ascii(hotkey)[:200])
                    continue
                if problems:
                    logger.warning("limit_order_incomplete", hotkey=hotkey, reason=problems[0])
                file = LimitOrderFile(trade_pair_id=pair, folder="unfilled", order=order)
                by_miner.setdefault(hotkey, []).append(file)
    for hotkey, files in by_miner.items():
        yield DocumentWritten(
            document=Document.LIMIT_ORDERS, content=msgspec.json.encode(files), miner_hotkey=hotkey
        )


def _archived_positions(keys: dict[str, Raw]) -> Iterator[DocumentWritten]:
    for hotkey, entry in _members(keys, "archived_positions"):
        texts = [change.text.json() for change in _read_positions(hotkey, _positions_of(hotkey, entry) or ())]
        if texts:
            yield DocumentWritten(
                document=Document.ARCHIVED_POSITIONS,
                content=b"[" + b",".join(texts) + b"]",
                miner_hotkey=hotkey,
            )


def _content(keys: dict[str, Raw], key: str) -> bytes:
    """Returns the JSON under a key; empty if it is missing or null."""
    content = bytes(keys.get(key, b""))
    return b"" if content == _NULL else content


def _members(keys: dict[str, Raw], key: str) -> Iterable[tuple[str, Raw]]:
    """Returns the members of the object under a key; none, and a warning, if it is something else."""
    try:
        return _object.decode(_content(keys, key) or b"{}").items()
    except (msgspec.DecodeError, RecursionError):
        _skip("not_an_object", document=ascii(key)[:200])
        return ()
