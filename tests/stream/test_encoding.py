"""Frames are encoded once, and batches stay within their bounds."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from ptn_api.fanout.encoding import MessageEncoder, Shared
from ptn_api.stream.framing import BATCH_BYTES, BATCH_MESSAGES, SocketFraming, pack
from ptn_api.wire.client_frames import Subscription
from tests.factories import T0, order, position, written
from tests.memory_log import MemoryLog


@given(st.lists(st.integers(2, 2 * BATCH_BYTES // 3), max_size=130))
def test_packing_keeps_every_message_in_order_within_the_bounds(sizes: list[int]) -> None:
    """At most 50 in a batch, a batch below 512 KiB; a larger message is sent alone."""
    messages = [json.dumps("x" * (size - 2)).encode() for size in sizes]
    found: list[bytes] = []
    for payload in pack(messages):
        if payload.startswith(b'{"type":"batch"'):
            batch = json.loads(payload)
            assert 2 <= batch["count"] == len(batch["messages"]) <= BATCH_MESSAGES
            assert len(payload) < BATCH_BYTES
            found += [json.dumps(message).encode() for message in batch["messages"]]
        else:
            found.append(payload)
    assert found == messages


def test_equal_payloads_are_one_frame_object() -> None:
    """A thousand clients that do not read cost the memory of one."""
    shared: Shared = {}

    def framed(*, deflate: bool) -> bytes:
        [frame] = SocketFraming(deflate).orders([(1, b'{"sequence":1}' * 100)], 1, shared)
        return frame

    assert framed(deflate=False) is framed(deflate=False)
    assert framed(deflate=True) is framed(deflate=True)
    assert len(framed(deflate=True)) < len(framed(deflate=False))


def test_a_message_is_encoded_once_per_variant() -> None:
    """Subscriptions of both versions, filtered or not, share one bytes object."""
    log = MemoryLog(created_ms=T0)
    log.baseline([], T0)
    log.append([written(position(1, [order(1)]))], T0)
    encoder = MessageEncoder(log.read(log.floor() - 1, 10))
    (old,) = encoder.matching(Subscription(version=1), T0)
    (new,) = encoder.matching(Subscription(version=2), T0)
    (chosen,) = encoder.matching(Subscription(version=2, trade_pairs=frozenset(["BTCUSD"])), T0)
    assert old is new is chosen
    assert encoder.matching(Subscription(version=2, miners=frozenset()), T0) == []
