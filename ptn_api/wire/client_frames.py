"""Client frames as a server reads them: the login leniently, later requests strictly."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from ptn_api.errors import InvalidInputError
from ptn_api.model.trade_pair import resolve_pair, split_names
from ptn_api.wire import codec
from ptn_api.wire.frames import Auth, Format, Ping, SubaccountRequest, Subscribe, Unsubscribe

__all__ = ["ClientRequest", "DatedOrder", "Subscription", "read_login", "read_request"]


class _Login(msgspec.Struct):
    """The first frame, with values of any type."""

    api_key: Any = None
    last_sequence: Any = None
    version: Any = None
    epoch: Any = None


def read_login(data: bytes | str) -> Auth:
    """Decodes a login; a field of the wrong type counts as absent, as with existing servers.

    Raises InvalidInputError if the frame is not JSON.
    """
    value = codec.decode(data, object)
    login = msgspec.convert(value, _Login) if isinstance(value, dict) else _Login()
    return Auth(
        api_key=login.api_key if isinstance(login.api_key, str) else "",
        last_sequence=login.last_sequence if type(login.last_sequence) is int else -1,
        version=login.version if type(login.version) is int else 1,
        epoch=login.epoch if isinstance(login.epoch, str) else None,
    )


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
    sender_timestamp: Any = None
    timestamp: Any = 0


class _Version2Subscribe(Subscribe, tag="subscribe", forbid_unknown_fields=True):
    """Unknown fields are refused: a misspelt filter must not mean "no filter"."""


class _Version2Unsubscribe(Unsubscribe, tag="unsubscribe", forbid_unknown_fields=True):
    pass


ClientRequest = Subscribe | Unsubscribe | Ping | SubaccountRequest


def read_request(data: bytes | str, version: int) -> ClientRequest:
    """Decodes a frame of a client that has logged in.

    Raises InvalidInputError, code `not_json` or `bad_frame`, with a message that names the field.
    """
    if version == 1:
        old = codec.decode(data, _Version1Request)
        match old.type:
            case "ping":
                return Ping(timestamp=old.timestamp)
            case "subscribe":
                return Subscribe(all=True, sender_timestamp=old.sender_timestamp)
            case "unsubscribe":
                return Unsubscribe(all=True, sender_timestamp=old.sender_timestamp)
        return codec.decode(data, SubaccountRequest)
    frame: ClientRequest = codec.decode(data, _Version2Subscribe | _Version2Unsubscribe | Ping)  # type: ignore[arg-type]
    if not isinstance(frame, Subscribe):
        return frame
    # As REST reads them, except that an empty choice is an error: here a filter is present or it is not.
    if frame.miners is not None:
        frame.miners = _names(frame.miners, "miners")
    if frame.trade_pairs is not None:
        names = _names(frame.trade_pairs, "trade_pairs")
        frame.trade_pairs = [resolve_pair(name) or name for name in names]
    if frame.revision is not None:
        if frame.revision < 0:
            raise InvalidInputError("revision: must not be negative", code="bad_frame", field="revision")
        if not frame.updates:
            raise InvalidInputError("revision: needs updates", code="bad_frame", field="revision")
    return frame


def _names(texts: list[str], field: str) -> list[str]:
    names = split_names(texts)
    if not names:
        problem = f"{field}: an empty list chooses nothing; leave the field out to choose all"
        raise InvalidInputError(problem, code="bad_frame", field=field)
    return names
