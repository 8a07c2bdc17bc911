"""Decoding speed of a client, from frames to messages with position and order."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks.figures import Figures
from benchmarks.orders import message
from ptn_api.client.message import PTNWebSocketMessage
from ptn_api.wire.client_session import ClientSession, Cursor, StreamItem
from ptn_api.wire.codec import encode_batch
from ptn_api.wire.frames import Subscribe
from ptn_api.wire.server_frames import OrderMessage

__all__ = ["run"]

_ORDERS = 6


def run(folder: Path, arguments: argparse.Namespace, figures: Figures) -> None:
    n = 20_000
    alone = [message(_ORDERS, sequence) for sequence in range(1, n + 1)]
    batches = [encode_batch(alone[at : at + 50]) for at in range(0, n, 50)]
    rates = {
        name: max(_rate(frames, n) for _ in range(3))
        for name, frames in (("alone", alone), ("in batches", batches))
    }
    size = len(alone[0])
    figures.add(
        f"client: full messages of {_ORDERS} orders, {size} bytes",
        alone_per_s=round(rates["alone"]),
        in_batches_per_s=round(rates["in batches"]),
        MB_per_s=round(rates["in batches"] * size / 1e6),
    )
    figures.target("client decode, messages/s, alone", rates["alone"], at_least=100_000)
    figures.target("client decode, messages/s, in batches", rates["in batches"], at_least=100_000)


def _rate(frames: list[bytes], messages: int) -> float:
    session = ClientSession(api_key="x", cursor=Cursor(0, "e"), subscription=Subscribe(all=True))
    seen = 0
    began = time.process_time()
    for frame in frames:
        for event in session.receive(frame, 0):
            if isinstance(event, StreamItem) and isinstance(event.value, OrderMessage):
                read = PTNWebSocketMessage(event.value)
                seen += read.new_order.processed_ms > 0
    took = time.process_time() - began
    assert seen == messages, seen
    return messages / took
