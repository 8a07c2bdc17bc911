"""Client frames as a server reads them: the login leniently, later requests strictly."""

from __future__ import annotations

from typing import Any

import msgspec

from ptn_api.errors import InvalidInputError
from ptn_api.wire import codec
from ptn_api.wire.frames import Auth, Format, Ping, Subscribe, Unsubscribe

__all__ = ["ClientRequest", "Subscription", "read_login", "read_request"]


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


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """The orders that a client wants. Filters are AND-ed; None means no filter, an empty one matches nothing.

    Equal subscriptions are sent the same bytes.
    """

    version: int = 1
    miners: frozenset[str] | None = None
    trade_pairs: frozenset[str] | None = None
    format: Format = "full"
    updates: bool = False

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


class _Version1Subscribe(msgspec.Struct, tag="subscribe"):
    """Version 1 always subscribes to everything; other fields are ignored."""

    sender_timestamp: Any = None


class _Version1Unsubscribe(msgspec.Struct, tag="unsubscribe"):
    sender_timestamp: Any = None


class _Version2Subscribe(Subscribe, tag="subscribe", forbid_unknown_fields=True):
    """Unknown fields are refused: a misspelt filter must not mean "no filter"."""


class _Version2Unsubscribe(Unsubscribe, tag="unsubscribe", forbid_unknown_fields=True):
    pass


ClientRequest = Subscribe | Unsubscribe | Ping


def read_request(data: bytes | str, version: int) -> ClientRequest:
    """Decodes a frame of a client that has logged in.

    Raises InvalidInputError, code `not_json` or `bad_frame`, with a message that names the field.
    """
    if version == 1:
        old = codec.decode(data, _Version1Subscribe | _Version1Unsubscribe | Ping)  # type: ignore[arg-type]
        if isinstance(old, Ping):
            return old
        request = Subscribe if isinstance(old, _Version1Subscribe) else Unsubscribe
        return request(all=True, sender_timestamp=old.sender_timestamp)
    frame: ClientRequest = codec.decode(data, _Version2Subscribe | _Version2Unsubscribe | Ping)  # type: ignore[arg-type]
    if isinstance(frame, Subscribe) and frame.revision is not None:
        if frame.revision < 0:
            raise InvalidInputError("revision: must not be negative", code="bad_frame", field="revision")
        if not frame.updates:
            raise InvalidInputError("revision: needs updates", code="bad_frame", field="revision")
    return frame
