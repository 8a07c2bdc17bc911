"""The client's session as a state machine, without a connection."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptn_api.wire.client_session import (
    TRANSITIONS,
    ClientSession,
    Cursor,
    Disconnected,
    Event,
    Evicted,
    Gap,
    Input,
    Phase,
    ProtocolWarning,
    Refused,
    StateChanged,
    StreamItem,
)
from ptn_api.wire.frames import Subscribe
from ptn_api.wire.server_frames import OrderMessage
from tests.factories import BTCUSD, EURUSD, position

NOW = 1_760_000_000_000
ALL = Subscribe(all=True)
NEW = Cursor()
E = "epoch-1"


def session(cursor: Cursor = NEW, subscription: Subscribe | None = ALL, **options: Any) -> ClientSession:
    made = ClientSession(api_key="secret", cursor=cursor, subscription=subscription, **options)
    made.start()
    return made


def feed(subject: ClientSession, *frames: dict[str, Any] | str, at: int = NOW) -> list[Event]:
    """Returns the events of these frames."""
    texts = [f if isinstance(f, str) else json.dumps(f) for f in frames]
    return [event for text in texts for event in subject.receive(text, at)]


def sent(subject: ClientSession) -> list[dict[str, Any]]:
    return [json.loads(frame) for frame in subject.to_send()]


def success(current: int, *, epoch: str | None = E, heartbeat_ms: int = 1_000) -> dict[str, Any]:
    old = {"status": "success", "message": "ok", "current_sequence": current, "tier": 100}
    if epoch is None:
        return old
    return old | {"epoch": epoch, "oldest_sequence": 1, "version": 2, "heartbeat_ms": heartbeat_ms}


def status(action: str = "subscribe", *, asked: int = NOW, received: int = NOW) -> dict[str, Any]:
    return {
        "type": "subscription_status",
        "status": "success",
        "all": True,
        "action": action,
        "sender_timestamp": asked,
        "received_timestamp": received,
    }


def order(sequence: int, **marks: Any) -> dict[str, Any]:
    return {"sequence": sequence, "timestamp": NOW, "data": {"position": {}}} | marks


def heartbeat(head: int, *, stale: bool = False) -> dict[str, Any]:
    return {
        "type": "heartbeat",
        "head": head,
        "revision": 1,
        "timestamp": NOW,
        "source_ms": None,
        "stale": stale,
    }


def resumed(after: int, head: int) -> dict[str, Any]:
    return {"type": "resumed", "after": after, "head": head}


def live(**options: Any) -> ClientSession:
    """Returns a live session with cursor 10."""
    subject = session(**options)
    feed(subject, success(10), status())
    sent(subject)
    return subject


def numbers(events: list[Event]) -> list[int]:
    """Returns the sequences of the messages among these events."""
    return [
        e.value.sequence for e in events if isinstance(e, StreamItem) and isinstance(e.value, OrderMessage)
    ]


def gaps(events: list[Event]) -> list[Gap]:
    return [e.value for e in events if isinstance(e, StreamItem) and isinstance(e.value, Gap)]


def states(events: list[Event]) -> list[str]:
    return [e.state for e in events if isinstance(e, StateChanged)]


# --- login and subscribe ----------------------------------------------------------------------------------


def test_a_first_login_asks_for_version_2_and_no_replay() -> None:
    """Without a cursor, neither last_sequence nor epoch is sent."""
    assert sent(session()) == [{"api_key": "secret", "version": 2}]


def test_a_later_login_sends_its_cursor() -> None:
    """Sequence and epoch together."""
    [login] = sent(session(Cursor(7, E)))
    assert (login["last_sequence"], login["epoch"]) == (7, E)


def test_it_subscribes_and_measures_the_clock_once_logged_in() -> None:
    """With its filters, and a timestamp for the server to echo."""
    subject = session(subscription=Subscribe(miners=["5A"], format="delta"))
    sent(subject)
    feed(subject, success(10))
    subscribe, ping = sent(subject)
    assert subscribe == {"type": "subscribe", "sender_timestamp": NOW, "miners": ["5A"], "format": "delta"}
    assert ping == {"type": "ping", "timestamp": NOW}


def test_without_a_subscription_it_only_logs_in() -> None:
    """And requests no replay."""
    subject = session(Cursor(7, E), None)
    assert "last_sequence" not in sent(subject)[0]
    feed(subject, success(10))
    assert [frame["type"] for frame in sent(subject)] == ["ping"]


def test_a_new_client_starts_at_the_head() -> None:
    """The success frame's sequence can be committed before the first order."""
    assert feed(session(), success(10)) == [StreamItem(None, Cursor(10, E))]


def test_a_refused_login_is_reported() -> None:
    """With the server's message and code."""
    events = feed(session(), {"status": "error", "message": "no", "code": "INSUFFICIENT_TIER"})
    assert events == [Refused("no", "INSUFFICIENT_TIER")]


def test_an_eviction_differs_from_a_refusal() -> None:
    """It arrives after the login, as an error frame with a code."""
    frame = {"status": "error", "message": "too many", "code": "MAX_CONNECTIONS_EXCEEDED"}
    assert feed(live(), frame) == [Evicted("too many")]


# --- sequences --------------------------------------------------------------------------------------------


def test_messages_in_sequence_are_returned_with_their_cursor() -> None:
    """Singly or in a batch."""
    batch = {"type": "batch", "messages": [order(12), order(13)], "count": 2}
    events = feed(live(), order(11), batch)
    assert numbers(events) == [11, 12, 13]
    assert [e.cursor for e in events if isinstance(e, StreamItem)] == [Cursor(n, E) for n in (11, 12, 13)]


def test_repeats_are_dropped() -> None:
    """And counted."""
    subject = live()
    assert numbers(feed(subject, order(11), order(11), order(10), order(12))) == [11, 12]
    assert subject.repeats == 2
    batch = {"type": "batch", "messages": [order(12), order(13)], "count": 2}
    assert numbers(feed(subject, batch)) == [13]


def test_a_gap_is_first_filled_by_reconnecting() -> None:
    """No later message is returned, so the cursor stays where the resume must start."""
    subject = live()
    events = feed(subject, order(11), order(14), order(15))
    assert numbers(events) == [11]
    assert isinstance(events[-1], Disconnected)
    assert subject.cursor == Cursor(11, E)


def test_a_gap_that_is_found_again_is_reported() -> None:
    """The client continues after it instead of reconnecting forever."""
    events = feed(live(known_gap=10), order(13))
    assert gaps(events) == [Gap(10, 13, "hole")]
    assert numbers(events) == [13]
    assert [e.cursor for e in events if isinstance(e, StreamItem)] == [Cursor(12, E), Cursor(13, E)]


def test_a_heartbeat_beyond_the_last_message_reveals_a_gap() -> None:
    """The server states that everything up to its head was sent."""
    (broken,) = feed(live(), heartbeat(12))
    assert broken == Disconnected("gap", "messages between 10 and 13 are missing")
    assert gaps(feed(live(known_gap=10), heartbeat(12))) == [Gap(10, 13, "hole")]


def test_a_heartbeat_before_the_confirmation_reveals_nothing() -> None:
    """Orders after the success frame's sequence follow the subscribe."""
    subject = session()
    events = feed(subject, success(10), heartbeat(12), status(), order(11), order(12))
    assert numbers(events) == [11, 12]
    assert gaps(events) == []


def test_a_filtered_stream_skips_sequences_and_uses_heartbeats() -> None:
    """Its cursor is the heartbeat's head."""
    subject = live(subscription=Subscribe(trade_pairs=["BTCUSD"]))
    events = feed(subject, order(15), heartbeat(20), order(25))
    assert numbers(events) == [15, 25]
    assert gaps(events) == []
    assert Cursor(20, E) in [e.cursor for e in events if isinstance(e, StreamItem)]


def test_a_changed_subscription_starts_at_the_next_order() -> None:
    """Orders between two subscriptions are not a gap."""
    subject = live()
    subject.unsubscribe(NOW)
    feed(subject, status("unsubscribe"))
    subject.subscribe(ALL, NOW)
    unsubscribe, subscribe = sent(subject)
    assert unsubscribe == {"type": "unsubscribe", "all": True, "sender_timestamp": NOW}
    assert subscribe["type"] == "subscribe"
    assert numbers(feed(subject, status(), order(17), order(18))) == [17, 18]


@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.booleans(), st.booleans()),  # step, lost, sent twice
        max_size=60,
    )
)
def test_nothing_is_repeated_and_every_gap_is_reported(script: list[tuple[int, bool, bool]]) -> None:
    """For anything a version 1 server loses or repeats, messages plus gaps are all there was."""
    subject = session()
    feed(subject, success(0, epoch=None), status(), order(0))
    told: list[int] = []
    sequence = 0
    for step, lost, twice in script:
        sequence += step
        if lost:
            continue
        for event in feed(subject, *[order(sequence)] * (1 + twice)):
            if isinstance(event, StreamItem) and isinstance(event.value, Gap):
                told += range(event.value.after + 1, event.value.next)
            elif isinstance(event, StreamItem) and isinstance(event.value, OrderMessage):
                told.append(event.value.sequence)
    assert told == list(range(1, subject.cursor.sequence + 1))


@given(st.lists(st.binary(max_size=40) | st.text(max_size=40), max_size=10))
def test_malformed_frames_are_reported_and_survived(frames: list[bytes | str]) -> None:
    """Later orders are returned as before."""
    subject = live()
    for frame in frames:
        assert all(isinstance(event, ProtocolWarning) for event in subject.receive(frame, NOW))
    assert numbers(feed(subject, order(11))) == [11]


def test_frames_of_an_unknown_type_are_ignored() -> None:
    """A later server may send new types."""
    assert feed(live(), {"type": "weather", "sequence": 99}, {"what": 1}) == []


def test_every_phase_can_break_and_none_follows_the_last() -> None:
    """In the transition table."""
    assert set(TRANSITIONS) == set(Phase)
    assert TRANSITIONS[Phase.BROKEN] == {}
    assert all(t[Input.BREAK] is Phase.BROKEN for p, t in TRANSITIONS.items() if p is not Phase.BROKEN)


@pytest.mark.parametrize(
    ("cursor", "before", "undue"),
    [
        (NEW, [], status()),
        (NEW, [], {"type": "resumed", "after": 3, "head": 9}),
        (NEW, [success(10)], success(99)),
        (NEW, [success(10), status()], {"type": "resumed", "after": 3, "head": 99}),
        (
            NEW,
            [success(10), status()],
            {"type": "resume_failed", "reason": "too_old", "epoch": E, "oldest_sequence": 1, "head": 99},
        ),
        (Cursor(10, E), [success(10), status()], success(99)),
    ],
    ids=["status", "resumed", "second login", "resumed unasked", "failed unasked", "login while resuming"],
)
def test_an_unexpected_answer_changes_nothing(
    cursor: Cursor, before: list[dict[str, Any]], undue: dict[str, Any]
) -> None:
    """It is reported, and cannot move the cursor."""
    subject = session(cursor)
    feed(subject, *before)
    stood = subject.phase, subject.cursor, subject.state
    assert [type(e) for e in feed(subject, undue)] == [ProtocolWarning]
    assert (subject.phase, subject.cursor, subject.state) == stood


def test_unknown_miners_are_a_warning() -> None:
    """The subscription holds: they may appear later."""
    subject = session()
    feed(subject, success(10))
    events = feed(subject, status() | {"unknown_miners": ["a", "b", "c", "d"]})
    (warning,) = [event for event in events if isinstance(event, ProtocolWarning)]
    assert "no such miner at present: a, b, c" in warning.message
    assert numbers(feed(subject, order(11))) == [11]


def test_a_subscribe_while_resuming_waits_for_the_answer() -> None:
    """A heartbeat before the answer does not move the cursor past missed messages."""
    subject = session(Cursor(5, E))
    feed(subject, success(5), status())
    subject.unsubscribe(NOW)
    subject.subscribe(ALL, NOW)
    feed(subject, heartbeat(9))
    assert subject.cursor.sequence == 5
    assert numbers(feed(subject, resumed(5, 9), order(6, replay=True))) == [6]


@pytest.mark.parametrize("subscribes", [True, False])
def test_a_broken_session_sends_nothing_more(subscribes: bool) -> None:
    """A program may subscribe or unsubscribe before it learns that the connection broke."""
    subject = live()
    feed(subject, order(13))
    assert subject.phase is Phase.BROKEN
    if subscribes:
        subject.subscribe(ALL, NOW)
    else:
        subject.unsubscribe(NOW)
    assert sent(subject) == []


# --- resuming ---------------------------------------------------------------------------------------------


def test_a_resume_replays_and_then_goes_live() -> None:
    """`replaying` lasts until the head at the time of the resume."""
    subject = session(Cursor(10, E))
    events = feed(subject, success(10), status(), resumed(10, 12), order(11, replay=True))
    assert states(events) == ["replaying"]
    assert states(feed(subject, order(12, replay=True))) == ["live"]


def test_a_resume_with_nothing_missed_is_live_at_once() -> None:
    """Without `replaying`."""
    events = feed(session(Cursor(10, E)), success(10), status(), resumed(10, 10))
    assert states(events) == ["live"]


def test_a_filtered_replay_ends_with_the_heartbeat() -> None:
    """The last replayed sequence may not match the filter."""
    subject = session(Cursor(10, E), Subscribe(miners=["5A"]))
    feed(subject, success(10), status(), resumed(10, 30))
    assert subject.state == "replaying"
    assert states(feed(subject, heartbeat(30))) == ["live"]


@pytest.mark.parametrize("reason", ["epoch", "too_old", "future"])
def test_a_failed_resume_is_a_gap_and_live_messages_follow(reason: str) -> None:
    """The cursor is the new epoch's head; the consumer needs a snapshot."""
    subject = session(Cursor(10, E))
    failed = {
        "type": "resume_failed",
        "reason": reason,
        "epoch": "epoch-2",
        "oldest_sequence": 50,
        "head": 60,
    }
    events = feed(subject, success(60, epoch="epoch-2"), status(), failed, order(61))
    assert states(events) == ["resync", "live"]
    assert gaps(events) == [Gap(10, 61, reason)]  # type: ignore[arg-type]
    assert numbers(events) == [61]
    assert subject.cursor == Cursor(61, "epoch-2")


# --- servers without epochs -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("current", "gap"),
    [(10, Gap(10, 11, "not_replayed")), (15, Gap(10, 16, "not_replayed")), (0, Gap(10, 1, "restarted"))],
)
def test_every_later_login_at_another_server_is_a_gap(current: int, gap: Gap) -> None:
    """It ignores last_sequence, and equal numbers may be those of other orders."""
    subject = session(Cursor(10))
    assert sent(subject) == [{"api_key": "secret", "version": 2}]
    events = feed(subject, success(current, epoch=None), status(), order(current))
    assert gaps(events) == [gap]
    assert numbers(events) == [current]


def test_the_first_login_at_another_server_warns_that_it_cannot_resume() -> None:
    """Once: later ones report their gaps."""
    first, moved = feed(session(), success(10, epoch=None))
    assert isinstance(first, ProtocolWarning)
    assert moved == StreamItem(None, Cursor(10))


@pytest.mark.parametrize("start", [0, 1, 7, 500])
def test_another_server_may_start_to_count_anywhere(start: int) -> None:
    """Below, at or beyond what its success frame states: neither a repeat nor a gap."""
    subject = session()
    events = feed(subject, success(7, epoch=None), status(), order(start), order(start + 1))
    assert numbers(events) == [start, start + 1]
    assert gaps(events) == []
    assert subject.repeats == 0


def test_a_gap_within_a_connection_to_another_server_is_reported_at_once() -> None:
    """Reconnecting would not fill it."""
    subject = session()
    events = feed(subject, success(0, epoch=None), status(), order(0), order(3))
    assert gaps(events) == [Gap(0, 3, "hole")]
    assert numbers(events) == [0, 3]


def test_sequences_of_another_epoch_are_not_compared() -> None:
    """A server without the epoch in place of ours, or ours in place of one, means a gap."""
    assert gaps(feed(session(Cursor(10, E)), success(10, epoch=None))) == [Gap(10, 11, "epoch")]
    subject = session(Cursor(10))
    events = feed(subject, success(10), status(), order(11))
    assert gaps(events) == [Gap(10, 11, "epoch")]
    assert subject.cursor == Cursor(11, E)


def test_filters_are_applied_here_where_the_server_has_none() -> None:
    """It is asked for everything, in its own form of the subscribe."""
    subject = session(subscription=Subscribe(miners=["5A"], trade_pairs=["BTCUSD"], format="delta"))
    feed(subject, success(0, epoch=None))
    assert sent(subject)[1] == {"type": "subscribe", "all": True, "sender_timestamp": NOW}

    def of(sequence: int, miner: str, pair: list[Any]) -> dict[str, Any]:
        body = position(1, [], miner=miner, trade_pair=pair)
        return {"sequence": sequence, "timestamp": NOW, "data": {"position": body}}

    events = feed(subject, status(), of(0, "5B", BTCUSD), of(1, "5A", EURUSD), of(2, "5A", BTCUSD), order(3))
    assert numbers(events) == [2, 3]  # the last one is malformed, as its reader will report
    assert gaps(events) == []
    assert subject.cursor.sequence == 3


def test_a_refused_subscription_is_reported() -> None:
    """And changes nothing."""
    subject = live()
    refused = status() | {"status": "error", "message": "no", "code": "NOT_SERVED"}
    assert feed(subject, refused) == [ProtocolWarning("error from the server: subscribe: no")]


# --- silence ----------------------------------------------------------------------------------------------


def test_two_missing_heartbeats_break_the_connection() -> None:
    """Even while orders arrive: only heartbeats prove that nothing is missing."""
    subject = live()
    assert subject.tick(1_900, NOW) == []
    feed(subject, order(11))
    events = subject.tick(200, NOW)
    assert states(events) == ["stale"]
    assert isinstance(events[-1], Disconnected)


def test_heartbeats_keep_it_alive() -> None:
    """For as long as they arrive."""
    subject = live()
    for _ in range(10):
        assert subject.tick(1_500, NOW) == []
        feed(subject, heartbeat(10))


def test_while_replaying_any_frame_is_a_sign_of_life() -> None:
    """Heartbeats wait behind a long replay."""
    subject = session(Cursor(10, E))
    feed(subject, success(10), status(), resumed(10, 99))
    for n in range(11, 20):
        assert subject.tick(1_500, NOW) == []
        feed(subject, order(n, replay=True))


def test_an_old_server_must_answer_pings() -> None:
    """It sends no heartbeats; any frame counts."""
    subject = session(ping_ms=1_000)
    feed(subject, success(10, epoch=None), status())
    for _ in range(5):
        assert subject.tick(1_500, NOW) == []
        feed(subject, {"type": "pong", "client_timestamp": NOW, "server_timestamp": NOW, "timestamp": NOW})
    assert isinstance(subject.tick(2_100, NOW)[-1], Disconnected)


def test_an_unanswered_login_breaks_the_connection() -> None:
    """After the login timeout."""
    subject = session(login_ms=500)
    assert subject.tick(400, NOW) == []
    assert isinstance(subject.tick(200, NOW)[-1], Disconnected)


@pytest.mark.parametrize("cursor", [NEW, Cursor(10, E)])
def test_an_unanswered_subscribe_breaks_the_connection(cursor: Cursor) -> None:
    """After the login timeout, although heartbeats arrive: no order would, either."""
    subject = session(cursor, login_ms=2_500)
    feed(subject, success(10))
    for _ in range(2):
        assert subject.tick(1_000, NOW) == []
        feed(subject, heartbeat(10))
    events = subject.tick(1_000, NOW)
    assert states(events) == ["stale"]
    assert isinstance(events[-1], Disconnected)


def test_a_status_does_not_answer_a_resume() -> None:
    """Only `resumed` or `resume_failed` does."""
    subject = session(Cursor(10, E), login_ms=1_500)
    feed(subject, success(10), status())
    assert subject.tick(1_000, NOW) == []
    feed(subject, heartbeat(10))
    assert isinstance(subject.tick(1_000, NOW)[-1], Disconnected)


def test_every_subscribe_has_the_whole_timeout() -> None:
    """And none is waited for once it was ended."""
    subject = live(login_ms=1_500)
    subject.subscribe(ALL, NOW)
    subject.tick(1_000, NOW)
    feed(subject, heartbeat(10))
    subject.subscribe(ALL, NOW)
    assert subject.tick(1_000, NOW) == []
    subject.unsubscribe(NOW)
    feed(subject, heartbeat(10))
    assert subject.tick(1_000, NOW) == []


@pytest.mark.parametrize(
    "refusal",
    [
        status() | {"status": "error", "message": "no", "code": "NOT_SERVED"},
        {"type": "error", "code": "bad_frame", "message": "no"},
    ],
)
def test_a_refused_subscribe_was_answered(refusal: dict[str, Any]) -> None:
    """Another connection would be refused, too."""
    subject = session(login_ms=1_500)
    feed(subject, success(10), refusal)
    for _ in range(3):
        assert subject.tick(1_000, NOW) == []
        feed(subject, heartbeat(10))


def test_it_pings_regularly() -> None:
    """For the clock offset, and to detect a dead version 1 server."""
    subject = live(ping_ms=300)
    subject.tick(200, NOW)
    assert sent(subject) == []
    subject.tick(200, NOW + 5)
    assert sent(subject) == [{"type": "ping", "timestamp": NOW + 5}]


def test_a_silent_source_is_stale_until_it_returns() -> None:
    """Reported by heartbeats while the connection works."""
    subject = live()
    assert states(feed(subject, heartbeat(10, stale=True), heartbeat(10, stale=True))) == ["stale"]
    assert numbers(feed(subject, order(11))) == [11]
    assert states(feed(subject, heartbeat(11))) == ["live"]


# --- clocks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [5_000, -5_000])
def test_the_clock_offset_keeps_its_sign(ahead: int) -> None:
    """Positive if the server's clock is ahead; half the round trip is subtracted."""
    subject = live()
    pong = {
        "type": "pong",
        "client_timestamp": NOW,
        "server_timestamp": NOW + 50 + ahead,
        "timestamp": NOW + 50 + ahead,
    }
    feed(subject, pong, at=NOW + 100)
    assert subject.clock_offset.ms == ahead


@pytest.mark.parametrize("echo", [0, -1, 0.5])
def test_a_pong_without_an_echo_teaches_nothing(echo: float) -> None:
    """A server echoes 0 for what it could not read."""
    subject = live()
    before = subject.clock_offset.ms
    pong = {
        "type": "pong",
        "client_timestamp": echo,
        "server_timestamp": NOW + 9_000,
        "timestamp": NOW + 9_000,
    }
    feed(subject, pong, at=NOW + 100)
    assert subject.clock_offset.ms == before


def test_the_offset_is_known_before_the_first_order() -> None:
    """The subscription's status has an echo as well."""
    subject = session()
    feed(subject, success(10), status(asked=NOW, received=NOW + 2_000), at=NOW)
    assert subject.clock_offset.ms == 2_000
