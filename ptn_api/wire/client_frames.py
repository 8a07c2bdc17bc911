"""Client frames as a server reads them: the login leniently, later requests strictly."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import msgspec

from ptn_api.errors import InvalidInputError
from ptn_api.model.trade_pair import resolve_pair, split_names
from ptn_api.wire import codec
from ptn_api.wire.frames import (
    Auth,
    ClientTime,
    Format,
    Ping,
    SubaccountAction,
    SubaccountRequest,
    Subscribe,
    Unsubscribe,
)

__all__ = [
    "MOST_NAMES",
    "SMALL_FRAME_BYTES",
    "ClientRequest",
    "DatedOrder",
    "Subscription",
    "read_login",
    "read_request",
]

T = TypeVar("T")


SMALL_FRAME_BYTES = 4_096
"""The most bytes of a login, and of any later message but a version 2 subscribe, which may have filters."""
MOST_NAMES = 2_048
"""The most names in one filter: more than there are miners, or trade pairs."""
LONGEST_NAME = 64
_ECHOED_BYTES = 64
_ABSENT = msgspec.Raw()
_ClientTime: Any = ClientTime | None
_Text: Any = str | None


class _Login(msgspec.Struct):
    """The first frame. Values stay undecoded until their type is known to be right."""

    api_key: msgspec.Raw = _ABSENT
    last_sequence: msgspec.Raw = _ABSENT
    version: msgspec.Raw = _ABSENT
    epoch: msgspec.Raw = _ABSENT


def read_login(data: bytes | str) -> Auth:
    """Decodes a login; a field of the wrong type counts as absent, as with existing servers.

    Raises InvalidInputError, code `not_json` or `bad_frame`, if the frame is not a JSON object.
    """
    login = codec.decode(data, _Login)
    return Auth(
        api_key=_lenient(login.api_key, str, ""),
        last_sequence=_lenient(login.last_sequence, int, -1),
        version=_lenient(login.version, int, 1),
        epoch=_lenient(login.epoch, _Text, None),
    )


def _lenient(raw: msgspec.Raw, kind: type[T], default: T) -> T:
    """Decodes a value; one that is absent or of another type counts as the default."""
    try:
        return codec.decode(raw, kind) if raw else default
    except InvalidInputError:
        return default


def _echoed(raw: msgspec.Raw) -> ClientTime | None:
    """Decodes a time that is only echoed: 0 if it is neither a number nor a short text, None without one."""
    if len(raw) > 6 * _ECHOED_BYTES:  # each byte may be written as \\u0000
        return 0
    value = _lenient(raw, _ClientTime, 0) if raw else None
    return 0 if isinstance(value, str) and len(value.encode()) > _ECHOED_BYTES else value


class DatedOrder(Protocol):
    """The facts that decide whether an order is too old for a subscription."""

    @property
    def late(self) -> bool: ...

    @property
    def processed_ms(self) -> int: ...


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """The orders that a client wants. Filters are AND-ed; None means no filter.

    Late orders filled more than `late_window_ms` ago are left out; None: they are included. Equal
    subscriptions are sent the same bytes.
    """

    version: int = 1
    miners: frozenset[str] | None = None
    trade_pairs: frozenset[str] | None = None
    format: Format = "full"
    updates: bool = False
    late_window_ms: int | None = None

    @property
    def filtered(self) -> bool:
        return self.miners is not None or self.trade_pairs is not None

    @property
    def wants_checksum(self) -> bool:
        """Whether the client can keep the complete state, and so compare its checksum."""
        return self.updates and not self.filtered

    def matches(self, miner_hotkey: str, trade_pair: str | None) -> bool:
        """Returns whether a position matches; if its trade pair is not known, the miner alone decides."""
        if self.miners is not None and miner_hotkey not in self.miners:
            return False
        return self.trade_pairs is None or trade_pair is None or trade_pair in self.trade_pairs

    def is_too_old(self, order: DatedOrder, now_ms: int) -> bool:
        """Returns whether an order is left out because of its age."""
        window_ms = self.late_window_ms
        return window_ms is not None and order.late and now_ms - order.processed_ms > window_ms


class _Version1Request(msgspec.Struct):
    """Version 1 always subscribes to everything; other fields are ignored."""

    type: str
    sender_timestamp: msgspec.Raw = _ABSENT
    timestamp: msgspec.Raw = _ABSENT


class _SubaccountRequest(msgspec.Struct):
    type: SubaccountAction
    synthetic_hotkey: msgspec.Raw = _ABSENT


class _Version2Subscribe(msgspec.Struct, tag="subscribe", forbid_unknown_fields=True):
    """Unknown fields are refused: a misspelt filter must not mean "no filter"."""

    all: bool | None = None
    sender_timestamp: msgspec.Raw = _ABSENT
    miners: list[str] | None = None
    trade_pairs: list[str] | None = None
    format: Format = "full"
    updates: bool = False
    revision: int | None = None


class _Version2Unsubscribe(msgspec.Struct, tag="unsubscribe", forbid_unknown_fields=True):
    all: bool | None = None
    sender_timestamp: msgspec.Raw = _ABSENT


class _Version2Ping(msgspec.Struct, tag="ping"):
    timestamp: msgspec.Raw = _ABSENT


ClientRequest = Subscribe | Unsubscribe | Ping | SubaccountRequest
_VERSION_1 = msgspec.json.Decoder(_Version1Request)
_VERSION_2 = msgspec.json.Decoder(_Version2Subscribe | _Version2Unsubscribe | _Version2Ping)


def read_request(data: bytes | str, version: int) -> ClientRequest:
    """Decodes a frame of a client that has logged in.

    Raises InvalidInputError, code `not_json` or `bad_frame`, with a message that names the field.
    """
    if version == 1:
        old = codec.decoded(_VERSION_1, data)
        match old.type:
            case "ping":
                return Ping(timestamp=_echoed(old.timestamp) or 0)
            case "subscribe":
                return Subscribe(all=True, sender_timestamp=_echoed(old.sender_timestamp))
            case "unsubscribe":
                return Unsubscribe(all=True, sender_timestamp=_echoed(old.sender_timestamp))
        request = codec.decode(data, _SubaccountRequest)
        hotkey = _echoed(request.synthetic_hotkey)
        return SubaccountRequest(
            type=request.type, synthetic_hotkey=hotkey if isinstance(hotkey, str) else None
        )
    frame = codec.decoded(_VERSION_2, data)
    if not isinstance(frame, _Version2Subscribe) and len(data) > SMALL_FRAME_BYTES:
        problem = f"too big: only a subscribe may have more than {SMALL_FRAME_BYTES} bytes"
        raise InvalidInputError(problem, code="bad_frame")
    match frame:
        case _Version2Ping():
            return Ping(timestamp=_echoed(frame.timestamp) or 0)
        case _Version2Unsubscribe():
            return Unsubscribe(all=frame.all, sender_timestamp=_echoed(frame.sender_timestamp))
    # As REST reads them, except that an empty choice is an error: here a filter is present or it is not.
    miners = None if frame.miners is None else _names(frame.miners, "miners")
    pairs = None if frame.trade_pairs is None else _names(frame.trade_pairs, "trade_pairs")
    if frame.revision is not None:
        if frame.revision < 0:
            raise InvalidInputError("revision: must not be negative", code="bad_frame", field="revision")
        if not frame.updates:
            raise InvalidInputError("revision: needs updates", code="bad_frame", field="revision")
    return Subscribe(
        all=frame.all,
        sender_timestamp=_echoed(frame.sender_timestamp),
        miners=miners,
        trade_pairs=None if pairs is None else [resolve_pair(name) or name for name in pairs],
        format=frame.format,
        updates=frame.updates,
        revision=frame.revision,
    )


def _names(texts: list[str], field: str) -> list[str]:
    problem = None
    if sum(text.count(",") + 1 for text in texts) > MOST_NAMES:  # before they are split
        problem = f"more than {MOST_NAMES} names; leave the field out to choose all"
    elif not (names := split_names(texts)):
        problem = "an empty list chooses nothing; leave the field out to choose all"
    elif max(map(len, names)) > LONGEST_NAME:
        problem = f"a name has more than {LONGEST_NAME} characters"
    if problem is not None:
        raise InvalidInputError(f"{field}: {problem}", code="bad_frame", field=field)
    return names
