"""Differences of order lists, and the orders of an event whose order was removed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ptn_api.event_log.append import changed_at, removed_orders, rewritten
from ptn_api.event_log.rows import OrderList, orders_up_to

lists = st.lists(st.sampled_from("abcdefg"), max_size=7)


def of(uuids: str, revision: int = 1, text: str = "") -> OrderList:
    return rewritten(OrderList(), list(uuids), [(u + text).encode() for u in uuids], revision)


def test_a_removed_order_refers_to_one_that_remains() -> None:
    """To the nearest one before it in the old list."""
    assert removed_orders(of("abcde"), list("bd")) == {"a": None, "c": "b", "e": "d"}
    assert removed_orders(of("abc"), []) == {"a": None, "b": None, "c": None}


def test_repetitions_of_a_uuid_are_distinguished() -> None:
    """The second of two equal uuids may change without the first."""
    new = rewritten(of("aba"), list("aba"), [b"a", b"b", b"x"], 2)
    assert new.revisions == (1, 1, 2)
    assert new.layout_revision == 0
    assert changed_at(new, 2) == [2]


@given(st.lists(lists, min_size=1, max_size=8))
def test_revisions_give_the_difference_to_any_older_list(history: list[list[str]]) -> None:
    """Orders with a newer revision, and all uuids if the layout is newer, rebuild the present list."""
    states = [OrderList()]
    for revision, uuids in enumerate(history, start=1):
        texts = [f"{u}{revision // 3}".encode() for u in uuids]
        states.append(rewritten(states[-1], uuids, texts, revision))
    now = states[-1]
    for revision, then in enumerate(states):
        newer = {i: now.texts[i] for i, changed in enumerate(now.revisions) if changed > revision}
        if now.layout_revision <= revision:
            assert now.uuids[: len(then.uuids)] == then.uuids
            kept = dict(enumerate(then.texts))
            assert tuple((kept | newer)[i] for i in range(len(now.texts))) == now.texts
        for index, uuid in enumerate(now.uuids):
            if index not in newer:
                assert uuid in then.uuids
                assert now.texts[index] in then.texts


@given(st.lists(lists.map(lambda it: list(dict.fromkeys(it))), min_size=2, max_size=8))
def test_orders_up_to_an_announced_one(history: list[list[str]]) -> None:
    """The announced order is last, even if removed since; those before it are in the present list."""
    removed: dict[str, str | None] = {}
    now, announced = OrderList(), set[str]()
    for revision, uuids in enumerate(history, start=1):
        removed.update(removed_orders(now, uuids))
        now = rewritten(now, uuids, [u.encode() for u in uuids], revision)
        announced.update(uuids)
    indexes = {uuid: index for index, uuid in enumerate(now.uuids)}
    for uuid in announced:
        shown = orders_up_to(uuid, uuid.encode(), indexes, now.texts, removed)
        assert shown[-1] == uuid.encode()
        assert shown[:-1] == now.texts[: len(shown) - 1]
