"""Hostile files, as a broken or compromised validator or a careless operator may leave them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import requests

from tests import factories
from tests.hostile.fortress import Fortress
from tests.waiting import PATIENCE_S, until

NUMBERS = iter(range(10**7, 10**8))
DEEP = "[" * 200_000


def position_text(**changes: Any) -> str:
    number = next(NUMBERS)
    return json.dumps(factories.position(number, [factories.order(number)]) | changes)


BODIES: dict[str, bytes] = {
    "deep": DEEP.encode(),
    "deep within": position_text(x=0).replace('"x": 0', f'"x": {DEEP}').encode(),
    "closed, but deep": position_text(x=0).replace('"x": 0', '"x": ' + "[" * 900 + "]" * 900).encode(),
    "no UTF-8": position_text(note="NOTE").encode().replace(b"NOTE", b"\xff\xfe"),
    "NUL": b"\0" * 5_000,
    "NUL in a name": position_text(miner_hotkey="a\0b").encode(),
    "a path for a hotkey": position_text(miner_hotkey="../../../etc").encode(),
    "a header for a hotkey": position_text(miner_hotkey="a\r\nX-Evil: 1").encode(),
    "not finite": position_text().replace("100.0", "NaN").encode(),
    "out of range": position_text().replace('"leverage": 0.1', '"leverage": 1e999').encode(),
    "a time of 400 digits": position_text().replace(str(factories.T0), "9" * 400).encode(),
    "half a surrogate": position_text(note="NOTE").replace("NOTE", "\\ud800").encode(),
    "a list": b"[1, 2]",
    "text": b"not JSON at all",
    "malformed orders": position_text(orders=[1, None, {}, []]).encode(),
    "a million malformed orders": position_text(orders=[])
    .replace("[]", "[" + "{}," * 10**6 + "{}]")
    .encode(),
    "nothing": b"",
}
NAMES = [
    b"..\\..\\etc",
    b"a\nb",
    b"\xff\xfe",
    b"<script>",
    b"%2e%2e%2f",
    b" ",
    b"a" * 255,
    b'"',
    b"\x01",
    "💥".encode(),
]


@pytest.fixture
def folder(fortress: Fortress) -> bytes:
    """Returns the folder of an ordinary miner's position files."""
    path = fortress.validator.path(fortress.validator.place()).parent
    return os.fsencode(path)


def still_reads(fortress: Fortress) -> None:
    """Places a position and waits for its announcement: everything before it was processed."""
    fortress.check_served()
    health = fortress.call("/health").json()
    # Hostile files may outnumber the others.
    assert health["status"] in ("ok", "degraded") or health["source"]["reason"] == "files_refused", health


def test_malformed_position_files(fortress: Fortress, folder: bytes) -> None:
    """Skipped and logged; the others are read."""
    for name, body in BODIES.items():
        Path(os.fsdecode(folder), f"hostile {name}").write_bytes(body)
    with open(os.path.join(folder, b"huge"), "wb") as sparse:
        sparse.truncate(1 << 32)
    still_reads(fortress)
    served = fortress.call("/miner-positions")
    assert b"evil" not in served.content.lower()
    assert set(served.json()) <= {factories.MINER, factories.OTHER_MINER}


def test_names_of_every_kind(fortress: Fortress, folder: bytes) -> None:
    """Of files, folders, miners and pairs. Unsafe names are left out; the rest is served."""
    miners = os.fsencode(fortress.validator.root / "validation" / "miners")
    for name in NAMES:
        with open(os.path.join(folder, name), "wb") as file:
            file.write(position_text().encode())
        for parent in (miners, os.path.join(miners, factories.MINER.encode(), b"positions")):
            os.makedirs(os.path.join(parent, name, b"positions", b"BTCUSD", b"open"), exist_ok=True)
            os.makedirs(os.path.join(parent, name, b"open"), exist_ok=True)
    still_reads(fortress)
    hotkeys = fortress.call("/miner-hotkeys")
    assert factories.MINER in hotkeys.json()
    for hotkey in hotkeys.json():
        assert fortress.call("/miner-positions/" + hotkey.replace("%", "%25")).status_code in (200, 404)


def test_entries_that_are_not_files(fortress: Fortress, folder: bytes) -> None:
    """Links out of the directory, pipes, folders, loops: nothing blocks, nothing from outside is served."""
    secret = fortress.validator.root.parent / "secret"
    secret.write_text(position_text(note="SECRET"))
    for name, make in {
        b"pipe": os.mkfifo,
        b"folder": os.mkdir,
        b"loop": lambda path: os.symlink(path, path),
        b"device": lambda path: os.symlink(b"/dev/zero", path),
        b"passwords": lambda path: os.symlink(b"/etc/passwd", path),
    }.items():
        make(os.path.join(folder, name))
    os.symlink(folder, os.path.join(folder, b"itself"))
    still_reads(fortress)
    assert b"root:" not in fortress.call("/miner-positions").content


def test_malformed_documents(fortress: Fortress) -> None:
    """The last good version is served, if there was one."""
    documents = [
        ("validation/eliminations.json", "/eliminations"),
        ("runnable/minerstatistics.json", "/statistics"),
    ]
    root = fortress.validator.root
    for name, _ in documents:
        (root / name).parent.mkdir(exist_ok=True)
    good = {"eliminations": [{"hotkey": "5x"}], "data": [{"hotkey": "5x", "checkpoints": []}]}
    for name, route in documents:
        fortress.validator.document(name, good)
        until(lambda route=route: fortress.call(route).status_code == 200, what=route)  # type: ignore[misc]
    for body in BODIES.values():
        for name, route in documents:
            (root / name).write_bytes(body)
            for path in (route, route + "/5x", "/validator-checkpoint"):
                assert fortress.call(path).status_code in (200, 404)
    nested = json.dumps(good)[:-1] + ', "data": ' + "[" * 300 + "]" * 300 + "}"
    for name, route in documents:
        (root / name).write_text(nested)
        until(lambda route=route: b"[[[" in fortress.call(route).content, what=route)  # type: ignore[misc]
    for path in ("/statistics?checkpoints=false", "/statistics/5x", "/eliminations", "/validator-checkpoint"):
        assert fortress.call(path).status_code in (200, 404)
    for name, route in documents:
        fortress.validator.document(name, good)
        until(lambda route=route: fortress.call(route).json() == good, what=route)  # type: ignore[misc]
    still_reads(fortress)


def test_malformed_key_files(fortress: Fortress) -> None:
    """The last good keys stay valid, no other key is accepted, and no key is logged."""
    good = fortress.key_file.read_bytes()
    entry = '{"mallory": {"key": "mallorys-key", "tier": 100}, "bob": %s}'
    bad = [
        *(DEEP.encode(), b'{"a":' * 100_000, b"\xff\xfe", b"\0" * 100, b"[]", b"", b"{}}", b" " * (17 << 20)),
        (entry % DEEP).encode(),
        (entry % "{").encode(),
    ]
    try:
        for number, content in enumerate(bad):
            logged = fortress.server.log.stat().st_size
            replace(fortress.key_file, content)
            until(lambda logged=logged: fortress.server.log.stat().st_size > logged, what="a report")  # type: ignore[misc]
            assert fortress.call("/me").status_code == 200
            marked = json.loads(good) | {"marker": {"key": f"marker-{number}", "tier": 0}}
            replace(fortress.key_file, json.dumps(marked).encode())
            until(lambda number=number: tier_of(fortress, f"marker-{number}") == 0, what="good keys again")  # type: ignore[misc]
            assert tier_of(fortress, "mallorys-key") is None
    finally:
        replace(fortress.key_file, good)
    assert "mallorys-key" not in fortress.server.log.read_text()


def test_malformed_entries_of_a_key_file(fortress: Fortress) -> None:
    """All others hold. A tier that is no number counts as 0, one below 0 admits to nothing."""
    good = fortress.key_file.read_bytes()
    tiers = ("1e999", '"100"', "[" * 900 + "]" * 900, "9" * 400, "true", "{}")
    odd: list[tuple[str, float | None]] = [
        *((f'"mallory": {{"key": "mallorys-key", "tier": {tier}}}', 0) for tier in tiers),
        ('"mallory": {"key": "mallorys-key", "tier": -0.5}', None),
        *((f'"{name}": "mallorys-key"', None) for name in ("a\\u0000b", "a\\ud800", "a\\nb", "")),
    ]
    try:
        for number, (entry, tier) in enumerate(odd):
            marked = json.loads(good) | {"marker": {"key": f"entry-{number}", "tier": 0}}
            replace(fortress.key_file, (json.dumps(marked)[:-1] + f", {entry}}}").encode())
            until(lambda number=number: tier_of(fortress, f"entry-{number}") == 0, what="the new keys")  # type: ignore[misc]
            assert tier_of(fortress, "mallorys-key") == tier, entry
            assert fortress.call("/me").json()["tier"] == 100
    finally:
        replace(fortress.key_file, good)
    assert "mallorys-key" not in fortress.server.log.read_text()


def replace(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def tier_of(fortress: Fortress, key: str) -> float | None:
    headers = {"Authorization": f"Bearer {key}"}
    answer = requests.get(fortress.server.rest + "/me", headers=headers, timeout=PATIENCE_S)
    return answer.json()["tier"] if answer.status_code == 200 else None
