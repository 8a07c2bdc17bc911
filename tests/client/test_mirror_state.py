"""The state that a mirror holds."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptn_api.client.mirror_state import MirrorState, PositionText, SnapshotBody
from ptn_api.model.checksum import position_checksum
from ptn_api.wire.server_frames import ChangedPosition
from tests.factories import MINER, order, position, uuid


def text(body: Any) -> bytes:
    return json.dumps(body).encode()


def summary(body: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != "orders"}


def state_of(*bodies: dict[str, Any]) -> MirrorState:
    state = MirrorState()
    list(state.load(map(text, bodies)))
    return state


def delta(body: dict[str, Any], n: int) -> bytes:
    """Returns the message of the position's n-th order (from 1)."""
    return text({"order": body["orders"][n - 1], "position": summary(body), "n_orders": n})


def change(body: dict[str, Any], orders: list[Any], uuids: list[str] | None = None) -> ChangedPosition:
    return ChangedPosition(
        revision=1,
        after=1,
        position=msgspec.Raw(text(summary(body))),
        orders=[msgspec.Raw(text(o)) for o in orders],
        order_uuids=uuids,
    )


def stored(state: MirrorState, n: int = 1) -> Any:
    return json.loads(state.positions[MINER, uuid(n)])


def agrees(state: MirrorState, *bodies: dict[str, Any]) -> bool:
    """Whether its checksum is that of these positions."""
    total = sum(position_checksum(text(body)) for body in bodies) % (1 << 64)
    return state.checksum == f"{total:016x}"


def test_a_position_keeps_its_text() -> None:
    """Unknown keys, ints and floats stay as received."""
    body = position(1, [order(1, strange=[1, 1.0, 1e-17])], odd={"a": 2.0}, net_leverage=0)
    assert json.dumps(stored(state_of(body)), sort_keys=True) == json.dumps(body, sort_keys=True)
    assert agrees(state_of(body), body)


def test_an_open_position_from_rest_has_the_same_checksum() -> None:
    """Although REST writes close_ms 0 and drops old price sources."""
    body = position(1, [order(1, price_sources=[{"source": "x"}])])
    from_rest = body | {"close_ms": 0, "orders": [order(1)]}
    assert state_of(from_rest).checksum == state_of(body).checksum


def test_an_order_is_added_to_its_position() -> None:
    """With the summary after it; the position may be new."""
    body = position(1, [order(1), order(2)], current_return=1.5)
    state = state_of(position(1, [order(1)]))
    assert state.apply_order(delta(body, 2)) == (MINER, uuid(1))
    assert stored(state) == body
    assert agrees(state, body)
    fresh = state_of()
    fresh.apply_order(delta(position(1, [order(1)]), 1))
    fresh.apply_order(delta(body, 2))
    assert agrees(fresh, body)


def test_a_repeated_order_is_replaced() -> None:
    """A snapshot may be ahead of its sequence."""
    body = position(1, [order(1), order(2)])
    state = state_of(body)
    state.apply_order(delta(body, 1))
    state.apply_order(delta(body, 2))
    assert agrees(state, body)


def test_a_late_order_is_inserted_at_its_index() -> None:
    """Before the orders already there."""
    body = position(1, [order(1), order(2), order(3)])
    state = state_of(position(1, [order(1), order(3)]))
    state.apply_order(delta(body, 2))
    assert agrees(state, body)


def test_a_refresh_changes_the_summary() -> None:
    """It changes nothing else."""
    body = position(1, [order(1)], current_return=2.0)
    state = state_of(position(1, [order(1)]))
    state.apply_change(change(body, []))
    assert agrees(state, body)


def test_a_correction_replaces_orders() -> None:
    """By their uuid."""
    body = position(1, [order(1), order(2, price=7.0)])
    state = state_of(position(1, [order(1), order(2)]))
    state.apply_change(change(body, [body["orders"][1]]))
    assert agrees(state, body)


def test_a_rearranged_order_list_is_applied() -> None:
    """With orders dropped, moved and inserted at once."""
    body = position(1, [order(3), order(9), order(1)])
    state = state_of(position(1, [order(1), order(2), order(3)]))
    uuids = [o["order_uuid"] for o in body["orders"]]
    state.apply_change(change(body, [order(9)], uuids))
    assert agrees(state, body)


def test_a_change_may_add_a_position() -> None:
    """With all its orders, as after a baseline."""
    body = position(1, [order(1), order(2)])
    state = state_of()
    state.apply_change(change(body, body["orders"]))
    assert agrees(state, body)


def test_a_removed_position_leaves_the_checksum() -> None:
    """Removing it again does nothing."""
    one, two = position(1, [order(1)]), position(2, [order(2)])
    state = state_of(one, two)
    assert state.remove([(MINER, uuid(1)), (MINER, uuid(77))]) == [(MINER, uuid(1))]
    assert state.remove([(MINER, uuid(1))]) == []
    assert agrees(state, two)
    assert agrees(state_of())


def test_added_changed_and_removed_positions_differ() -> None:
    """Between two states."""
    old = state_of(position(1, [order(1)]), position(2, [order(2)]), position(3, [order(3)]))
    new = state_of(
        position(1, [order(1)]), position(2, [order(2)], current_return=3.0), position(4, [order(4)])
    )
    keys = {*old.positions, *new.positions}
    assert {key[1] for key in keys if new.differs(old, key)} == {uuid(2), uuid(3), uuid(4)}


def test_a_position_without_other_keys_is_valid_json() -> None:
    """Without a stray comma."""
    assert PositionText.parse(b'{"orders":[]}').json() == b'{"orders":[]}'


# --- the document of all miners, in parts -----------------------------------------------------------------

_texts = st.sampled_from(['a":{"positions":[', ',"', "}", '\\":{"positions":["', "é"]) | st.text(max_size=8)
_documents = st.dictionaries(
    st.text(min_size=1, max_size=6),
    st.lists(st.dictionaries(_texts, _texts | st.just({"positions": [{}]}), max_size=3), max_size=3),
    max_size=6,
)


@given(document=_documents, size=st.integers(1, 80), indent=st.sampled_from([None, 1]))
def test_a_document_in_parts_has_the_same_positions(
    document: dict[str, list[Any]], size: int, indent: int | None
) -> None:
    """Wherever it is cut, and whatever its texts contain; also if a proxy has formatted it."""
    separators = (",", ":") if indent is None else None
    entries = {hotkey: {"positions": positions} for hotkey, positions in document.items()}
    body = json.dumps(entries, ensure_ascii=False, indent=indent, separators=separators).encode()
    received = SnapshotBody()
    received.add(b"of an attempt that failed")
    received.clear()
    for at in range(0, len(body), size):
        received.add(body[at : at + size])
    expected = [position for positions in document.values() for position in positions]
    assert [json.loads(text) for text in received.positions()] == expected


def test_a_document_that_ends_early_is_malformed() -> None:
    received = SnapshotBody()
    received.add(b'{"a":{"positions":[{}]},"b":{"positions":[{}]')
    with pytest.raises(msgspec.MsgspecError):
        received.positions()
