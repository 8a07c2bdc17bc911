"""Moments and speeds as people type them."""

from __future__ import annotations

import pytest

from ptn_api.cli.time_arguments import moment_ms, speed_of
from ptn_api.errors import SettingsError


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
def test_moments(text: str | None, expected: int | None) -> None:
    """UTC, unless an offset is given."""
    assert moment_ms(text) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "12:00", "2026-13-01", "-5"])
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(SettingsError):
        moment_ms(text)


@pytest.mark.parametrize(
    ("text", "expected"), [(None, None), ("max", None), ("10x", 10.0), ("0.5", 0.5), ("1x", 1.0)]
)
def test_speeds(text: str | None, expected: float | None) -> None:
    assert speed_of(text) == expected


@pytest.mark.parametrize("text", ["", "x", "0", "-1x", "nan", "inf", "fast"])
def test_what_is_no_speed(text: str) -> None:
    with pytest.raises(SettingsError):
        speed_of(text)
