"""Client frames as a server reads them: the login leniently, what follows it strictly."""

from __future__ import annotations

from typing import Any

import msgspec

from ptn_api.errors import InvalidInputError
from ptn_api.wire import codec
from ptn_api.wire.frames import Auth, Format, Ping, Subscribe, Unsubscribe

__all__ = ["ClientRequest", "Subscription", "read_login", "read_request"]


class _Login(msgspec.Struct):
    """The first frame, whatever the kinds of its values."""

    api_key: Any = None
    last_sequence: Any = None
    version: Any = None
    epoch: Any = None


def read_login(data: bytes | str) -> Auth:
    """The login; what is missing or of the wrong kind counts as absent, as existing servers have it.

    Raises InvalidInputError if the frame is no JSON.
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
    """Filters are AND-ed; None = no such filter, an empty one matches nothing.

    Equal subscriptions of the same version are sent the same bytes.
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
        """Whether a position is wanted. `trade_pair` None: not known any more, so only the miner decides."""
        if self.miners is not None and miner_hotkey not in self.miners:
            return False
        return self.trade_pairs is None or trade_pair is None or trade_pair in self.trade_pairs


class _Version1Subscribe(msgspec.Struct, tag="subscribe"):
    """Version 1 subscribes to everything, whatever else it says."""

    sender_timestamp: Any = None


class _Version1Unsubscribe(msgspec.Struct, tag="unsubscribe"):
    sender_timestamp: Any = None


class _Version2Subscribe(Subscribe, tag="subscribe", forbid_unknown_fields=True):
    """A misspelt filter must not become no filter."""


class _Version2Unsubscribe(Unsubscribe, tag="unsubscribe", forbid_unknown_fields=True):
    pass


ClientRequest = Subscribe | Unsubscribe | Ping


def read_request(data: bytes | str, version: int) -> ClientRequest:
    """A frame of a client that has logged in.

    Raises InvalidInputError, code `not_json` or `bad_frame`; its message names the field.
    """
    if version == 1:
        old = codec.decode(data, _Version1Subscribe | _Version1Unsubscribe | Ping)  # type: ignore[arg-type]
        return _from_version_1(old)
    frame: ClientRequest = codec.decode(data, _Version2Subscribe | _Version2Unsubscribe | Ping)  # type: ignore[arg-type]
    if isinstance(frame, Subscribe):
        _check(frame)
    return frame


def _from_version_1(frame: _Version1Subscribe | _Version1Unsubscribe | Ping) -> ClientRequest:
    match frame:
        case _Version1Subscribe():
            return Subscribe(all=True, sender_timestamp=frame.sender_timestamp)
        case _Version1Unsubscribe():
            return Unsubscribe(all=True, sender_timestamp=frame.sender_timestamp)
        case _:
            return frame


def _check(frame: Subscribe) -> None:
    if frame.revision is not None and frame.revision < 0:
        raise InvalidInputError("revision: must not be negative", code="bad_frame", field="revision")
    if frame.revision is not None and not frame.updates:
        raise InvalidInputError("revision: needs updates", code="bad_frame", field="revision")
