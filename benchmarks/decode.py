"""Decoding speed of a client: frames to messages, compared with msgspec alone on the same bytes and types."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from benchmarks.client import live_session
from benchmarks.contest import alternate
from benchmarks.figures import Figures
from benchmarks.orders import message
from ptn_api.client.message import MessageContent, PTNWebSocketMessage
from ptn_api.wire.client_session import StreamItem
from ptn_api.wire.codec import encode_batch
from ptn_api.wire.server_frames import OrderMessage

__all__ = ["run"]

_ORDERS = 6
_MESSAGES = 20_000


class _Decoded(msgspec.Struct):
    """A message decoded in one step, into what a client has in the end."""

    sequence: int
    timestamp: int
    data: MessageContent
    late: bool = False
    replay: bool = False


class _DecodedBatch(msgspec.Struct, tag="batch"):
    messages: list[_Decoded]


def run(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    alone = [message(_ORDERS, sequence) for sequence in range(1, _MESSAGES + 1)]
    batches = [encode_batch(alone[at : at + 50]) for at in range(0, _MESSAGES, 50)]
    rounds = alternate(
        {
            "client, alone": partial(_rate, _client, alone),
            "msgspec, alone": partial(_rate, _msgspec_alone, alone),
            "client, batches": partial(_rate, _client, batches),
            "msgspec, batches": partial(_rate, _msgspec_batches, batches),
        }
    )
    for kind in ("alone", "batches"):
        figures.ratio(
            f"client: full messages of {_ORDERS} orders, {len(alone[0])} bytes, {kind}, per s",
            rounds,
            f"client, {kind}",
            f"msgspec, {kind}",
            value=float,
            at_least=0.7,
        )


def _rate(decode: Callable[[list[bytes]], int], frames: list[bytes]) -> float:
    """Returns messages per second of CPU time."""
    began = time.process_time()
    assert decode(frames) == _MESSAGES
    return _MESSAGES / (time.process_time() - began)


def _client(frames: list[bytes]) -> int:
    session = live_session()
    seen = 0
    for frame in frames:
        for event in session.receive(frame, 0):
            if isinstance(event, StreamItem) and isinstance(event.value, OrderMessage):
                seen += PTNWebSocketMessage(event.value).position.orders[-1].processed_ms > 0
    return seen


def _msgspec_alone(frames: list[bytes]) -> int:
    decode = msgspec.json.Decoder(_Decoded).decode
    return sum(decode(frame).data.position.orders[-1].processed_ms > 0 for frame in frames)


def _msgspec_batches(frames: list[bytes]) -> int:
    decode = msgspec.json.Decoder(_DecodedBatch).decode
    return sum(
        message.data.position.orders[-1].processed_ms > 0
        for frame in frames
        for message in decode(frame).messages
    )
