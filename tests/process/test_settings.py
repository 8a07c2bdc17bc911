"""One table of settings: flags, environment, defaults, in that order."""

from __future__ import annotations

import argparse

import msgspec
import pytest

from ptn_api.errors import SettingsError
from ptn_api.intake.options import IntakeOptions
from ptn_api.process.settings import Settings, add_arguments, describe, from_arguments
from ptn_api.rest.options import RestOptions
from ptn_api.stream.options import StreamOptions

NO_SETTINGS = {
    *("blind_sweep_ms", "retry_ms", "retry_max_ms", "mass_removal_share", "mass_removal_count"),
    *("position_limit_bytes", "document_limit_bytes", "queue_line_limit_bytes"),
    *("rate_window_ms", "silent_ms", "replay_stall_ms"),
}
"""Options of the rooms that only tests change."""


def parse(*argv: str, environ: dict[str, str] | None = None) -> Settings:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return from_arguments(parser.parse_args(argv), environ or {})


def test_defaults_are_the_documented_ones() -> None:
    """What nobody says is what the documentation says."""
    settings = parse()
    assert settings == Settings()
    assert (settings.api_host, settings.api_rest_port, settings.api_ws_port) == ("127.0.0.1", 48888, 8765)


def test_a_flag_wins_over_the_environment() -> None:
    """And the environment over the default."""
    environ = {"PTN_API_REST_PORT": "1", "PTN_API_WS_PORT": "2", "PTN_DEMO": "true"}
    settings = parse("--api-rest-port", "3", environ=environ)
    assert (settings.api_rest_port, settings.api_ws_port, settings.demo) == (3, 2, True)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--api-rest-port", "x"),
        ("--api-rest-port", "65536"),
        ("--api-ws-port", "-1"),
        ("--sweep-ms", "0"),
        ("--log-level", "loud"),
    ],
)
def test_a_bad_value_names_its_flag(flag: str, value: str) -> None:
    """The message is a sentence that says what to change."""
    with pytest.raises(SettingsError, match=flag):
        parse(f"{flag}={value}")


def test_settings_are_frozen() -> None:
    """Nobody changes them after loading."""
    with pytest.raises(AttributeError):
        parse().demo = True  # type: ignore[misc]


def test_every_setting_says_what_it_means() -> None:
    """The documentation's table is made of this."""
    described = {name: (flag, variable) for name, flag, variable, _, _ in describe()}
    assert described["api_rest_port"] == ("--api-rest-port", "PTN_API_REST_PORT")
    assert described["validator_dir"] == ("--validator-dir", "PTN_VALIDATOR_DIR")
    assert all(len(meaning) > 10 for *_, meaning in describe())


@pytest.mark.parametrize("options", [IntakeOptions, RestOptions, StreamOptions])
def test_a_rooms_options_are_the_settings(options: type[msgspec.Struct]) -> None:
    """Of the same names and defaults: one that was renamed or changed on one side only would say nothing."""
    defaults = {f.name: f.default for f in msgspec.structs.fields(Settings)}
    for field in msgspec.structs.fields(options):
        if field.name in NO_SETTINGS:
            assert field.name not in defaults
        elif not field.required:
            assert (field.default or None) == (defaults[field.name] or None), field.name
