"""The frames on the wire: field names and omitted defaults, as existing clients know them."""

from __future__ import annotations

import json

import msgspec
import pytest

from ptn_api.wire import codec, frames


@pytest.mark.parametrize(
    ("frame", "wire"),
    [
        (
            frames.AuthFailure(status="error", message="No."),
            {"status": "error", "message": "No."},
        ),
        (
            frames.AuthFailure(status="error", message="No.", code="X"),
            {"status": "error", "message": "No.", "code": "X"},
        ),
        (
            frames.SubscriptionStatus(
                status="success", all=True, action="subscribe", sender_timestamp=1, received_timestamp=2
            ),
            {
                "type": "subscription_status",
                "status": "success",
                "all": True,
                "action": "subscribe",
                "sender_timestamp": 1,
                "received_timestamp": 2,
            },
        ),
        (
            frames.Pong(client_timestamp=0, server_timestamp=3, timestamp=3),
            {"type": "pong", "client_timestamp": 0, "server_timestamp": 3, "timestamp": 3},
        ),
        (
            frames.Heartbeat(head=1, revision=2, timestamp=3, source_ms=None, stale=False),
            {
                "type": "heartbeat",
                "head": 1,
                "revision": 2,
                "timestamp": 3,
                "source_ms": None,
                "stale": False,
            },
        ),
        (frames.Resumed(after=1, head=2), {"type": "resumed", "after": 1, "head": 2}),
        (
            frames.ResumeFailed(reason="epoch", epoch="e", oldest_sequence=1, head=2),
            {"type": "resume_failed", "reason": "epoch", "epoch": "e", "oldest_sequence": 1, "head": 2},
        ),
        (
            frames.PositionsRemoved(revision=1, after=2, positions=[("m", "u")]),
            {"type": "removed", "revision": 1, "after": 2, "positions": [["m", "u"]]},
        ),
        (frames.Error(code="c", message="m"), {"type": "error", "code": "c", "message": "m"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_frame_is_encoded_as_documented_and_read_back(
    frame: msgspec.Struct, wire: dict[str, object]
) -> None:
    """With exactly these fields, which identify its type."""
    assert json.loads(codec.encode(frame)) == wire
    assert codec.decode(codec.encode(frame), type(frame)) == frame


def test_the_success_frame_starts_as_existing_clients_know_it() -> None:
    """status, message, current_sequence and tier first; new fields follow."""
    success = frames.AuthSuccess(
        current_sequence=5, tier=100, epoch="e", oldest_sequence=1, version=1, heartbeat_ms=15_000
    )
    wire = json.loads(codec.encode(success))
    assert list(wire)[:4] == ["status", "message", "current_sequence", "tier"]
    assert wire["message"] == "Authentication successful."
    assert codec.decode(codec.encode(success), frames.AuthSuccess) == success


def test_a_login_of_version_1_has_no_new_fields() -> None:
    """Defaults are omitted, so an old server sees nothing new."""
    assert json.loads(codec.encode(frames.Auth(api_key="k"))) == {"api_key": "k"}
    assert json.loads(codec.encode(frames.Subscribe(all=True, sender_timestamp=1))) == {
        "type": "subscribe",
        "all": True,
        "sender_timestamp": 1,
    }
