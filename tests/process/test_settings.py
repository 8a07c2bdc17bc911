"""Settings: each declared once, in its package; a flag wins over the environment, that over the default."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import ptn_api
from ptn_api.cluster.options import ClusterOptions
from ptn_api.errors import SettingsError
from ptn_api.fanout.options import StreamOptions
from ptn_api.intake.options import IntakeOptions, IntakeSettings
from ptn_api.options import SECTIONS
from ptn_api.process.settings import SETTINGS, Settings, load_settings
from ptn_api.rest.options import RestOptions
from ptn_api.simulator.options import SimulatorOptions

PACKAGE = Path(ptn_api.__file__).parent
DECLARING = {"options.py", "settings.py"}
INDEPENDENT = {"client", "wire", "http"}
"""Packages that know no server of ours and choose their defaults for themselves."""


def load(environ: dict[str, str] | None = None, **values: Any) -> Settings:
    return load_settings(values, environ or {})


def test_the_defaults_are_those_of_the_declarations() -> None:
    """Nothing given: the structs' own defaults."""
    settings = load()
    assert settings == Settings()
    assert (settings.api_host, settings.api_rest_port, settings.api_ws_port) == ("127.0.0.1", 48888, 8765)
    assert (settings.stream, settings.simulator) == (StreamOptions(), SimulatorOptions())


def test_a_flag_wins_over_the_environment() -> None:
    """And the environment over the default."""
    environ = {"PTN_API_REST_PORT": "1", "PTN_API_WS_PORT": "2", "PTN_DEMO": "true"}
    settings = load(environ, api_rest_port="3")
    assert (settings.api_rest_port, settings.api_ws_port, settings.demo) == (3, 2, True)


def test_a_setting_reaches_every_package_that_has_it() -> None:
    """Under its own name, or without the prefix that it has outside of the package."""
    settings = load(connects_per_minute="7", clock_jump_ms=8, stop_timeout_ms=9, demo_miners="10")
    assert (settings.rest.connects_per_minute, settings.stream.connects_per_minute) == (7, 7)
    assert (settings.rest.clock_jump_ms, settings.intake.clock_jump_ms) == (8, 8)
    assert (settings.rest.stop_timeout_ms, settings.stop_timeout_ms) == (9, 9)
    assert settings.simulator.miners == 10


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("api_rest_port", "x", "a whole number from 0 to 65535"),
        ("api_rest_port", "65536", "a whole number from 0 to 65535"),
        ("api_ws_port", "-1", "a whole number from 0 to 65535"),
        ("metrics_port", "-2", "a whole number from -1 to 65535"),
        ("sweep_ms", "0", "a whole number of 1 or more"),
        ("netuid", "eight", "a whole number"),
        ("demo_orders_per_minute", "-1", "a number of 0 or more"),
        ("demo", "maybe", "true or false"),
        ("log_level", "loud", "one of debug, info, warning, error"),
    ],
)
def test_a_bad_value_names_its_source_and_what_is_accepted(name: str, value: str, expected: str) -> None:
    """The flag, or the variable if the value came from the environment."""
    setting = SETTINGS[name]
    with pytest.raises(SettingsError) as caught:
        load(**{name: value})
    assert str(caught.value) == f"{setting.flag} {value!r}: expected {expected}"
    with pytest.raises(SettingsError, match=setting.variable):
        load({setting.variable: value})


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        load().demo = True  # type: ignore[misc]


def test_settings_survive_the_way_to_a_child_process() -> None:
    settings = load(demo="true", demo_orders_per_minute="0.5", sweep_ms=7)
    assert msgspec.json.decode(msgspec.json.encode(settings), type=Settings) == settings


def test_every_setting_has_a_section_a_description_and_a_unit() -> None:
    """Help and documentation are made from these."""
    assert next(iter(SETTINGS.values())).flag == "--api-host"
    assert SETTINGS["validator_dir"].variable == "PTN_VALIDATOR_DIR"
    assert {setting.section for setting in SETTINGS.values()} == set(SECTIONS)
    for setting in SETTINGS.values():
        assert len(setting.description) > 15, setting.name
        assert setting.description[0].isupper(), setting.name
        assert setting.description[-1] != ".", setting.name
        assert bool(setting.unit) is not setting.is_switch, setting.name
        if setting.name.endswith("_ms"):
            assert setting.unit == "MS", setting.name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("sweep_ms", "5000 = 5 s"),
        ("retention_ms", "604800000 = 7 d"),
        ("key_check_ms", "450"),
        ("send_buffer_bytes", "8388608 = 8 MiB"),
        ("demo_orders_per_minute", "60"),
        ("checkpoint", ""),
        ("api_ws_host", "same as --api-host"),
        ("demo", ""),
    ],
)
def test_defaults_are_readable(name: str, text: str) -> None:
    """Large numbers with their largest whole unit."""
    assert SETTINGS[name].default_text == text


# --- one declaration --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_packages_that_share_a_setting_share_its_declaration(name: str) -> None:
    """The same type, description and default."""
    declared = {
        (repr(field.type), field.default)
        for options in (Settings, IntakeSettings, RestOptions, StreamOptions, ClusterOptions)
        for field in msgspec.structs.fields(options)
        if field.name == name
    }
    assert len(declared) == 1 or name.startswith("demo_")


def defaults(path: Path) -> Iterator[tuple[str, Any]]:
    """(name, literal) of every default of a parameter or an annotated name in a module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            yield node.target.id, node.value
        if isinstance(node, ast.arguments):
            positional = [*node.posonlyargs, *node.args]
            yield from zip(
                (argument.arg for argument in positional[len(positional) - len(node.defaults) :]),
                node.defaults,
                strict=True,
            )
            yield from (
                (argument.arg, default)
                for argument, default in zip(node.kwonlyargs, node.kw_defaults, strict=True)
                if default is not None
            )


def value_of(default: ast.expr) -> Any:
    try:
        return eval(compile(ast.Expression(default), "", "eval"), {"__builtins__": {}})
    except (NameError, TypeError, AttributeError, KeyError):
        return None  # not a literal


def test_no_default_is_written_twice() -> None:
    """Outside of the declarations, a name of a setting never has the setting's default as a literal."""
    names = {name: setting.default for name, setting in SETTINGS.items()}
    copies = [
        f"{path.relative_to(PACKAGE)}: {name} = {names[name]}"
        for path in PACKAGE.rglob("*.py")
        if path.name not in DECLARING and path.relative_to(PACKAGE).parts[0] not in INDEPENDENT
        for name, default in defaults(path)
        if name in names and names[name] not in ("", False) and value_of(default) == names[name]
    ]
    assert copies == []


@pytest.mark.parametrize("options", [IntakeOptions, RestOptions, StreamOptions])
def test_options_that_are_not_settings_are_few(options: type[msgspec.Struct]) -> None:
    """They exist for tests; everything that an operator may change is declared as a setting."""
    plain = {field.name for field in msgspec.structs.fields(options)} - SETTINGS.keys()
    assert plain <= {
        *(
            "blind_sweep_ms",
            "event_grace_ms",
            "retry_ms",
            "retry_max_ms",
            "mass_removal_share",
            "mass_removal_count",
        ),
        *("position_limit_bytes", "document_limit_bytes", "queue_line_limit_bytes"),
        *("rate_window_ms", "silent_ms", "replay_stall_ms"),
        *("waiting_downloads", "download_wait_ms", "heavy_wait_ms", "heavy_yield_ms", "behind_wait_ms"),
    }
