"""The first frame of a connection, read as leniently as existing servers read it."""

from __future__ import annotations

from typing import Any

import msgspec

from ptn_api.wire import codec
from ptn_api.wire.frames import Auth

__all__ = ["read_login"]


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
