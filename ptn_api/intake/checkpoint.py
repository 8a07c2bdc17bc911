"""A `validator_checkpoint.json`, gzipped or not, as the baseline of a new log.

Cut into pieces, not into objects: 200 MB of JSON cost their bytes and one position at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import msgspec
import structlog

from ptn_api.errors import InvalidInputError
from ptn_api.event_log.contract import Change, Document, DocumentWritten, PositionWritten
from ptn_api.gzip_file import read_maybe_gzipped
from ptn_api.intake.documents import check_object
from ptn_api.intake.files import check_name, check_utf8
from ptn_api.model.position import Position, PositionText, parse_position

__all__ = ["read_checkpoint"]

logger = structlog.get_logger()

Raw = msgspec.Raw

_object = msgspec.json.Decoder(dict[str, Raw])
_list = msgspec.json.Decoder(list[Raw])
_NULL = b"null"


def read_checkpoint(path: Path) -> Iterator[Change]:
    """Its positions, then the documents in it, then the list of miners (those that have positions).

    An entry that is no position, or that disagrees with the miner it stands under, is reported and skipped.
    Raises InvalidInputError where the file as a whole cannot be used: `unreadable`, `damaged`, `not_json`,
    `not_utf8` or `not_a_checkpoint`; before the first change.
    """
    keys = _split(read_maybe_gzipped(path, "checkpoint"))
    miners: set[str] = set()
    skipped = 0
    for hotkey, body in _bodies(keys["positions"]):
        try:
            yield _position(hotkey, body)
            miners.add(hotkey)
        except InvalidInputError as error:
            skipped += 1
            logger.warning(
                "checkpoint_entry_skipped", hotkey=ascii(hotkey)[:200], code=error.code, reason=str(error)
            )
    yield from _documents(keys)
    yield DocumentWritten(document=Document.MINERS, content=msgspec.json.encode(sorted(miners)))
    logger.info("checkpoint_read", miners=len(miners), skipped=skipped)


def _split(body: bytes) -> dict[str, Raw]:
    check_utf8(body)
    try:
        keys = _object.decode(body)
        _object.decode(keys["positions"])
    except (msgspec.ValidationError, KeyError):
        _refuse("no positions in it", "not_a_checkpoint")
    except (msgspec.DecodeError, RecursionError) as error:
        _refuse(str(error), "not_json")
    return keys


def _refuse(reason: str, code: str) -> NoReturn:
    raise InvalidInputError(f"checkpoint: {reason}", code=code)


def _bodies(positions: Raw) -> Iterator[tuple[str, Raw]]:
    """(hotkey, body) of every entry: a miner's is an object with `positions`, or the list itself."""
    for hotkey, entry in _object.decode(positions).items():
        try:
            check_name(hotkey)
            bodies = _list.decode(_object.decode(entry)["positions"] if _is_object(entry) else entry)
        except (InvalidInputError, msgspec.DecodeError, KeyError):
            logger.warning("checkpoint_entry_skipped", hotkey=ascii(hotkey)[:200], code="not_a_miner")
            continue
        for body in bodies:
            yield hotkey, body


def _is_object(value: Raw) -> bool:
    return bytes(memoryview(value)[:1]) == b"{"


def _position(hotkey: str, body: Raw) -> PositionWritten:
    position, text = parse_position(bytes(body))
    if position.miner_hotkey != hotkey:
        raise InvalidInputError("another miner's position", code="wrong_folder", field="miner_hotkey")
    check_name(position.position_uuid)
    if position.close_ms == 0 and not position.is_closed_position:
        position, text = _still_open(position, text)
    return PositionWritten(position=position, text=text)


def _still_open(position: Position, text: PositionText) -> tuple[Position, PositionText]:
    """REST answers, and checkpoints taken from them, write an open position's close_ms as 0, not null."""
    keys = _object.decode(text.json())
    return parse_position(msgspec.json.encode(keys | {"close_ms": Raw(_NULL)}))


def _documents(keys: dict[str, Raw]) -> Iterator[DocumentWritten]:
    for document in (Document.ELIMINATIONS, Document.CHALLENGEPERIOD, Document.PERF_LEDGERS):
        content = bytes(keys.get(document.value, b""))
        if not content or content == _NULL:
            continue
        if document is Document.ELIMINATIONS and content.startswith(b"["):
            content = b'{"eliminations":' + content + b"}"
        try:
            check_object(content)
        except InvalidInputError as error:
            logger.warning("checkpoint_entry_skipped", document=document.value, code=error.code)
            continue
        yield DocumentWritten(document=document, content=content)
