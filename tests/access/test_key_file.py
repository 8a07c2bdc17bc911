"""The key file: all forms of entries, live reload, and the last good keys kept on accidents."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptn_api.access import (
    KeyFile,
    KeyRing,
    add_key,
    find_key_file,
    key_file_places,
    make_demo_keys,
    parse_keys,
)
from ptn_api.access.key_file import read_key_file
from ptn_api.errors import KeyFileError
from ptn_api.problems import Code


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "api_keys.json"


@pytest.fixture
def ring() -> KeyRing:
    return KeyRing()


def test_both_forms_and_the_hashed_one_are_read(path: Path, ring: KeyRing) -> None:
    """A plain string means tier 100, an object has its tier, a hash replaces the key."""
    digest = hashlib.sha256(b"carol-key").hexdigest()
    entries = {
        "alice": "alice-key",
        "bob": {"key": "bob-key", "tier": 30},
        "carol": {"key_sha256": digest, "tier": 0},
    }
    path.write_text(json.dumps(entries))
    assert KeyFile(path, ring).refresh()
    found = {key: ring.lookup(key) for key in ("alice-key", "bob-key", "carol-key", "unknown")}
    assert [(h.alias, h.tier) if h else None for h in found.values()] == [
        ("alice", 100),
        ("bob", 30),
        ("carol", 0),
        None,
    ]


async def test_a_large_file_does_not_hold_up_the_event_loop(path: Path, ring: KeyRing) -> None:
    """It is parsed in steps; then its keys take effect at once, and faults are reported as ever."""
    turns = 0
    key_file = KeyFile(path, ring)

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    path.write_text(json.dumps({f"user-{n}": {"key": f"key-{n}", "tier": 30} for n in range(3_000)}))
    counting = asyncio.create_task(take_turns())
    assert await key_file.refresh_in_steps()
    assert turns > 3
    assert (len(ring), ring.lookup("key-7") is not None) == (3_000, True)
    counting.cancel()
    assert not await key_file.refresh_in_steps()
    path.write_text("half of it {")
    with pytest.raises(KeyFileError, match="not a JSON object"):
        await key_file.refresh_in_steps()
    assert not await key_file.refresh_in_steps()
    assert (len(ring), str(key_file.problem)[:12]) == (3_000, "the key file")
    path.unlink()
    for expected in (KeyFileError, None):
        with pytest.raises(expected) if expected else contextlib.nullcontext():
            assert await key_file.refresh_in_steps()
    assert len(ring) == 0


def test_a_change_of_tier_alone_takes_effect(path: Path, ring: KeyRing) -> None:
    """Even though the key and the file's size stay the same."""
    file = KeyFile(path, ring)
    path.write_text('{"bob": {"key": "k", "tier": 30}}')
    file.refresh()
    path.write_text('{"bob": {"key": "k", "tier": 50}}')
    assert file.refresh()
    holder = ring.lookup("k")
    assert holder is not None
    assert holder.tier == 50


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"bob": {"key": "k", "ti',
        b"[]",
        b"\xff\xfe",
        b'{"bob": "s3cret"} {}',
        '{"bob": "s3cret"}'.encode("utf-16"),
    ],
)
def test_a_broken_file_keeps_the_last_good_keys(path: Path, ring: KeyRing, content: bytes) -> None:
    """It is reported once, without keys, and read again when it changes."""
    file = KeyFile(path, ring)
    path.write_text('{"bob": "good-key"}')
    file.refresh()
    path.write_bytes(content)
    with pytest.raises(KeyFileError) as caught:
        file.refresh()
    assert "s3cret" not in str(caught.value)
    assert file.refresh() is False
    assert ring.lookup("good-key") is not None
    path.write_text('{"bob": "new-key"}')
    assert file.refresh()
    assert ring.lookup("good-key") is None
    assert ring.lookup("new-key") is not None
    assert file.problem is None


def test_a_faulty_entry_is_left_out_and_revokes_nothing_else(path: Path, ring: KeyRing) -> None:
    """Not even where it was usable before; a key that is gone from the file is invalid all the same."""
    file = KeyFile(path, ring)
    path.write_text('{"alice": "a", "bob": "b", "carol": "c"}')
    file.refresh()
    path.write_text('{"alice": "a", "bob": {"key": "b", "tier": 100, "expires": "soon"}, "dave": null}')
    assert file.refresh()
    assert [ring.lookup(key) is not None for key in "abc"] == [True, False, False]
    assert (file.problem, ring.left_out, len(file.entry_problems)) == (None, 2, 2)
    path.write_text('{"alice": "a", "bob": "b"}')
    assert file.refresh()
    assert (ring.left_out, file.entry_problems) == (0, [])


def test_the_default_places_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory's, then the validator's; without a validator the working directory counts."""
    here, validator = tmp_path / "here", tmp_path / "validator"
    here.mkdir()
    monkeypatch.chdir(here)
    own, newer, older = (
        here / "ptn_api" / "api_keys.json",
        validator / "vanta_api" / "api_keys.json",
        validator / "ptn_api" / "api_keys.json",
    )
    assert key_file_places(str(validator)) == [own, newer, older]
    assert key_file_places("../validator")[0] == own
    assert find_key_file(str(validator)) is None
    for place in (older, newer, own):
        place.parent.mkdir(parents=True)
        place.write_text("{}")
        assert find_key_file(str(validator)) == place
    assert key_file_places("") == [own, here / "vanta_api" / "api_keys.json"]


def test_a_file_that_is_not_chosen_yet_is_not_missing(ring: KeyRing) -> None:
    file = KeyFile(None, ring)
    assert [file.refresh(), file.refresh()] == [False, False]
    assert file.problem is None
    assert file.findings["no_key_file"], "until then, every key is refused"


def test_a_missing_file_revokes_all_keys_at_the_second_check(path: Path, ring: KeyRing) -> None:
    """An editor that deletes before it writes revokes nothing; deleting the file does."""
    file = KeyFile(path, ring)
    path.write_text('{"bob": "k"}')
    file.refresh()
    path.unlink()
    with pytest.raises(KeyFileError, match="ptn keys add"):
        file.refresh()
    assert ring.lookup("k") is not None
    assert file.refresh() is True
    assert ring.lookup("k") is None
    path.write_text('{"bob": "k"}')
    assert file.refresh()
    assert ring.lookup("k") is not None


def test_a_missing_file_revokes_expired_keys_too(path: Path) -> None:
    """The clock may only be wrong: they must not be valid when it is right again."""
    now = [2_000]
    ring = KeyRing(lambda: now[0])
    file = KeyFile(path, ring)
    path.write_text('{"bob": {"key": "k", "expires": "1970-01-01T00:00:01Z"}}')
    assert file.refresh()
    path.unlink()
    with pytest.raises(KeyFileError, match="not found"):
        file.refresh()
    file.refresh()
    now[0] = 0
    assert ring.lookup("k") is None


def test_a_file_that_comes_back_unchanged_was_not_missing(
    path: Path, ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is missing briefly, and even if the move changes no times."""
    monkeypatch.setattr("ptn_api.access.key_file.version_of", lambda status: str(status.st_ino))
    file = KeyFile(path, ring)
    path.write_text('{"bob": "k"}')
    file.refresh()
    for _ in range(3):
        aside = path.rename(path.with_name("aside"))
        with pytest.raises(KeyFileError, match="not found"):
            file.refresh()
        aside.rename(path)
        assert file.refresh() is False
        assert file.problem is None
    assert ring.lookup("k") is not None


def test_a_rewrite_within_a_tick_of_the_files_clock_is_seen(
    path: Path, ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the same version: the file is read again until its version is settled."""
    monkeypatch.setattr("ptn_api.access.key_file.version_of", lambda _: "same")
    monkeypatch.setattr("ptn_api.access.key_file.is_settled", lambda _: settled)
    settled = False
    file = KeyFile(path, ring)
    path.write_text('{"bob": "old"}')
    assert [file.refresh(), file.refresh()] == [True, False]
    path.write_text('{"bob": "new"}')
    settled = True
    assert [file.refresh(), file.refresh()] == [True, False]
    assert [ring.lookup("old") is None, ring.lookup("new") is None] == [True, False]
    assert file.reloads == {"read": 2}
    monkeypatch.setattr("ptn_api.access.key_file.read_key_file", None)
    assert file.refresh() is False, "one stat"


def no_file(path: Path) -> None:
    path.unlink(missing_ok=True)


def folder(path: Path) -> None:
    no_file(path)
    path.mkdir()


def fifo(path: Path) -> None:
    no_file(path)
    os.mkfifo(path)


def device(path: Path) -> None:
    no_file(path)
    path.symlink_to("/dev/zero")


IN_ITS_PLACE: dict[Callable[[Path], object], tuple[str, Code]] = {
    no_file: ("key file not found", "no_key_file"),
    folder: ("cannot be read: Is a directory", "key_file_unreadable"),
    fifo: ("not a regular file", "key_file_unreadable"),
    device: ("not a regular file", "key_file_unreadable"),
    Path.touch: ("not a JSON object", "key_file_unreadable"),
}


@pytest.mark.parametrize("place", IN_ITS_PLACE)
def test_a_path_without_a_key_file_is_a_problem(
    path: Path, ring: KeyRing, place: Callable[[Path], object]
) -> None:
    """From the start on, as where the path is misspelt, until there is a file."""
    place(path)
    file = KeyFile(path, ring)
    sentence, code = IN_ITS_PLACE[place]
    with pytest.raises(KeyFileError, match=sentence):
        file.refresh()
    file.refresh()
    assert [code for code, present in file.findings.items() if present] == [code]
    path.rmdir() if path.is_dir() else no_file(path)
    path.write_text('{"bob": "k"}')
    assert file.refresh()
    assert not any(file.findings.values())


@pytest.mark.parametrize("place", [place for place in IN_ITS_PLACE if place not in (no_file, Path.touch)])
def test_what_is_no_file_keeps_the_last_good_keys(
    path: Path, ring: KeyRing, place: Callable[[Path], object]
) -> None:
    """It is reported once, also a FIFO that somebody has opened for writing."""
    path.write_text('{"bob": "k"}')
    file = KeyFile(path, ring)
    file.refresh()
    place(path)
    with contextlib.ExitStack() as stack:
        if place is fifo:
            stack.callback(os.close, os.open(path, os.O_RDWR))
        with pytest.raises(KeyFileError):
            file.refresh()
        assert [file.refresh(), file.refresh()] == [False, False]
    assert ring.lookup("k") is not None
    assert file.findings["key_file_unreadable"]


def test_a_folder_after_a_removal_is_told(path: Path, ring: KeyRing) -> None:
    """The present problem, not the former one."""
    file = KeyFile(path, ring)
    for _ in range(3):
        with contextlib.suppress(KeyFileError):
            file.refresh()
    path.mkdir()
    with pytest.raises(KeyFileError, match="Is a directory"):
        file.refresh()
    assert [code for code, present in file.findings.items() if present] == ["key_file_unreadable"]


def test_an_added_key_works_and_is_not_stored(path: Path, ring: KeyRing) -> None:
    """The file has only the hash, keeps other entries, and is readable by the owner only if new."""
    first = add_key(path, "alice", 100)
    second = add_key(path, "bob", 30)
    assert first not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    KeyFile(path, ring).refresh()
    assert [h.alias for key in (first, second) if (h := ring.lookup(key))] == ["alice", "bob"]
    with pytest.raises(KeyFileError, match="already"):
        add_key(path, "alice", 50)


def test_adding_keeps_the_mode_and_refuses_a_broken_file(path: Path) -> None:
    """A malformed file is never overwritten."""
    path.write_text('{"old": "legacy"}')
    os.chmod(path, 0o640)
    add_key(path, "alice", 100)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert json.loads(path.read_text())["old"] == "legacy"
    path.write_text('{"old": ')
    with pytest.raises(KeyFileError):
        add_key(path, "bob", 100)
    assert path.read_text() == '{"old": '
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_concurrent_edits_lose_nothing(path: Path) -> None:
    """Two threads add ten users each: the file has twenty."""
    threads = [
        threading.Thread(target=lambda who=who: [add_key(path, f"{who}{i}", 30) for i in range(10)])
        for who in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(json.loads(path.read_text())) == 20


def test_a_first_key_on_a_file_system_without_hard_links(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some network and container file systems. Only the key file is left behind."""

    def link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    add_key(path, "alice", 100)
    assert list(json.loads(path.read_text())) == ["alice"]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_demo_keys_are_random_private_and_kept(path: Path) -> None:
    """One per tier, and the same ones after a restart."""
    make_demo_keys(path)
    content = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [grant.tier for grant in parse_keys(content.encode()).grants] == [0, 30, 50, 100]
    make_demo_keys(path)
    assert path.read_text() == content


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.text() | st.integers(), lambda c: st.dictionaries(st.text(), c)).map(
        lambda v: json.dumps(v).encode()
    )
)
def test_no_content_raises_anything_but_a_key_file_error(content: bytes) -> None:
    """Arbitrary bytes give keys or a KeyFileError."""
    try:
        parsed = parse_keys(content)
    except KeyFileError:
        return
    assert bool(parsed.left_out) <= bool(parsed.problems)


def test_a_file_that_was_deleted_and_is_still_mounted_is_told(tmp_path: Path) -> None:
    """As bound into a container as a single file. Its keys stay; a file in a folder ends it."""
    path, kept = tmp_path / "keys.json", tmp_path / "kept.json"
    kept.write_text('{"alice": "a-key"}')
    ring = KeyRing()
    key_file = KeyFile(path, ring)
    with kept.open() as file:
        path.symlink_to(f"/proc/self/fd/{file.fileno()}")
        key_file.refresh()
        assert not key_file.findings["key_file_detached"]
        kept.unlink()
        key_file.refresh()
        assert key_file.findings["key_file_detached"]
        assert ring.lookup("a-key") is not None
    path.unlink()
    path.write_text('{"bob": "b-key"}')
    key_file.refresh()
    assert not key_file.findings["key_file_detached"]


def test_a_file_up_to_the_limit_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte more is an error, and nothing of it is used."""
    path = tmp_path / "api_keys.json"
    path.write_text('{"alice": "key"}')
    monkeypatch.setattr("ptn_api.access.key_file.MAX_BYTES", path.stat().st_size)
    assert read_key_file(path) == path.read_bytes()
    path.write_text('{"alice": "key"} ')
    with pytest.raises(KeyFileError):
        read_key_file(path)
