"""Targets: which there are, which are chosen, and that their secrets stay secret."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ptn_api.errors import SettingsError
from ptn_api.notify.targets import Target, choose_targets, parse_targets, read_private_file

SECRET = "tokenThatNobodyMaySee"


def test_a_file_of_targets() -> None:
    lines = ["# chats", "", f"team = discord://1/{SECRET}", "desk=webhook+https://h/x?a=b", "  "]
    team, desk = parse_targets(lines, "--targets-file")
    assert (team.name, team.url) == ("team", f"discord://1/{SECRET}")
    assert (desk.url, desk.is_webhook) == ("webhook+https://h/x?a=b", True)


@pytest.mark.parametrize(
    "line",
    [
        f"discord://1/{SECRET}",
        f"team = {SECRET}",
        f"{SECRET} {SECRET} = json://h",
        f"a = json://h/{SECRET} b",
        f"a = json://{SECRET}\x00",
        f"={SECRET}://h",
    ],
)
def test_a_malformed_entry_is_an_error_that_names_only_its_number(line: str) -> None:
    with pytest.raises(SettingsError, match="--targets-file: entry 2 is not NAME = URL") as caught:
        parse_targets(["# one", line], "--targets-file")
    assert SECRET not in str(caught.value)


def test_a_name_is_used_once() -> None:
    with pytest.raises(SettingsError, match="two targets have the name a"):
        parse_targets(["a = json://h", "a = json://i"], "x")


def test_targets_are_chosen_by_name_or_given_as_addresses() -> None:
    known = [Target("a", "json://a"), Target("b", "json://b")]
    assert choose_targets([], known) == known
    assert choose_targets(["b"], known) == known[1:]
    chosen = choose_targets(["a", "json://localhost/x"], known)
    assert [target.url for target in chosen] == ["json://a", "json://localhost/x"]
    assert choose_targets(["json://localhost/x"], []) == chosen[1:]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([f"json://user:{SECRET}@host"], "argument 1: every process list"),
        ([f"webhook+https://host/?token={SECRET}"], "argument 1: every process list"),
        ([SECRET], r"argument 1: neither .* \(known: a\)"),
        ([f"json://h/{n}" for n in range(5)], "5 targets"),
    ],
)
def test_wrong_arguments(arguments: list[str], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem) as caught:
        choose_targets(arguments, [Target("a", f"json://{SECRET}")])
    assert SECRET not in str(caught.value)


def test_no_targets_at_all() -> None:
    with pytest.raises(SettingsError, match="no targets: name them in --targets-file"):
        choose_targets([], [])


def test_a_target_is_printed_without_its_address() -> None:
    assert SECRET not in repr([Target("a", f"json://{SECRET}")])


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_a_file_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / SECRET
    file.write_text(SECRET)
    file.chmod(mode)
    with pytest.raises(SettingsError, match=r"--targets-file: other users .* chmod 600") as caught:
        read_private_file(file, "--targets-file")
    assert SECRET not in str(caught.value)
    file.chmod(0o600)
    assert read_private_file(file, "--targets-file") == SECRET


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "binary"])
def test_a_file_that_cannot_be_read(tmp_path: Path, kind: str) -> None:
    """The error does not repeat its name, which may be the secret, given by mistake."""
    file = tmp_path / SECRET
    if kind == "folder":
        file.mkdir()
    if kind == "fifo":
        os.mkfifo(file, 0o600)
    if kind == "binary":
        file.write_bytes(b"\xff\xfe")
        file.chmod(0o600)
    with pytest.raises(SettingsError, match=r"^--targets-file: ") as caught:
        read_private_file(file, "--targets-file")
    assert SECRET not in str(caught.value)
