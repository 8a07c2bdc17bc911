"""The AsyncAPI 3.0 document of the WebSocket, generated from the frames' types and the close codes.

The protocol's versions 1 and 2 are two channels with the same address and different messages.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

from descriptions.fields import add_descriptions
from descriptions.openapi import cleaned
from ptn_api import __version__
from ptn_api.wire.close_codes import CLOSE_CODES, STANDARD_CODES, should_return
from ptn_api.wire.examples import examples_of
from ptn_api.wire.frames import (
    Auth,
    AuthFailure,
    AuthSuccess,
    Batch,
    Error,
    Heartbeat,
    Message,
    Ping,
    Pong,
    PositionChanged,
    PositionsRemoved,
    Resumed,
    ResumeFailed,
    SubaccountRequest,
    SubaccountStatus,
    Subscribe,
    SubscriptionStatus,
    Unsubscribe,
)

__all__ = ["asyncapi_document"]

_REF = "#/components/schemas/{name}"
_BOTH: tuple[int, ...] = (1, 2)
_ONLY_1: tuple[int, ...] = (1,)
_ONLY_2: tuple[int, ...] = (2,)


class Frame(NamedTuple):
    """A row of the table of frames. `answers` are the names of the possible replies."""

    name: str
    kind: type[msgspec.Struct]
    sender: Literal["client", "server"]
    summary: str
    versions: tuple[int, ...] = _BOTH
    answers: tuple[str, ...] = ()


_FRAMES = (
    Frame(
        "login",
        Auth,
        "client",
        "The first frame, unless the key came in the header.",
        answers=("loginAccepted", "loginRefused"),
    ),
    Frame(
        "subscribe",
        Subscribe,
        "client",
        "Starts the delivery of orders; version 1 supports only `all` and `sender_timestamp`.",
        answers=("subscriptionStatus",),
    ),
    Frame("unsubscribe", Unsubscribe, "client", "Ends the delivery.", answers=("subscriptionStatus",)),
    Frame("ping", Ping, "client", "At any time after the login.", answers=("pong",)),
    Frame(
        "subaccounts",
        SubaccountRequest,
        "client",
        "Asks for an entity's subaccounts, which only the validator itself serves.",
        _ONLY_1,
        answers=("subaccountStatus",),
    ),
    Frame("loginAccepted", AuthSuccess, "server", "Messages after `current_sequence` follow the subscribe."),
    Frame(
        "loginRefused",
        AuthFailure,
        "server",
        "Before the connection is closed with a code from 4100 to 4199, or evicted (4004).",
    ),
    Frame("subscriptionStatus", SubscriptionStatus, "server", "Confirms a subscribe or an unsubscribe."),
    Frame(
        "subaccountStatus", SubaccountStatus, "server", "Refuses a request for subaccounts, always.", _ONLY_1
    ),
    Frame("pong", Pong, "server", "Answers a ping; a client can estimate its clock offset from it."),
    Frame("order", Message, "server", "One order. `late` and `replay` are sent in version 2 only."),
    Frame("batch", Batch, "server", "Several orders at once."),
    Frame("resumed", Resumed, "server", "After the first subscribe: missed messages follow.", _ONLY_2),
    Frame(
        "resumeFailed", ResumeFailed, "server", "After the first subscribe: resuming is impossible.", _ONLY_2
    ),
    Frame("heartbeat", Heartbeat, "server", "Every `heartbeat_ms`, and when `stale` changes.", _ONLY_2),
    Frame(
        "positionChanged", PositionChanged, "server", "With `updates`: a change without a new order.", _ONLY_2
    ),
    Frame("positionsRemoved", PositionsRemoved, "server", "With `updates`: removed positions.", _ONLY_2),
    Frame("error", Error, "server", "A frame was invalid; the connection stays open.", _ONLY_2),
)
"""Every frame; a test compares with `wire.frames`."""

_ABOUT = """\
Every order of a Proprietary Trading Network validator as it happens, numbered in sequence. Frames are JSON
text (binary frames are accepted too); permessage-deflate if the client offers it. Needs a key of tier 100.
Fields may be added to any frame, and frames to version 2: ignore unknown ones.

1. The client logs in; `"version": 2` asks for version 2. A key in the handshake's `Authorization` header is a
   login of version 1, unless the header `X-PTN-Protocol: 2` announces a login frame.
2. The server accepts it, or rejects it and closes.
3. The client subscribes; the server confirms.
4. Orders follow, missed ones first.

A connection is closed if it does not log in in time or reads too slowly. A client that reconnects with its
last sequence has missed nothing."""
_CHANNELS = {
    1: "Version 1: for logins by header or without `version`. Replayed orders are ordinary messages.",
    2: "Version 2: all-or-nothing resume, filters, deltas, updates, heartbeats, errors.",
}


def asyncapi_document() -> dict[str, Any]:
    """Returns the document as JSON values."""
    _, schemas = msgspec.json.schema_components([row.kind for row in _FRAMES], ref_template=_REF)
    add_descriptions(schemas)
    schemas["Auth"]["required"] = ["api_key"]
    schemas["AuthFailure"]["not"] = {"required": ["type"]}  # what tells it from a `SubaccountStatus`
    document = {
        "asyncapi": "3.1.0",
        "info": {
            "title": "PTN API: WebSocket",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": {"stream": _server()},
        "channels": {f"version{version}": _channel(version) for version in _CHANNELS},
        "operations": {
            f"{row.name}{version}": _operation(row, version) for version in _CHANNELS for row in _of(version)
        },
        "components": {
            "messages": {row.name: _message(row) for row in _FRAMES},
            "schemas": schemas,
            "securitySchemes": {
                "apiKey": {"type": "apiKey", "in": "user", "description": "`api_key` in the first frame."},
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The `Authorization` header of the handshake; version 1 only.",
                },
            },
        },
    }
    clean: dict[str, Any] = cleaned(document)
    return clean


def _of(version: int) -> list[Frame]:
    return [row for row in _FRAMES if version in row.versions]


def _server() -> dict[str, Any]:
    return {
        "host": "{host}:{port}",
        "protocol": "ws",
        "description": "Behind a proxy with TLS: wss.",
        "variables": {
            "host": {"default": "127.0.0.1", "description": "host of the server"},
            "port": {"default": "8765", "description": "`--api-ws-port`"},
        },
        "security": [
            {"$ref": "#/components/securitySchemes/apiKey"},
            {"$ref": "#/components/securitySchemes/bearer"},
        ],
    }


def _channel(version: int) -> dict[str, Any]:
    return {
        "address": "/",
        "title": f"Version {version}",
        "description": f"{_CHANNELS[version]} Any path will do.",
        "messages": {row.name: {"$ref": f"#/components/messages/{row.name}"} for row in _of(version)},
        "bindings": {"ws": {"method": "GET", "bindingVersion": "0.1.0"}},
        "x-close-codes": _close_codes(),
    }


def _close_codes() -> list[dict[str, Any]]:
    return [
        {"code": row.code, "reason": row.reason, "comeBack": should_return(row.code)}
        for row in (*STANDARD_CODES.values(), *CLOSE_CODES.values())
    ]


def _operation(row: Frame, version: int) -> dict[str, Any]:
    """Returns an operation from the server's view: it receives what the client sends."""
    channel = f"#/channels/version{version}"
    operation: dict[str, Any] = {
        "action": "receive" if row.sender == "client" else "send",
        "summary": row.summary,
        "channel": {"$ref": channel},
        "messages": [{"$ref": f"{channel}/messages/{row.name}"}],
    }
    if row.answers:
        replies = [{"$ref": f"{channel}/messages/{name}"} for name in row.answers]
        operation["reply"] = {"channel": {"$ref": channel}, "messages": replies}
    return operation


def _message(row: Frame) -> dict[str, Any]:
    return {
        "name": row.name,
        "title": row.kind.__name__,
        "summary": row.summary,
        "contentType": "application/json",
        "payload": {
            "schemaFormat": "application/schema+json;version=draft-2020-12",
            "schema": {"$ref": _REF.format(name=row.kind.__name__)},
        },
        "examples": [{"name": name, "payload": payload} for name, payload in examples_of(row.kind).items()],
    }
