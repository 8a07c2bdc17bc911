"""Adding, rotating, revoking and expiring keys: the file afterwards, and the keys it makes valid."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from ptn_api.access import (
    Grant,
    KeyFile,
    KeyRing,
    add_key,
    exposed_to,
    make_demo_keys,
    parse_keys,
    revoke_key,
    rotate_key,
)
from ptn_api.access.key_ring import fingerprint
from ptn_api.errors import KeyFileError

NOW = 1_760_400_000_000
HOUR = 3_600_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "api_keys.json"


def ring_of(path: Path, now: list[int]) -> KeyRing:
    ring = KeyRing(lambda: now[0])
    KeyFile(path, ring).refresh()
    return ring


def test_limits_and_expiry_are_the_holders(path: Path) -> None:
    """`lookup` returns the entry's fields. A key expires to the millisecond, and listeners are called."""
    now = [NOW]
    key = add_key(path, "alice", 100, expires_ms=NOW + HOUR, max_connections=2, requests_per_minute=9)
    ring = ring_of(path, now)
    holder = ring.lookup(key)
    assert holder is not None
    assert (holder.max_connections, holder.requests_per_minute, holder.expires_ms) == (2, 9, NOW + HOUR)
    changes: list[int] = []
    ring.on_change(lambda: changes.append(1))
    now[0] = NOW + HOUR - 1
    assert ring.expire() is False
    assert ring.lookup(key) is not None
    now[0] = NOW + HOUR
    assert ring.lookup(key) is None
    assert changes == []
    assert ring.expire() is True
    assert ring.expire() is False
    assert (changes, len(ring)) == ([1], 0)


def test_a_clock_that_was_set_forward_by_mistake_costs_no_key(path: Path) -> None:
    now = [NOW]
    key = add_key(path, "alice", 100, expires_ms=NOW + HOUR)
    ring = ring_of(path, now)
    expired: list[bool] = []
    for at in (NOW + 2 * HOUR, NOW, NOW + 2 * HOUR):
        now[0] = at
        expired.append(ring.expire())
    assert expired == [True, False, True]
    now[0] = NOW
    assert (ring.lookup(key) is not None, len(ring)) == (True, 1)


def test_a_rotated_key_works_until_its_grace_is_over(path: Path) -> None:
    """Old and new keys have the same user, tier and limits; the rest of the entry stays."""
    now = [NOW]
    old = add_key(path, "alice", 50, requests_per_minute=9, note="pays monthly")
    new = rotate_key(path, "alice", grace_ms=HOUR, now_ms=NOW)
    ring = ring_of(path, now)
    assert [(h.alias, h.tier, h.requests_per_minute) for k in (old, new) if (h := ring.lookup(k))] == [
        ("alice", 50, 9)
    ] * 2
    assert json.loads(path.read_text())["alice"]["note"] == "pays monthly"
    assert not any(key in path.read_text() for key in (old, new))
    now[0] = NOW + HOUR
    assert ring.lookup(old) is None
    assert ring.lookup(new) is not None


def test_rotating_again_keeps_valid_keys_and_drops_expired_ones(path: Path) -> None:
    """Also from the plain forms. Without grace, every old key ends at once."""
    path.write_text('{"alice": "legacy-key", "bob": {"key": "bobs-key", "tier": 30}}')
    second = rotate_key(path, "alice", grace_ms=HOUR, now_ms=NOW)
    third = rotate_key(path, "alice", grace_ms=HOUR, now_ms=NOW + HOUR // 2)
    ring = ring_of(path, [NOW + HOUR // 2])
    assert all(ring.lookup(key) for key in ("legacy-key", second, third))
    fourth = rotate_key(path, "alice", grace_ms=0, now_ms=NOW + HOUR)
    ring = ring_of(path, [NOW + HOUR])
    assert [bool(ring.lookup(key)) for key in ("legacy-key", second, third, fourth)] == [
        False,
        False,
        False,
        True,
    ]
    assert "legacy-key" not in path.read_text()
    assert json.loads(path.read_text())["bob"] == {"key": "bobs-key", "tier": 30}


def test_an_edit_by_root_leaves_the_file_to_its_owner(path: Path) -> None:
    """The service must still be able to read it. A symbolic link stays a link to the edited file."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    real = path.with_name("real.json")
    add_key(real, "alice", 100)
    os.chown(real, 10_001, 10_002)
    path.symlink_to(real.name)
    add_key(path, "bob", 30)
    assert path.is_symlink()
    status = real.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (10_001, 10_002, 0o600)
    assert {grant.alias for grant in parse_keys(real.read_bytes()).grants} == {"alice", "bob"}


def test_an_old_key_does_not_outlive_its_user(path: Path) -> None:
    """The entry's expiry applies to replaced keys as well."""
    old = add_key(path, "alice", 100, expires_ms=NOW + HOUR)
    rotate_key(path, "alice", grace_ms=10 * HOUR, now_ms=NOW)
    assert {grant.expires_ms for grant in parse_keys(path.read_bytes()).grants} == {NOW + HOUR}
    assert ring_of(path, [NOW + HOUR]).lookup(old) is None


def test_revoking_removes_the_user_with_all_keys(path: Path) -> None:
    """Other users and the file's mode stay. An unknown user is an error."""
    first, other = add_key(path, "alice", 100), add_key(path, "bob", 30)
    second = rotate_key(path, "alice", grace_ms=HOUR, now_ms=NOW)
    os.chmod(path, 0o640)
    revoke_key(path, "alice")
    ring = ring_of(path, [NOW])
    assert [ring.lookup(key) is None for key in (first, second, other)] == [True, True, False]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    for edit in (lambda: revoke_key(path, "alice"), lambda: rotate_key(path, "x", grace_ms=0, now_ms=NOW)):
        with pytest.raises(KeyFileError, match="unknown user"):
            edit()


def test_a_file_that_others_can_read_is_reported(path: Path) -> None:
    """Access for owner and group is fine."""
    add_key(path, "alice", 100)
    assert exposed_to(path) == ""
    os.chmod(path, 0o640)
    assert exposed_to(path) == ""
    os.chmod(path, 0o644)
    assert "read by every user" in exposed_to(path)
    os.chmod(path, 0o646)
    assert "read and written" in exposed_to(path)


@pytest.mark.parametrize(
    "entry",
    [
        '{"key": "k", "tier": 30, "expires": "2027-01-01"}',
        '{"key": "k", "tier": 30, "expires": "2027-01-01T00:00:00"}',
        '{"key": "k", "tier": 30, "expires": 7}',
        '{"key": "k", "tier": 30, "max_connections": 0}',
        '{"key": "k", "tier": 30, "requests_per_minute": "9"}',
        '{"key": "k", "tier": 30, "previous": [{"key_sha256": "x", "expires": "2027-01-01T00:00:00Z"}]}',
        '{"key": 7, "tier": 30}',
    ],
)
def test_an_entry_with_a_malformed_field_is_left_out(entry: str) -> None:
    """Above all one with an expiry that would never apply. The other entries hold."""
    parsed = parse_keys(b'{"bob": %s, "alice": "k2"}' % entry.encode())
    assert (parsed.grants, parsed.left_out) == ([Grant("alice", "k2", 100)], 1)
    assert 'user "bob"' in parsed.problems[0].sentence


def test_a_user_of_a_file_with_faulty_entries_can_be_edited(path: Path) -> None:
    """What is faulty stays as it is, and can be revoked but not rotated; a byte order mark goes."""
    faulty = {"bob": {"tier": 30}, "carol": None, "dave": {"key": "d", "tier": "x", "note": "\ud800é"}}
    path.write_text("\ufeff" + json.dumps(faulty))
    key = add_key(path, "alice", 200)
    rotate_key(path, "dave", grace_ms=0, now_ms=NOW)
    after = json.loads(path.read_bytes())
    assert [after.pop("alice")["tier"], after["dave"].pop("key_sha256")[:0]] == [200, ""]
    assert after == {"bob": {"tier": 30}, "carol": None, "dave": {"tier": "x", "note": "\ud800é"}}
    with pytest.raises(KeyFileError, match='user "bob"'):
        rotate_key(path, "bob", grace_ms=0, now_ms=NOW)
    revoke_key(path, "carol")
    assert list(json.loads(path.read_bytes())) == ["bob", "dave", "alice"]
    assert ring_of(path, [NOW]).lookup(key) is not None


@pytest.mark.parametrize(("alias", "tier"), [("a\nb", 100), ("", 100), ("bob", float("nan")), ("bob", 1e300)])
def test_no_entry_is_added_that_the_server_would_not_use(path: Path, alias: str, tier: float) -> None:
    with pytest.raises(KeyFileError):
        add_key(path, alias, tier)
    assert path.read_text() == "{}\n"


def test_null_means_not_given() -> None:
    """For the optional fields."""
    content = b'{"bob": {"key": "k", "tier": 30, "expires": null, "max_connections": null}}'
    assert parse_keys(content).grants == [Grant("bob", "k", 30)]
    assert len(fingerprint("k")) == 8


# --- the demo's keys --------------------------------------------------------------------------------------


@pytest.mark.parametrize("edit", ["rotate", "revoke", "expire", "none"])
def test_a_demo_makes_the_key_that_it_lacks(path: Path, edit: str) -> None:
    """A rotated key is stored as a hash, so the header file needs another one; every other user stays."""
    make_demo_keys(path)
    header = path.with_name("demo-100.header")
    first, before = header.read_text(), json.loads(path.read_text())
    if edit == "rotate":
        rotate_key(path, "demo-100", grace_ms=0, now_ms=NOW)
    elif edit == "revoke":
        revoke_key(path, "demo-100")
    elif edit == "expire":
        expired = before["demo-100"] | {"expires": "2020-01-01T00:00:00Z"}
        path.write_text(json.dumps(before | {"demo-100": expired}))
    for _ in range(2):
        make_demo_keys(path)
        key = header.read_text().removeprefix("Authorization: Bearer ").strip()
        holder = ring_of(path, [NOW]).lookup(key)
        assert holder is not None
        assert holder.tier == 100
    assert (header.read_text() == first) == (edit == "none")
    after = json.loads(path.read_text())
    assert all(after[alias] == entry for alias, entry in before.items() if alias != "demo-100")
    assert len(after) <= len(before) + 1


# --- root edits for a service -----------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, as under sudo")
def test_root_creates_the_file_for_its_directorys_user(tmp_path: Path) -> None:
    """With owner and group, also of directories in between: the service's user must read it."""
    service = tmp_path / "service"
    service.mkdir()
    os.chown(service, 4321, 8765)
    path = service / "a" / "b" / "api_keys.json"
    add_key(path, "alice", 100)
    for made in (path, path.parent, path.parent.parent):
        assert (made.stat().st_uid, made.stat().st_gid) == (4321, 8765)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    add_key(path, "bob", 100)
    assert (path.stat().st_uid, path.stat().st_gid) == (4321, 8765)
    os.chown(path, 0, 0)  # as an older version left it
    assert "belongs to root and its directory to uid 4321" in exposed_to(path)
