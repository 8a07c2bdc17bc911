"""Differences of order lists, and the orders of an event whose order has left."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ptn_api.event_log.order_list import OrderList, departures, rewritten, touched, up_to

lists = st.lists(st.sampled_from("abcdefg"), max_size=7)


def of(uuids: str, revision: int = 1, text: str = "") -> OrderList:
    return rewritten(OrderList(), list(uuids), [(u + text).encode() for u in uuids], revision)


def test_departures_point_to_what_stayed() -> None:
    """Each order that left knows the nearest one before it that did not."""
    assert departures(of("abcde"), list("bd")) == {"a": None, "c": "b", "e": "d"}
    assert departures(of("abc"), []) == {"a": None, "b": None, "c": None}


def test_a_repeated_uuid_is_told_apart_by_its_place() -> None:
    """The second of two equal uuids may change without the first one."""
    new = rewritten(of("aba"), list("aba"), [b"a", b"b", b"x"], 2)
    assert new.revisions == (1, 1, 2)
    assert new.layout_revision == 0
    assert touched(new, 2) == [2]


@given(st.lists(lists, min_size=1, max_size=8))
def test_revisions_tell_the_difference_to_any_older_list(history: list[list[str]]) -> None:
    """Orders with a newer revision, and all uuids where the layout is newer, rebuild the present list."""
    states = [OrderList()]
    for revision, uuids in enumerate(history, start=1):
        texts = [f"{u}{revision // 3}".encode() for u in uuids]
        states.append(rewritten(states[-1], uuids, texts, revision))
    now = states[-1]
    for revision, then in enumerate(states):
        news = {place: now.texts[place] for place, made in enumerate(now.revisions) if made > revision}
        if now.layout_revision <= revision:
            assert now.uuids[: len(then.uuids)] == then.uuids
            kept = dict(enumerate(then.texts))
            assert tuple((kept | news)[place] for place in range(len(now.texts))) == now.texts
        for place, uuid in enumerate(now.uuids):
            if place not in news:
                assert uuid in then.uuids
                assert now.texts[place] in then.texts


@given(st.lists(lists.map(lambda it: list(dict.fromkeys(it))), min_size=2, max_size=8))
def test_orders_up_to_an_announced_one(history: list[list[str]]) -> None:
    """The announced order is last, whatever left since; what comes before it is in the present list."""
    departed: dict[str, str | None] = {}
    now, met = OrderList(), set[str]()
    for revision, uuids in enumerate(history, start=1):
        departed.update(departures(now, uuids))
        now = rewritten(now, uuids, [u.encode() for u in uuids], revision)
        met.update(uuids)
    places = {uuid: place for place, uuid in enumerate(now.uuids)}
    for uuid in met:
        shown = up_to(places, now.texts, departed, uuid, uuid.encode())
        assert shown[-1] == uuid.encode()
        assert shown[:-1] == now.texts[: len(shown) - 1]
