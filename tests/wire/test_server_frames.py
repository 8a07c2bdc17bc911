"""Server frames as a client reads them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ptn_api.errors import InvalidInputError
from ptn_api.wire import codec, frames
from ptn_api.wire.server_frames import (
    ChangedPosition,
    LoginAccepted,
    OrderBatch,
    OrderMessage,
    SubscriptionAnswer,
    read_frame,
)


@pytest.mark.parametrize(
    "frame",
    [
        frames.Pong(client_timestamp=1, server_timestamp=2, timestamp=2),
        frames.Resumed(after=1, head=2),
        frames.ResumeFailed(reason="epoch", epoch="e", oldest_sequence=1, head=2),
        frames.Heartbeat(head=1, revision=2, timestamp=3, source_ms=None, stale=False, checksum="0" * 16),
        frames.PositionsRemoved(revision=1, after=2, positions=[("5A", "u")]),
        frames.Error(code="bad_frame", message="no"),
        frames.AuthFailure(status="error", message="no", code="INSUFFICIENT_TIER"),
    ],
)
def test_server_frames_are_read_back(frame: Any) -> None:
    """Every frame without a position."""
    assert read_frame(codec.encode(frame)) == frame


@pytest.mark.parametrize(
    ("frame", "answer"),
    [
        (
            frames.SubscriptionStatus(
                status="success", all=True, action="subscribe", sender_timestamp=1, received_timestamp=2
            ),
            SubscriptionAnswer(action="subscribe", sender_timestamp=1, received_timestamp=2),
        ),
        (
            frames.SubaccountStatus(status="error", action="subscribe_subaccount", message="no", code="C"),
            SubscriptionAnswer(status="error", action="subscribe_subaccount", message="no"),
        ),
    ],
)
def test_answers_to_subscriptions_are_read_back(frame: Any, answer: SubscriptionAnswer) -> None:
    """As far as a client needs them."""
    assert read_frame(codec.encode(frame)) == answer


def test_another_servers_answer_to_an_unsubscribe_has_no_times() -> None:
    """It is understood nevertheless."""
    frame = {"type": "subscription_status", "status": "success", "all": True, "action": "unsubscribe"}
    assert read_frame(json.dumps(frame)) == SubscriptionAnswer(action="unsubscribe")


def test_an_old_servers_success_frame_is_enough() -> None:
    """Without the fields of version 2."""
    old = {"status": "success", "message": "Authentication successful.", "current_sequence": 5, "tier": 100}
    assert read_frame(json.dumps(old)) == LoginAccepted(current_sequence=5, tier=100)


def test_positions_stay_text() -> None:
    """To the last digit, so that a mirror can compute their checksum."""
    data = b'{"position":{"x":1.0,"y":1e-17,"z":10}}'
    message = read_frame(b'{"sequence":1,"timestamp":2,"data":' + data + b',"late":true}')
    assert isinstance(message, OrderMessage)
    assert (bytes(message.data), message.late, message.replay) == (data, True, False)
    batch = read_frame(b'{"type":"batch","messages":[{"sequence":1,"timestamp":2,"data":{}}],"count":1}')
    assert isinstance(batch, OrderBatch)
    changed = read_frame(
        b'{"type":"position","revision":1,"after":2,"position":{"x":1.0},"orders":[{"y":2}]}'
    )
    assert isinstance(changed, ChangedPosition)
    assert (bytes(changed.position), [bytes(o) for o in changed.orders]) == (b'{"x":1.0}', [b'{"y":2}'])


@pytest.mark.parametrize("frame", ['{"type":"weather"}', "{}", '{"status":"odd"}'])
def test_an_unknown_type_is_none(frame: str) -> None:
    """A later server may send new types."""
    assert read_frame(frame) is None


@pytest.mark.parametrize("frame", ["", "[1]", '{"type":"pong"}', '{"sequence":"x"}', b"\xff", "[" * 100_000])
def test_malformed_frames_are_refused(frame: bytes | str) -> None:
    """With an error of this package."""
    with pytest.raises(InvalidInputError):
        read_frame(frame)
