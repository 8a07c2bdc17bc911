"""A `validator_checkpoint.json`, gzipped or not, as the baseline of a new log.

Cut into raw JSON, never decoded as a whole: 200 MB cost their bytes and one position at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import structlog

from ptn_api.errors import InvalidInputError
from ptn_api.event_log.contract import Change, Document, DocumentWritten, PositionWritten
from ptn_api.gzip_file import read_maybe_gzipped
from ptn_api.intake.documents import check_object
from ptn_api.intake.files import check_name, check_utf8
from ptn_api.model.position import parse_position

__all__ = ["read_checkpoint"]

logger = structlog.get_logger()

Raw = msgspec.Raw

_object = msgspec.json.Decoder(dict[str, Raw])
_list = msgspec.json.Decoder(list[Raw])
_NULL = b"null"


def read_checkpoint(path: Path) -> Iterator[Change]:
    """Yields its positions, then its documents, then the list of miners that have positions.

    An entry that is malformed, or contradicts the miner it is listed under, is logged and skipped. Raises
    InvalidInputError, before the first change, if the file cannot be used: `unreadable`, `damaged`,
    `not_json`, `not_utf8` or `not_a_checkpoint`.
    """
    body = read_maybe_gzipped(path, "checkpoint")
    check_utf8(body)
    try:
        keys = _object.decode(body)
        entries = _object.decode(keys["positions"])
    except (msgspec.ValidationError, KeyError):
        raise InvalidInputError("checkpoint: no positions in it", code="not_a_checkpoint") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidInputError(f"checkpoint: {error}", code="not_json") from None
    miners: set[str] = set()
    skipped = 0
    for hotkey, entry in entries.items():
        try:
            check_name(hotkey)
            # A miner's entry is an object with `positions`, or the list of them.
            is_object = bytes(memoryview(entry)[:1]) == b"{"
            bodies = _list.decode(_object.decode(entry)["positions"] if is_object else entry)
        except (InvalidInputError, msgspec.DecodeError, KeyError):
            logger.warning("checkpoint_entry_skipped", hotkey=ascii(hotkey)[:200], code="not_a_miner")
            continue
        for position_body in bodies:
            try:
                yield _position(hotkey, position_body)
                miners.add(hotkey)
            except InvalidInputError as error:
                skipped += 1
                logger.warning(
                    "checkpoint_entry_skipped", hotkey=ascii(hotkey)[:200], code=error.code, reason=str(error)
                )
    yield from _documents(keys)
    yield DocumentWritten(document=Document.MINERS, content=msgspec.json.encode(sorted(miners)))
    logger.info("checkpoint_read", miners=len(miners), skipped=skipped)


def _position(hotkey: str, body: Raw) -> PositionWritten:
    position, text = parse_position(bytes(body))
    if position.miner_hotkey != hotkey:
        raise InvalidInputError("another miner's position", code="wrong_folder", field="miner_hotkey")
    check_name(position.position_uuid)
    if position.close_ms == 0 and not position.is_closed_position:
        # REST answers, and checkpoints made from them, have 0 where the validator writes null.
        keys = _object.decode(text.json())
        position, text = parse_position(msgspec.json.encode(keys | {"close_ms": Raw(_NULL)}))
    return PositionWritten(position=position, text=text)


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
