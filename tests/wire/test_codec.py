"""Messages joined from the validator's text match the frame types."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import NoneType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptn_api.errors import InvalidInputError
from ptn_api.model.position import PositionText, parse_position
from ptn_api.wire import codec, frames, server_frames
from tests.factories import order, position, uuid


def _text(body: dict[str, Any]) -> PositionText:
    return parse_position(json.dumps(body).encode())[1]


def _message(count: int = 2, **options: Any) -> tuple[bytes, dict[str, Any]]:
    body = position(1, [order(n) for n in range(1, count + 1)])
    text = _text(body)
    fields = {"sequence": 7, "timestamp_ms": 99, "text": text, "order": text.orders[-1], "n_orders": count}
    return codec.encode_message(**fields | options), body  # type: ignore[arg-type]


def test_a_full_message_has_the_position_as_the_validator_wrote_it() -> None:
    """Nothing lost, nothing added, no field that version 1 does not have."""
    message, body = _message()
    assert json.loads(message) == {"sequence": 7, "timestamp": 99, "data": {"position": body}}
    assert b'"sequence":7,"timestamp":99,"data"' in message


def test_a_delta_message_has_the_order_its_place_and_the_summary() -> None:
    """Constant size however old the position is."""
    message, body = _message(format="delta")
    data = json.loads(message)["data"]
    assert data["order"] == body["orders"][-1]
    assert data["n_orders"] == 2
    assert data["position"] == {key: value for key, value in body.items() if key != "orders"}


def test_flags_and_extra_fields_are_included() -> None:
    """`late` and `replay` next to the data, extra fields inside it."""
    message, _ = _message(late=True, replay=True, extra=b'{"a":1,"b":[2]}')
    decoded = json.loads(message)
    assert (decoded["late"], decoded["replay"]) == (True, True)
    assert (decoded["data"]["a"], decoded["data"]["b"]) == (1, [2])
    assert "extra" not in _message(extra=b"{}")[0].decode()


@given(st.lists(st.sampled_from(["full", "delta"]), min_size=1, max_size=5), st.booleans(), st.booleans())
def test_encoded_messages_are_read_back(forms: list[frames.Format], late: bool, replay: bool) -> None:
    """Alone and in a batch."""
    messages = [_message(format=form, late=late, replay=replay)[0] for form in forms]
    first = codec.decode(messages[0], frames.Message)
    assert (first.sequence, first.late, first.replay) == (7, late, replay)
    batch = codec.decode(codec.encode_batch(messages), frames.Batch)
    assert batch.count == len(forms)
    assert [m.data.n_orders for m in batch.messages] == [2 if form == "delta" else None for form in forms]


def test_a_changed_position_is_read_back() -> None:
    """Summary, changed orders and, if the list of orders changed, all uuids."""
    text = _text(position(1, [order(1), order(2)]))
    encoded = codec.encode_position_changed(
        revision=3, after=2, text=text, orders=[text.orders[1]], order_uuids=["a", "b"]
    )
    frame = codec.decode(encoded, frames.PositionChanged)
    assert (frame.revision, frame.after, frame.order_uuids) == (3, 2, ["a", "b"])
    assert frame.position.position_uuid == uuid(1)
    assert [o.order_uuid for o in frame.orders] == [order(2)["order_uuid"]]
    plain = codec.encode_position_changed(revision=3, after=2, text=text, orders=[])
    assert json.loads(plain)["orders"] == []
    assert "order_uuids" not in json.loads(plain)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_input_is_a_frame_or_invalid(data: bytes) -> None:
    """Never another exception. To a client, an unknown type gives None."""
    assert isinstance(_outcome(server_frames.read_frame, data), (msgspec.Struct, InvalidInputError, NoneType))
    ping = _outcome(lambda d: codec.decode(d, frames.Ping), data)
    assert isinstance(ping, (frames.Ping, InvalidInputError))


def _outcome(read: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return read(data)
    except InvalidInputError as error:
        return error


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"a":' * 50_000, b'"\\ud800"', b"\xff", b"", b"NaN"])
def test_deep_or_broken_json_is_invalid_input(data: bytes) -> None:
    """Nesting does not exhaust the stack."""
    with pytest.raises(InvalidInputError) as caught:
        codec.decode(data, object)
    assert caught.value.code == "not_json"
