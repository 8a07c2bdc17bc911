"""Times, durations and speeds as people type them."""

from __future__ import annotations

import pytest

from ptn_api.cli.time_arguments import duration_ms, expiry_ms, speed_of, time_ms
from ptn_api.errors import SettingsError

NOW = 1_760_400_000_000
DAY = 86_400_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("1795374600000", 1_795_374_600_000),
        ("1970-01-02", 86_400_000),
        ("1970-01-01T01:00", 3_600_000),
        ("1970-01-01T01:00:00Z", 3_600_000),
        ("1970-01-01T01:00+01:00", 0),
    ],
)
def test_times(text: str | None, expected: int | None) -> None:
    """UTC, unless an offset is given."""
    assert time_ms(text) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "12:00", "2026-13-01", "-5"])
def test_malformed_times(text: str) -> None:
    with pytest.raises(SettingsError, match="not a time"):
        time_ms(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), ("10s", 10_000), ("30m", 1_800_000), ("12h", DAY // 2), ("90d", 90 * DAY), ("2w", 14 * DAY)],
)
def test_durations(text: str, expected: int) -> None:
    assert duration_ms(text, "--grace") == expected


@pytest.mark.parametrize("text", ["", "7", "1_0d", "-1d", "5y", "1.5h", "999999w"])
def test_malformed_durations_name_the_flag(text: str) -> None:
    """A duration over 100 years is a mistake as well."""
    with pytest.raises(SettingsError, match="--grace"):
        duration_ms(text, "--grace")


def test_a_bare_number_is_taken_for_seconds() -> None:
    with pytest.raises(SettingsError, match=r"give one like 30s\)"):
        duration_ms("30", "--max-age")
    with pytest.raises(SettingsError, match="in seconds: give epoch milliseconds, 1796039316000"):
        time_ms("1796039316")


def test_an_expiry_is_a_duration_from_now_or_a_time() -> None:
    assert expiry_ms("", NOW, "--expires") is None
    assert expiry_ms("1d", NOW, "--expires") == NOW + DAY
    assert expiry_ms(str(NOW + 1), NOW, "--expires") == NOW + 1
    for text in (str(NOW), "2020-01-01", "soon"):
        with pytest.raises(SettingsError, match="--expires"):
            expiry_ms(text, NOW, "--expires")


@pytest.mark.parametrize(
    ("text", "expected"), [(None, None), ("max", None), ("10x", 10.0), ("0.5", 0.5), ("1x", 1.0)]
)
def test_speeds(text: str | None, expected: float | None) -> None:
    assert speed_of(text) == expected


@pytest.mark.parametrize("text", ["", "x", "0", "-1x", "nan", "inf", "fast"])
def test_malformed_speeds(text: str) -> None:
    with pytest.raises(SettingsError, match="not a speed"):
        speed_of(text)
