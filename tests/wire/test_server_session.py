"""The server's side as a state machine, without socket or clock (docs/protocol.md, 3 and 4)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ptn_api.errors import LogBehindError, LogError
from ptn_api.wire import close_codes, frames
from ptn_api.wire.client_frames import LONGEST_NAME, MOST_NAMES, Subscription
from ptn_api.wire.server_session import (
    MAX_WAITING_FRAMES,
    TRANSITIONS,
    BadLogin,
    CatchUp,
    CheckKey,
    Close,
    Effect,
    Input,
    Resubscribed,
    RetryLater,
    Send,
    ServerSession,
    State,
    Stop,
)
from tests.properties import tries

NOW = 1_000_000
WINDOW = 1_000


class Head(msgspec.Struct):
    sequence: int
    revision: int


class Logged(msgspec.Struct):
    sequence: int
    processed_ms: int
    late: bool


@dataclass
class Log:
    """What a session needs of a log: orders `first`..`last`, each with its time.

    `late` maps the sequences of late orders to the times at which they were filled.
    """

    first: int = 101
    last: int = 110
    revision: int = 50
    oldest: int = 10
    epoch: str = "e1"
    times: dict[int, int] = field(default_factory=dict)
    late: dict[int, int] = field(default_factory=dict)
    behind: int | None = 0

    def behind_ms(self) -> int | None:
        return self.behind

    def head(self) -> Head:
        return Head(self.last, self.revision)

    def floor(self) -> int:
        return self.first

    def first_timestamp_after(self, sequence: int) -> int | None:
        return self.times.get(sequence + 1, NOW) if sequence < self.last else None

    def read(self, after: int, limit: int, *, orders: bool) -> list[Logged]:
        return [self.logged(n) for n in range(after + 1, self.last + 1)][:limit]

    def logged(self, sequence: int) -> Logged:
        processed_ms = self.late.get(sequence)
        return Logged(sequence, NOW if processed_ms is None else processed_ms, processed_ms is not None)

    def oldest_revision(self) -> int:
        return self.oldest


def _session(log: Log | None = None) -> ServerSession:
    return ServerSession(log or Log(), heartbeat_ms=15_000, replay_window_ms=WINDOW)


def _tell(session: ServerSession, **frame: Any) -> list[Effect]:
    return session.receive(json.dumps(frame).encode(), NOW)


def _sent(effects: list[Effect]) -> list[msgspec.Struct]:
    return [effect.frame for effect in effects if isinstance(effect, Send)]


def _logged_in(log: Log | None = None, **login: Any) -> tuple[ServerSession, frames.AuthSuccess]:
    session = _session(log)
    assert _tell(session, api_key="k", **login) == [CheckKey("k")]
    (success,) = _sent(session.key_checked(100, NOW))
    assert isinstance(success, frames.AuthSuccess)
    return session, success


# --- login ------------------------------------------------------------------------------------------------


def test_a_key_in_the_header_is_a_login_from_the_head() -> None:
    """Of version 1. A login frame that follows is ignored: today's clients send one or the other."""
    session = _session()
    assert session.authenticate("k") == [CheckKey("k")]
    assert session.key_checked(100, NOW)[0] == Send(
        frames.AuthSuccess(
            current_sequence=110, tier=100, epoch="e1", oldest_sequence=101, version=1, heartbeat_ms=15_000
        )
    )
    assert _tell(session, api_key="k", last_sequence=105, version=2) == []
    catch_up = _tell(session, type="subscribe", all=True)[-1]
    assert catch_up == CatchUp(after=110, replay_until=0)


@pytest.mark.parametrize(("version", "alias", "told"), [(1, "bob", False), (2, "bob", True), (2, "", False)])
def test_a_version_2_login_tells_the_user(version: int, alias: str, told: bool) -> None:
    """So that clients find the user's cursor again after a change of the key."""
    session = _session()
    _tell(session, api_key="k", version=version)
    (success,) = _sent(session.key_checked(100, NOW, alias=alias))
    assert ("user" in msgspec.to_builtins(success)) == told


def test_a_header_after_the_login_frame_changes_nothing() -> None:
    """The first of the two decides."""
    session, _ = _logged_in()
    assert session.authenticate("other") == []


def test_a_login_is_checked_and_answered_with_the_streams_place() -> None:
    """current_sequence is the head if nothing is replayed."""
    session, success = _logged_in()
    assert success == frames.AuthSuccess(
        current_sequence=110, tier=100, epoch="e1", oldest_sequence=101, version=1, heartbeat_ms=15_000
    )
    assert session.state is State.IDLE


@pytest.mark.parametrize("tier", [0, 30, 50])
def test_a_lower_tier_is_refused_with_its_code(tier: int) -> None:
    """The message and code that existing clients know, then a close that means "do not reconnect"."""
    session = _session()
    _tell(session, api_key="k")
    text = "WebSocket connections require tier 100 access. Please upgrade your API key."
    assert session.key_checked(tier, NOW) == [
        Send(frames.AuthFailure(status="error", message=text, code="INSUFFICIENT_TIER")),
        Close(close_codes.INSUFFICIENT_TIER),
    ]


def test_an_unknown_key_is_refused() -> None:
    """Without a code, as before."""
    session = _session()
    _tell(session, api_key="k")
    text = "Invalid API key. Authentication failed."
    assert session.key_checked(None, NOW) == [
        Send(frames.AuthFailure(status="error", message=text)),
        Close(close_codes.INVALID_KEY),
    ]


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        *((text, "bad_frame") for text in (b"[]", b"5", b"null", b'"api_key"')),
        *(
            (text, "no_key")
            for text in (b"{}", b'{"api_key": null}', b'{"api_key": [[]]}', b'{"type": "ping"}')
        ),
    ],
)
def test_a_first_frame_without_a_key_is_refused(frame: bytes, reason: str) -> None:
    """JSON, but not a login."""
    session = _session()
    assert session.receive(frame, NOW) == [BadLogin(reason)]
    error, close = session.refuse_login(reason, must_wait=False)
    assert isinstance(error, Send)
    assert error.frame.message == "Authentication required. Please provide an API key."  # type: ignore[attr-defined]
    assert close == Close(close_codes.BAD_FIRST_FRAME)


def test_a_first_frame_that_is_not_json_closes_silently() -> None:
    """Nothing is sent."""
    session = _session()
    assert session.receive(b"hello", NOW) == [BadLogin("not_json")]
    assert session.refuse_login("not_json", must_wait=False) == [Close(close_codes.BAD_FIRST_FRAME)]


@pytest.mark.parametrize("frame", [b"{}", b"[]", b"hello"])
def test_after_too_many_bad_logins_a_first_frame_is_closed_with_come_back(frame: bytes) -> None:
    """Without an error frame, which existing clients take as final."""
    session = _session()
    (bad,) = session.receive(frame, NOW)
    assert isinstance(bad, BadLogin)
    assert session.refuse_login(bad.reason, must_wait=True) == [Close(close_codes.TOO_MANY_REQUESTS)]


@pytest.mark.parametrize(
    ("version", "spoken"), [(1, 1), (2, 2), (3, 2), (0, 1), (-5, 1), ("2", 1), (2.0, 1), (True, 1)]
)
def test_the_version_spoken_is_the_highest_that_both_know(version: Any, spoken: int) -> None:
    """A newer client gets 2; an invalid value counts as absent."""
    session, success = _logged_in(version=version)
    assert session.version == success.version == spoken


def test_frames_wait_for_the_key_check_and_are_answered_in_order() -> None:
    """A client may send login and subscribe at once."""
    session = _session()
    _tell(session, api_key="k")
    assert _tell(session, type="ping", timestamp=4) == []
    assert _tell(session, type="subscribe", all=True) == []
    effects = session.key_checked(100, NOW)
    kinds = [type(frame) for frame in _sent(effects)]
    assert kinds == [frames.AuthSuccess, frames.Pong, frames.SubscriptionStatus]
    assert effects[-1] == CatchUp(after=110, replay_until=0)


def test_frames_that_wait_for_the_key_check_are_bounded() -> None:
    """One too many closes the connection; a later key check changes nothing."""
    session = _session()
    _tell(session, api_key="k")
    for _ in range(MAX_WAITING_FRAMES):
        assert _tell(session, type="ping") == []
    assert _tell(session, type="ping") == [Close(close_codes.TOO_MANY_REQUESTS)]
    assert session.key_checked(100, NOW) == []


# --- version 1's replay -----------------------------------------------------------------------------------


@given(
    st.integers(-3, 23),
    st.integers(0, 100),
    st.integers(0, 20),
    st.integers(0, 2 * WINDOW) | st.integers(WINDOW - 1, WINDOW + 1),
)
def test_version_1_is_replayed_what_is_available_and_recent(
    ahead: int, first: int, count: int, age: int
) -> None:
    """If floor-1 <= last_sequence <= head and the first missed order is younger than the window."""
    cursor = first + ahead
    log = Log(first=first + 1, last=first + count, times={cursor + 1: NOW - age})
    session, success = _logged_in(log, last_sequence=cursor)
    inside = cursor >= 0 and first <= cursor <= first + count
    expected = cursor if inside and (cursor == log.last or age < WINDOW) else log.last
    assert success.current_sequence == expected
    effects = _tell(session, type="subscribe", all=True)
    assert effects[1:] == [CatchUp(after=expected, replay_until=0)]


@given(st.lists(st.none() | st.integers(0, 2 * WINDOW), min_size=10, max_size=10), st.integers(100, 110))
def test_version_1_continues_behind_old_late_orders(ages: list[int | None], cursor: int) -> None:
    """It is not sent them: their numbers must not look like missed messages after every login."""
    late = {101 + n: NOW - age for n, age in enumerate(ages) if age is not None}
    too_old = {sequence for sequence, at in late.items() if NOW - at > WINDOW}
    _, success = _logged_in(Log(late=late), last_sequence=cursor)
    assert success.current_sequence == next((n for n in range(cursor, 110) if n + 1 not in too_old), 110)


def test_orders_between_login_and_subscribe_follow_the_subscribe() -> None:
    """The catch-up starts at the success frame's sequence, not at the head."""
    log = Log()
    session, success = _logged_in(log)
    log.last += 7
    assert _tell(session, type="subscribe")[-1] == CatchUp(after=success.current_sequence, replay_until=0)


# --- version 2's resume -----------------------------------------------------------------------------------


@given(st.sampled_from([-2, -1, 0]) | st.integers(97, 113), st.sampled_from(["e1", "e1", "e2", None]))
def test_a_resume_is_complete_or_fails_with_its_reason(cursor: int, epoch: str | None) -> None:
    """-1 does not resume; epoch before future before too_old."""
    login: dict[str, Any] = {} if epoch is None else {"epoch": epoch}
    session, success = _logged_in(version=2, last_sequence=cursor, **login)
    effects = _tell(session, type="subscribe")[1:]
    if cursor == -1:
        assert effects == [CatchUp(after=110, replay_until=0)]
        return
    reason = "epoch" if epoch != "e1" else "future" if cursor > 110 else "too_old" if cursor < 100 else None
    if reason is None:
        assert success.current_sequence == cursor
        assert effects == [
            Send(frames.Resumed(after=cursor, head=110)),
            CatchUp(after=cursor, replay_until=110),
        ]
    else:
        assert success.current_sequence == 110
        failed = frames.ResumeFailed(reason=reason, epoch="e1", oldest_sequence=101, head=110)  # type: ignore[arg-type]
        assert effects == [Send(failed), CatchUp(after=110, replay_until=0)]


@pytest.mark.parametrize(
    ("revision", "epoch", "reason"),
    [(10, "e1", None), (50, "e1", None), (9, "e1", "too_old"), (51, "e1", "future"), (20, "e2", "epoch")],
)
def test_a_revision_is_resumed_if_the_log_has_all_changes_since(
    revision: int, epoch: str, reason: str | None
) -> None:
    """Otherwise the resume fails and messages after the present head follow."""
    session, _ = _logged_in(version=2, last_sequence=105, epoch=epoch)
    effects = _tell(session, type="subscribe", updates=True, revision=revision)
    if reason is None:
        assert effects[-2:] == [
            Send(frames.Resumed(after=105, head=110)),
            CatchUp(after=105, replay_until=110, revision=revision),
        ]
    else:
        assert effects[-1] == CatchUp(after=110, replay_until=0)
        assert effects[-2].frame.reason == reason  # type: ignore[union-attr]


# --- subscriptions ----------------------------------------------------------------------------------------


def test_the_status_echoes_a_version_2_subscription() -> None:
    """miners, trade_pairs, format, updates and the client's time."""
    session, _ = _logged_in(version=2)
    effects = _tell(
        session,
        type="subscribe",
        miners=["m"],
        trade_pairs=["BTCUSD"],
        format="delta",
        updates=True,
        sender_timestamp=8,
    )
    assert effects[0] == Send(
        frames.SubscriptionStatus(
            status="success",
            all=False,
            action="subscribe",
            sender_timestamp=8,
            received_timestamp=NOW,
            miners=["m"],
            trade_pairs=["BTCUSD"],
            format="delta",
            updates=True,
        )
    )
    assert session.subscription == Subscription(
        version=2, miners=frozenset("m"), trade_pairs=frozenset(["BTCUSD"]), format="delta", updates=True
    )


def test_filters_are_read_as_rest_reads_them() -> None:
    """Pairs in any usual spelling, names separated by commas; the status has them as understood."""
    session, _ = _logged_in(version=2)
    pairs = ["btc/usd, kpepeusdc", "", "EUR-USD"]
    effects = _tell(session, type="subscribe", miners=["a,b", ""], trade_pairs=pairs)
    (status,) = _sent(effects)
    assert isinstance(status, frames.SubscriptionStatus)
    assert (status.miners, status.trade_pairs) == (["a", "b"], ["BTCUSD", "kPEPEUSDC", "EURUSD"])
    assert session.subscription.miners == frozenset("ab")
    assert session.subscription.trade_pairs == frozenset(["BTCUSD", "kPEPEUSDC", "EURUSD"])


@pytest.mark.parametrize("field", ["miners", "trade_pairs"])
@pytest.mark.parametrize("names", [[], [""], [" ,"]])
def test_an_empty_choice_is_an_error(field: str, names: list[str]) -> None:
    """It must mean neither everything nor silence; the subscription stays as it was."""
    session, _ = _logged_in(version=2)
    (error,) = _sent(_tell(session, type="subscribe", **{field: names}))
    assert isinstance(error, frames.Error)
    assert error.code == "bad_frame"
    assert field in error.message
    assert not session.subscription.filtered


def test_an_unlisted_pair_is_reported_and_the_filter_holds() -> None:
    """The network adds pairs; a misspelt one must not be silence without a word."""
    session, _ = _logged_in(version=2)
    _, warning = _sent(_tell(session, type="subscribe", trade_pairs=["BTCUSDX"]))
    assert isinstance(warning, frames.Error)
    assert (warning.code, "did you mean BTCUSD" in warning.message) == ("unknown_trade_pair", True)
    assert session.subscription.trade_pairs == frozenset(["BTCUSDX"])


def test_unknown_miners_are_named_and_the_filter_holds() -> None:
    """A miner may appear later; a misspelt one must not be silence without a word. Version 2 only."""
    for version, listed, unknown in ((2, {"a", "b"}, ["c"]), (2, None, []), (1, {"a"}, [])):
        session = ServerSession(
            Log(), heartbeat_ms=15_000, replay_window_ms=WINDOW, listed_miners=lambda listed=listed: listed
        )
        _tell(session, api_key="k", version=version)
        session.key_checked(100, NOW)
        status = _sent(_tell(session, type="subscribe", miners=["a,c"] if version == 2 else None))[0]
        assert isinstance(status, frames.SubscriptionStatus)
        assert (status.status, status.unknown_miners) == ("success", unknown)
        assert b"unknown_miners" not in msgspec.json.encode(status) or unknown
        if version == 2:
            assert session.subscription.miners == frozenset("ac")


def test_subscribing_again_starts_no_second_catch_up() -> None:
    """After an unsubscribe, orders follow from the next one on."""
    session, _ = _logged_in()
    _tell(session, type="subscribe")
    session.caught_up()
    assert session.state is State.LIVE
    stop, status = _tell(session, type="unsubscribe", all=True, sender_timestamp=3)
    assert stop == Stop()
    assert isinstance(status, Send)
    assert status.frame.action == "unsubscribe"  # type: ignore[attr-defined]
    assert _tell(session, type="subscribe")[1:] == [Resubscribed()]
    assert session.state is State.LIVE


def test_a_subscribe_during_the_catch_up_continues_it() -> None:
    """The new subscription applies to what has not been sent."""
    session, _ = _logged_in(version=2)
    _tell(session, type="subscribe")
    assert _tell(session, type="subscribe", format="delta")[1:] == [Resubscribed()]
    assert session.state is State.CATCHING_UP
    assert session.subscription.format == "delta"


def test_a_refused_subscribe_changes_nothing() -> None:
    """The error names the field; the first valid subscribe still starts the catch-up."""
    session, _ = _logged_in(version=2)
    (error,) = _tell(session, type="subscribe", miner=["m"])
    assert "`miner`" in error.frame.message  # type: ignore[union-attr]
    assert session.state is State.IDLE
    assert isinstance(_tell(session, type="subscribe", miners=["m"])[-1], CatchUp)
    (error,) = _tell(session, type="subscribe", updates=True, revision=20)
    assert error == Send(
        frames.Error(
            code="bad_frame", message="revision: only the first subscribe of a connection can resume"
        )
    )
    assert session.subscription.miners == {"m"}


SINGLE = ("subscribe_subaccount", "unsubscribe_subaccount")
ALL = ("subscribe_subaccounts", "unsubscribe_subaccounts")


@pytest.mark.parametrize(
    ("tier", "frame", "code"),
    [
        *((100, {"type": kind, "synthetic_hotkey": "5Ent_3"}, "INSUFFICIENT_TIER") for kind in SINGLE),
        *((100, {"type": kind, "synthetic_hotkey": "5Own_3"}, "NOT_SERVED") for kind in SINGLE),
        *((200, {"type": kind, "synthetic_hotkey": "5Ent_3"}, "NOT_SERVED") for kind in SINGLE),
        *((100, {"type": kind}, "INSUFFICIENT_TIER") for kind in ALL),
        *((500, {"type": kind}, "NOT_SERVED") for kind in ALL),
    ],
)
def test_subaccounts_are_refused_with_the_reason(tier: int, frame: dict[str, str], code: str) -> None:
    """A success would be followed by silence. An entity's own key is told the same as one of tier 200."""
    session = _session()
    session.authenticate("k")
    session.key_checked(tier, NOW, alias="5Own")
    (answer,) = _sent(_tell(session, **frame))
    sentences = {
        "INSUFFICIENT_TIER": "Subaccount subscriptions require tier 200 access.",
        "NOT_SERVED": "Subaccount data comes from the validator's memory and is not served here.",
    }
    assert answer == frames.SubaccountStatus(
        status="error",
        action=frame["type"],
        synthetic_hotkey=frame.get("synthetic_hotkey"),
        message=sentences[code],
        code=code,
    )


@pytest.mark.parametrize("hotkey", [None, "", 5, []])
@pytest.mark.parametrize("kind", SINGLE)
def test_a_subaccount_must_be_named(kind: str, hotkey: object) -> None:
    """Before the tier is looked at."""
    session, _ = _logged_in()
    (answer,) = _sent(_tell(session, type=kind, synthetic_hotkey=hotkey))
    assert answer == frames.SubaccountStatus(
        status="error", action=kind, message="Missing synthetic_hotkey parameter"
    )


def test_version_1_ignores_unknown_fields() -> None:
    """No filter, no error frame: it subscribes to everything."""
    session, _ = _logged_in()
    effects = _tell(session, type="subscribe", miners=["m"], format=5, extra={})
    assert effects[0].frame.all is True  # type: ignore[union-attr]
    assert session.subscription == Subscription(late_window_ms=WINDOW)
    for nonsense in (b"", b"x", b"[]", b'{"type": "dance"}', b'{"no": "type"}'):
        assert session.receive(nonsense, NOW) == []


@pytest.mark.parametrize(
    ("timestamp", "echo"),
    [
        (5, 5),
        (1.5, 1.5),
        ("t", "t"),
        (None, 0),
        (0, 0),
        ({"a": 1}, 0),
        ([[]], 0),
        ("x" * 64, "x" * 64),
        ("x" * 65, 0),
        ("\u20ac" * 21, "\u20ac" * 21),
        ("\u20ac" * 22, 0),
        (10**30, 10**30),
        (10**999, 0),
        (True, 0),
        ([[]] * 1_000, 0),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_a_ping_is_answered_with_its_time_or_0(version: int, timestamp: Any, echo: Any) -> None:
    """A number, or a text of at most 64 bytes in UTF-8, is echoed as it came."""
    session, _ = _logged_in(version=version)
    expected = frames.Pong(client_timestamp=echo, server_timestamp=NOW, timestamp=NOW)
    assert _tell(session, type="ping", timestamp=timestamp) == [Send(expected)]
    for kind in ("subscribe", "unsubscribe"):
        (status,) = _sent(_tell(session, type=kind, sender_timestamp=timestamp))[:1]
        assert status.sender_timestamp == (None if timestamp is None else echo)  # type: ignore[attr-defined]


def test_a_filter_has_at_most_2048_names() -> None:
    """Counted however they are written; the subscription stays as it was."""
    session, _ = _logged_in(version=2)
    names = [f"miner-{n}" for n in range(MOST_NAMES)]
    for name in ("miners", "trade_pairs"):
        for too_many in ([*names, "another"], [",".join(names), "another"]):
            (error,) = _sent(_tell(session, type="subscribe", **{name: too_many}))
            assert error.code == "bad_frame"  # type: ignore[attr-defined]
            assert error.message.startswith(f"{name}: more than 2048 names")  # type: ignore[attr-defined]
        (error,) = _sent(_tell(session, type="subscribe", **{name: ["x" * 65]}))
        assert error == frames.Error(code="bad_frame", message=f"{name}: a name has more than 64 characters")
    assert not session.subscribed_before
    _tell(session, type="subscribe", miners=names)
    assert session.subscription.miners == frozenset(names)


def test_only_a_subscribe_may_be_large() -> None:
    """Another frame is an error, however little of it would be read."""
    session, _ = _logged_in(version=2)
    for kind, name in (("ping", "timestamp"), ("unsubscribe", "sender_timestamp")):
        (error,) = _sent(_tell(session, type=kind, **{name: "x" * 4_096}))
        assert error == frames.Error(
            code="bad_frame", message="too big: only a subscribe may have more than 4096 bytes"
        )


def test_a_subscription_matches_by_miner_and_pair() -> None:
    """AND-ed; an unknown pair always matches."""
    both = Subscription(version=2, miners=frozenset("ab"), trade_pairs=frozenset(["X"]))
    assert both.matches("a", "X")
    assert not both.matches("c", "X")
    assert not both.matches("a", "Y")
    assert both.matches("a", None)
    assert not Subscription(miners=frozenset()).matches("a", "X")
    assert Subscription().matches("a", "X")


# --- a log that cannot be read ----------------------------------------------------------------------------


class Unreadable(Log):
    """A log whose reads fail while this is set."""

    error: LogError | None = None

    def head(self) -> Head:
        if self.error:
            raise self.error
        return super().head()


def test_a_login_that_cannot_read_the_log_can_be_tried_again() -> None:
    """It raises and changes nothing; frames keep waiting."""
    log = Unreadable()
    session = _session(log)
    _tell(session, api_key="k")
    _tell(session, type="ping", timestamp=4)
    log.error = LogError("disk I/O error")
    for _ in range(2):
        with pytest.raises(LogError):
            session.key_checked(100, NOW)
        assert session.state is State.CHECKING
    log.error = None
    assert [type(frame) for frame in _sent(session.key_checked(100, NOW))] == [
        frames.AuthSuccess,
        frames.Pong,
    ]


def test_a_subscribe_that_cannot_read_the_log_waits_for_a_retry() -> None:
    """Later frames wait behind it; the retry handles all of them, in order."""
    log = Unreadable()
    session, _ = _logged_in(log, version=2, last_sequence=105, epoch="e1")
    log.error = error = LogError("disk I/O error")
    assert _tell(session, type="subscribe", format="delta") == [RetryLater(error)]
    assert _tell(session, type="ping", timestamp=4) == []
    assert session.retry(NOW) == [RetryLater(error)]
    assert (session.state, session.subscription.format) == (State.IDLE, "full")
    log.error = None
    effects = session.retry(NOW)
    kinds = [type(frame) for frame in _sent(effects)]
    assert kinds == [frames.SubscriptionStatus, frames.Resumed, frames.Pong]
    assert CatchUp(after=105, replay_until=110) in effects
    assert session.state is State.CATCHING_UP
    assert session.retry(NOW) == []


def test_frames_that_wait_for_the_log_are_bounded() -> None:
    """One too many closes with a code that means "reconnect"."""
    log = Unreadable()
    session, _ = _logged_in(log, version=2, last_sequence=105, epoch="e1")
    log.error = LogError("disk I/O error")
    _tell(session, type="subscribe")
    for _ in range(MAX_WAITING_FRAMES - 1):
        assert _tell(session, type="ping") == []
    assert _tell(session, type="ping") == [Close(close_codes.TOO_MANY_REQUESTS)]
    assert session.retry(NOW) == []


# --- the end ----------------------------------------------------------------------------------------------


def test_an_evicted_connection_gets_the_message_existing_clients_know() -> None:
    """A frame, then a close that means "reconnect"."""
    session, _ = _logged_in()
    message = "Disconnected due to too many connections for this API key"
    assert session.evict() == [
        Send(frames.AuthFailure(status="error", message=message, code="MAX_CONNECTIONS_EXCEEDED")),
        Close(close_codes.REPLACED),
    ]
    assert session.evict() == []


def test_the_first_reason_to_close_stands() -> None:
    """Later reasons and frames have no effect."""
    session, _ = _logged_in()
    assert session.close(close_codes.KEY_REVOKED) == [Close(close_codes.KEY_REVOKED)]
    assert session.close(close_codes.SLOW_CONSUMER) == []
    assert _tell(session, type="ping") == []
    session.lost()
    assert session.state is State.CLOSED


def test_every_state_can_close_and_none_follows_the_last() -> None:
    """In the transition table."""
    assert set(TRANSITIONS) == set(State)
    assert TRANSITIONS[State.CLOSED] == {}
    assert all(t[Input.CLOSE] is State.CLOSED for s, t in TRANSITIONS.items() if s is not State.CLOSED)


VERSION_1_FRAMES = (
    frames.AuthSuccess,
    frames.AuthFailure,
    frames.SubscriptionStatus,
    frames.SubaccountStatus,
    frames.Pong,
)
_timestamps = st.none() | st.integers() | st.text(max_size=5)
_requests = st.one_of(
    st.fixed_dictionaries({"type": st.just("ping")}, optional={"timestamp": _timestamps}),
    st.fixed_dictionaries({"type": st.just("unsubscribe")}, optional={"sender_timestamp": _timestamps}),
    st.fixed_dictionaries(
        {"type": st.just("subscribe")},
        optional={
            "all": st.booleans(),
            "miners": st.lists(st.text(max_size=2), max_size=2) | st.integers(),
            "format": st.sampled_from(["full", "delta", "tiny"]),
            "updates": st.booleans(),
            "revision": st.integers(-1, 60),
            "unknown": st.none(),
        },
    ),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)


class Conversation(RuleBasedStateMachine):
    """Any sequence of client frames, key checks and server actions."""

    @initialize(version=st.sampled_from([1, 2]), header=st.booleans())
    def connect(self, version: int, header: bool) -> None:
        self.log = Log()
        self.session = _session(self.log)
        self.version = version
        self.checks = self.successes = self.catch_ups = self.closes = 0
        self.start = -1
        if header:
            self.take(self.session.authenticate("k"))

    @rule(last=st.integers(-2, 120), epoch=st.sampled_from(["e1", "e2", None]))
    def login(self, last: int, epoch: str | None) -> None:
        self.take(_tell(self.session, api_key="k", last_sequence=last, version=self.version, epoch=epoch))

    @precondition(lambda self: self.checks > 0)
    @rule(frame=_requests)
    def request(self, frame: dict[str, Any]) -> None:
        self.take(_tell(self.session, **frame))

    @precondition(lambda self: self.checks > 0)
    @rule(data=st.binary(max_size=30))
    def noise(self, data: bytes) -> None:
        self.take(self.session.receive(data, NOW))

    @rule(tier=st.sampled_from([None, 0, 50, 100, 100, 100]))
    def key_checked(self, tier: int | None) -> None:
        self.take(self.session.key_checked(tier, NOW))

    @precondition(lambda self: self.session.state is State.CATCHING_UP)
    @rule()
    def catch_up_ends(self) -> None:
        self.session.caught_up()

    @rule(count=st.integers(1, 3))
    def orders(self, count: int) -> None:
        self.log.last += count
        self.log.revision += count

    @rule(code=st.sampled_from(list(close_codes.CLOSE_CODES.values())))
    def close(self, code: close_codes.CloseCode) -> None:
        self.take(self.session.close(code))

    @precondition(lambda self: self.session.logged_in)
    @rule()
    def evict(self) -> None:
        self.take(self.session.evict())

    def take(self, effects: list[Effect]) -> None:
        for effect in effects:
            assert self.closes == 0, "nothing comes after a close"
            match effect:
                case CheckKey():
                    self.checks += 1
                case Close():
                    self.closes += 1
                case CatchUp():
                    self.catch_ups += 1
                    assert 100 <= effect.after <= self.log.last
                    assert effect.after == self.start
                case Send(frame=frame):
                    self.sent(frame)

    def sent(self, frame: msgspec.Struct) -> None:
        if self.session.version == 1:
            assert isinstance(frame, VERSION_1_FRAMES)
        if isinstance(frame, frames.AuthSuccess):
            self.successes += 1
            self.start = frame.current_sequence
        elif not isinstance(frame, frames.AuthFailure):
            assert self.successes == 1, "nothing but a refusal comes before the login's success"
        if isinstance(frame, frames.ResumeFailed):
            self.start = frame.head

    @invariant()
    def each_once(self) -> None:
        if not hasattr(self, "session"):
            return
        assert max(self.checks, self.successes, self.catch_ups, self.closes) <= 1
        assert (self.closes == 1) == (self.session.state is State.CLOSED)
        assert (
            self.session.state in (State.CATCHING_UP, State.LIVE, State.IDLE, State.CLOSED)
            or not self.catch_ups
        )


TestConversation = Conversation.TestCase
TestConversation.settings = tries(150, stateful_step_count=25)


def test_a_name_of_the_greatest_length_is_accepted() -> None:
    """In a filter of either kind."""
    session, _ = _logged_in(version=2)
    for name in ("miners", "trade_pairs"):
        _tell(session, type="subscribe", **{name: ["X" * LONGEST_NAME]})
        assert getattr(session.subscription, name) == {"X" * LONGEST_NAME}


# --- a log that is behind -----------------------------------------------------------------------------------


@pytest.mark.parametrize("behind", [None, 700])
def test_a_cursor_above_the_head_waits_for_a_log_that_is_behind(behind: int | None) -> None:
    """Until the log was complete after the client came: then the number is refused."""
    log = Log(behind=behind)
    session = _session(log)
    _tell(session, api_key="k", version=2, last_sequence=115, epoch="e1")
    for waited_ms in (0, 699):
        with pytest.raises(LogBehindError):
            session.key_checked(100, NOW, waited_ms=waited_ms)
    assert session.state is State.CHECKING
    log.behind = 700
    session.key_checked(100, NOW, waited_ms=700)
    _, failed = _sent(_tell(session, type="subscribe"))
    assert isinstance(failed, frames.ResumeFailed)
    assert failed.reason == "future"


def test_a_client_that_waited_too_long_is_sent_away() -> None:
    """At its login, or at a subscribe with a revision; nothing is sent before the close."""
    session = _session(Log(behind=None))
    _tell(session, api_key="k", version=2, last_sequence=115, epoch="e1")
    assert session.key_checked(100, NOW, waited_ms=None) == [Close(close_codes.NOT_READY)]
    session, _ = _logged_in(Log(behind=None), version=2, last_sequence=105, epoch="e1")
    (effect,) = _tell(session, type="subscribe", updates=True, format="delta", revision=51)
    assert isinstance(effect, RetryLater)
    assert session.retry(NOW, waited_ms=None) == [Close(close_codes.NOT_READY)]


def test_version_1_waits_and_then_continues_at_the_head() -> None:
    """It has no epoch, so the number may be from anywhere."""
    session = _session(Log(behind=None))
    _tell(session, api_key="k", last_sequence=115)
    with pytest.raises(LogBehindError):
        session.key_checked(100, NOW)
    (success,) = _sent(session.key_checked(100, NOW, waited_ms=None))
    assert isinstance(success, frames.AuthSuccess)
    assert success.current_sequence == 110
