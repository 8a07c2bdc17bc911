"""API keys, choices, and the delays between connections."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from ptn_api.client.arguments import ReconnectBackoff, Timing, api_key_from
from ptn_api.client.stream import connect
from ptn_api.client.testing import FakeServer
from ptn_api.errors import AuthenticationError, SettingsError
from tests.factories import MINER

TIMING = Timing(backoff=1, backoff_max=60, eviction=15, refused=30, settled=20)


def longest() -> float:
    """The random number that leaves a delay at its full length."""
    return 0.0


def shortest() -> float:
    return 1.0


# --- keys and choices -------------------------------------------------------------------------------------


def test_the_key_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From PTN_API_KEY; without argument and variable a client cannot be made."""
    monkeypatch.delenv("PTN_API_KEY", raising=False)
    with pytest.raises(AuthenticationError, match="set PTN_API_KEY"):
        connect("ws://localhost:1", state_dir=tmp_path)
    monkeypatch.setenv("PTN_API_KEY", "k")
    assert connect("ws://localhost:1", state_dir=tmp_path).state == "stopped"


@pytest.mark.parametrize(
    ("argument", "key"), [(" key\n", "key"), ("kéy", None), ("a key", None), ("k\0y", None)]
)
def test_white_space_around_a_key_is_stripped_and_other_characters_are_refused(
    argument: str, key: str | None
) -> None:
    """A file ends with a line break. The error does not repeat the key."""
    if key is not None:
        assert api_key_from(argument) == key
        return
    with pytest.raises(AuthenticationError) as refused:
        api_key_from(argument)
    assert argument not in str(refused.value)


def test_an_unknown_trade_pair_is_logged_and_an_unknown_format_refused(
    server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A misspelt pair may be a new one; a format cannot."""
    with caplog.at_level(logging.WARNING, "ptn_api.client"):
        connect(server.url, server.api_key, trade_pairs=["BTCUSD", "BTCUDS"])
    assert "'BTCUDS'" in caplog.text
    assert "'BTCUSD'" not in caplog.text
    with pytest.raises(SettingsError, match="'full', 'delta'"):
        connect(server.url, server.api_key, format="detla")  # type: ignore[arg-type]


def test_a_prefix_of_a_hotkey_is_logged(server: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    """No order would match it, and the server cannot tell."""
    with caplog.at_level(logging.WARNING, "ptn_api.client"):
        connect(server.url, server.api_key, miners=["5E9un", MINER])
    assert [record.getMessage() for record in caplog.records] == [
        "'5E9un' is not a whole hotkey (only the `ptn` command accepts prefixes)"
    ]


# --- delays -----------------------------------------------------------------------------------------------


def test_delays_double_up_to_a_limit() -> None:
    """Retries never end."""
    backoff = ReconnectBackoff(TIMING, longest)
    assert [backoff.lost() for _ in range(9)] == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert all(backoff.lost() == 60 for _ in range(2_000))


def test_the_jitter_is_full() -> None:
    """Clients that were disconnected together reconnect spread out from zero on."""
    backoff = ReconnectBackoff(TIMING, shortest)
    assert [backoff.lost() for _ in range(3)] == [0, 0, 0]


def test_a_connection_that_lasted_resets_the_delay() -> None:
    """A connection that was closed at once does not."""
    backoff = ReconnectBackoff(TIMING, longest)
    assert [backoff.lost() for _ in range(3)] == [1, 2, 4]
    backoff.connected_for(5)
    assert backoff.lost() == 8
    backoff.connected_for(20)
    assert backoff.lost() == 1


def test_an_evicted_client_never_reconnects_soon() -> None:
    """Its delay grows, although each of six clients is connected for a while in turn."""
    backoff = ReconnectBackoff(TIMING, shortest)
    delays = []
    for _ in range(4):
        delays.append(backoff.evicted())
        backoff.connected_for(60)
    assert delays == [15, 30, 60, 60]
    backoff.connected_for(600)
    assert backoff.evicted() == 15


def test_a_refused_login_is_retried_slowly() -> None:
    """Every 30 to 60 s by default: the key may be added later."""
    assert ReconnectBackoff(TIMING, shortest).refused() == 30
    assert ReconnectBackoff(TIMING, longest).refused() == 60
