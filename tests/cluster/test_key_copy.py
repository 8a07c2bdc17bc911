"""The keys that machines share: edits that meet others, and copies that never go back."""

from __future__ import annotations

import contextlib
import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from ptn_api.access import (
    Entries,
    KeyFile,
    KeyRing,
    add_key,
    hashed_entries,
    parse_keys,
    revoke_key,
    rotate_key,
    write_key_file,
)
from ptn_api.cluster import key_copy
from ptn_api.cluster.key_copy import KeyCopy, SharedKeyStore, decode, encode, read_shared_keys
from ptn_api.cluster.options import shared_key_file
from ptn_api.errors import BrokerError, KeyFileError
from tests.cluster.memory_broker import Fault, MemoryBroker

NOW = 1_760_400_000_000


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def store(broker: MemoryBroker) -> SharedKeyStore:
    return SharedKeyStore(broker, pause_s=0)


def stored_text(broker: MemoryBroker) -> str:
    assert broker.shared_keys is not None
    return repr(decode(broker.shared_keys.payload))


class Machine:
    """A data directory, and the keys that its servers know."""

    def __init__(self, folder: Path, broker: MemoryBroker) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.copy = KeyCopy(broker, folder)
        self.ring = KeyRing()
        self._file = KeyFile(shared_key_file(folder), self.ring)

    def update(self) -> None:
        self.copy.update()
        self._file.refresh()

    def knows(self, key: str) -> bool:
        return self.ring.lookup(key) is not None


def test_keys_reach_every_machine(broker: MemoryBroker, store: SharedKeyStore, tmp_path: Path) -> None:
    """As hashes in a file that only the owner can read; and so do rotations and revocations."""
    machines = [Machine(tmp_path / name, broker) for name in "ab"]
    old = add_key(store, "alice", 100, max_connections=2, note="pays")
    other = add_key(store, "bob", 30)
    new = rotate_key(store, "alice", grace_ms=10**12, now_ms=NOW)
    for machine in machines:
        machine.update()
        assert [machine.knows(key) for key in (old, new, other)] == [True] * 3
        path = shared_key_file(machine.folder)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert not any(key in path.read_text() + stored_text(broker) for key in (old, new, other))
        assert not machine.copy.update()
    revoke_key(store, "alice")
    for machine in machines:
        machine.update()
        assert [machine.knows(key) for key in (old, new, other)] == [False, False, True]
    for edit in (lambda: add_key(store, "bob", 30), lambda: revoke_key(store, "alice")):
        with pytest.raises(KeyFileError):
            edit()


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.ACK_LOST, Fault.REFUSED])
def test_an_edit_is_made_once(broker: MemoryBroker, store: SharedKeyStore, fault: Fault) -> None:
    """Also if its answer is lost."""
    broker.key_faults.extend([fault] * 3)
    keys = [add_key(store, name, 100) for name in ("alice", "bob")]
    assert len(keys) == len(read_shared_keys(broker)) == 2


def test_edits_at_the_same_time_all_count(broker: MemoryBroker, store: SharedKeyStore) -> None:
    """The slower one is applied to the result of the faster one."""
    calls = 0

    def change(entries: Entries) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            add_key(SharedKeyStore(broker), "faster", 30)
        entries["slower"] = {"key_sha256": "0" * 64, "tier": 0}

    store.edit(change)
    assert sorted(read_shared_keys(broker)) == ["faster", "slower"]


def test_an_edit_whose_answer_is_lost_before_another_one(broker: MemoryBroker, store: SharedKeyStore) -> None:
    """It is made once too: a new key that is reported as a failure would be one that no user has."""
    others = iter("bcde")

    def edit_in_between() -> None:
        if not broker.key_faults and (name := next(others, "")):
            add_key(SharedKeyStore(broker), name, 30)

    broker.hear_keys(edit_in_between)
    broker.key_faults.append(Fault.ACK_LOST)
    key = add_key(store, "alice", 100)
    others = iter("fg")
    broker.key_faults.append(Fault.ACK_LOST)
    new = rotate_key(store, "alice", grace_ms=10**12, now_ms=NOW)
    ring = KeyRing(lambda: NOW)
    ring.replace(parse_keys(json.dumps(read_shared_keys(broker)).encode()).grants)
    assert [holder and holder.alias for holder in map(ring.lookup, (key, new))] == ["alice"] * 2
    assert len(read_shared_keys(broker)["alice"]["previous"]) == 1
    others = iter("h")
    broker.key_faults.append(Fault.ACK_LOST)
    revoke_key(store, "alice")
    assert sorted(read_shared_keys(broker)) == list("bcdefgh")


def test_without_a_connection_an_edit_fails(broker: MemoryBroker, store: SharedKeyStore) -> None:
    broker.down = True
    with pytest.raises(BrokerError):
        add_key(store, "alice", 100)


def test_a_machine_starts_without_the_broker(
    broker: MemoryBroker, store: SharedKeyStore, tmp_path: Path
) -> None:
    """With the keys that it had."""
    key = add_key(store, "alice", 100)
    Machine(tmp_path / "a", broker).update()
    broker.down = True
    again = Machine(tmp_path / "a", broker)
    with pytest.raises(BrokerError):
        again.copy.update()
    assert again._file.refresh()
    assert again.knows(key)


def test_a_revoked_key_stays_revoked(broker: MemoryBroker, store: SharedKeyStore, tmp_path: Path) -> None:
    """Also if a server that lags answers after the machine's start."""
    key = add_key(store, "alice", 100)
    before = broker.shared_keys
    revoke_key(store, "alice")
    after = broker.shared_keys
    Machine(tmp_path / "a", broker).update()
    again = Machine(tmp_path / "a", broker)
    broker.shared_keys = before
    with pytest.raises(KeyFileError, match="older"):
        again.copy.update()
    again._file.refresh()
    assert not again.knows(key)
    broker.shared_keys = after
    assert again.copy.update()
    # Keys of another origin, as after the loss of all servers, are taken in any case.
    broker.shared_keys = None
    other = add_key(store, "bob", 100)
    machine = Machine(tmp_path / "a", broker)
    machine.update()
    assert machine.knows(other)


@pytest.mark.parametrize("writes", [1, 2])
def test_a_machine_that_is_killed_while_it_takes_keys(
    broker: MemoryBroker, store: SharedKeyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """After the restart it does not go back to older keys either."""
    key = add_key(store, "alice", 100)
    before = broker.shared_keys
    machine = Machine(tmp_path / "a", broker)
    machine.update()
    revoke_key(store, "alice")
    left = writes

    def killed(path: Path, entries: Entries) -> None:
        nonlocal left
        write_key_file(path, entries)
        left -= 1
        if not left:
            raise RuntimeError("killed")

    monkeypatch.setattr(key_copy, "write_key_file", killed)
    with contextlib.suppress(RuntimeError):
        machine.copy.update()
    monkeypatch.undo()
    broker.shared_keys = before
    again = Machine(tmp_path / "a", broker)
    again._file.refresh()
    knew = again.knows(key)
    with pytest.raises(KeyFileError, match="older"):
        again.copy.update()
    again._file.refresh()
    assert again.knows(key) == knew


def test_a_broker_that_was_restored(broker: MemoryBroker, store: SharedKeyStore, tmp_path: Path) -> None:
    """Machines keep the newer keys and report that, until an operator replaces the broker's."""
    key = add_key(store, "alice", 100)
    backup = broker.shared_keys
    for name in ("bob", "carol"):
        add_key(store, name, 100)
    revoke_key(store, "alice")
    running = Machine(tmp_path / "running", broker)
    running.update()
    Machine(tmp_path / "restarted", broker).update()
    broker.shared_keys = backup
    restarted = Machine(tmp_path / "restarted", broker)
    with pytest.raises(KeyFileError, match="older"):
        for _ in range(100):
            running.copy.update()
    for machine in (running, running, restarted):
        with pytest.raises(KeyFileError, match="older"):
            machine.copy.update()
        machine._file.refresh()
        assert not machine.knows(key)
    copied = hashed_entries(shared_key_file(running.folder).read_bytes())

    def replace(entries: Entries) -> None:
        entries.clear()
        entries.update(copied)

    store.edit(replace, new_origin=True)
    other = add_key(store, "dave", 100)
    for machine in (running, restarted):
        machine.update()
        assert not machine.knows(key)
        assert machine.knows(other)
    # The replaced keys come back: from a server that lags, or as the backup is restored once more.
    broker.shared_keys = backup
    for machine in (running, Machine(tmp_path / "restarted", broker)):
        with pytest.raises(KeyFileError, match="older"):
            for _ in range(100):
                machine.copy.update()
        machine._file.refresh()
        assert not machine.knows(key)


def test_a_restored_broker_with_an_equal_number_of_edits(
    broker: MemoryBroker, store: SharedKeyStore, tmp_path: Path
) -> None:
    """The edit after the restore counts: the former one is gone."""
    key = add_key(store, "alice", 100)
    backup = broker.shared_keys
    add_key(store, "bob", 100)
    machine = Machine(tmp_path / "a", broker)
    machine.update()
    broker.shared_keys = backup
    revoke_key(store, "alice")
    for _ in range(100):
        machine.update()
    assert not machine.knows(key)


def test_a_local_edit_of_the_copy_does_not_last(
    broker: MemoryBroker, store: SharedKeyStore, tmp_path: Path
) -> None:
    """The next start brings back what the cluster has."""
    add_key(store, "alice", 100)
    Machine(tmp_path / "a", broker).update()
    stray = add_key(shared_key_file(tmp_path / "a"), "mallory", 200)
    again = Machine(tmp_path / "a", broker)
    again.update()
    assert not again.knows(stray)


@pytest.mark.parametrize("payload", [b"", b"damaged", encode.__doc__.encode() if encode.__doc__ else b""])
def test_what_cannot_be_read_changes_nothing(
    broker: MemoryBroker, store: SharedKeyStore, tmp_path: Path, payload: bytes
) -> None:
    key = add_key(store, "alice", 100)
    machine = Machine(tmp_path / "a", broker)
    machine.update()
    assert broker.shared_keys is not None
    broker.put_keys(payload, expected=broker.shared_keys.index)
    for read in (machine.copy.update, lambda: read_shared_keys(broker)):
        with pytest.raises(KeyFileError, match="cannot be read"):
            read()
    machine._file.refresh()
    assert machine.knows(key)


def test_too_many_keys_are_refused(broker: MemoryBroker, store: SharedKeyStore) -> None:
    """The keys fit into one message of the broker; one that is refused changes nothing."""

    def fill(count: int) -> Callable[[Entries], None]:
        entry = {"tier": 100, "max_connections": 5}
        users = {f"user {n}": entry | {"key_sha256": f"{n * 7919**9:064x}"[-64:]} for n in range(count)}
        return lambda entries: entries.update(users)

    store.edit(fill(4_000))
    with pytest.raises(KeyFileError, match="more than 512 KiB"):
        store.edit(fill(100_000))
    assert len(read_shared_keys(broker)) == 4_000


def test_a_file_becomes_hashes() -> None:
    """Everything that the server uses is kept, and nothing else: unknown fields may have anything."""
    digest = "a" * 64
    content: dict[str, object] = {
        "alice": {"key": "key-of-alice", "tier": 100, "max_connections": 3, "old": "key-of-old"},
        "bob": "key-of-bob",
        "carol": {
            "key_sha256": digest,
            "tier": 30,
            "previous": [{"key_sha256": digest, "expires": "2027-01-01T00:00:00Z", "key": "key-of-carol"}],
        },
    }
    ring = KeyRing(lambda: NOW)
    text = json.dumps(hashed_entries(json.dumps(content).encode()))
    assert "key-of" not in text
    assert json.loads(text)["carol"]["previous"] == [
        {"key_sha256": digest, "expires": "2027-01-01T00:00:00Z"}
    ]
    ring.replace(parse_keys(text.encode()).grants)
    holders = [ring.lookup(f"key-of-{name}") for name in ("alice", "bob")]
    assert [(h.tier, h.max_connections) for h in holders if h] == [(100, 3), (100, None)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"alice": {"key": " secret", "tier": 100}}', "line 1: .*spaces"),
        ('{"alice": {"key": "secret", "tier": 100, "note": ["secret"]}}', "contains a key"),
        ('{"secret": "secret"}', "contains a key"),
        ('{"a": "x", "b": {"key": "secret", "tier": 1, "tier": 2}}', "more than once"),
        ("[]", "not a JSON object"),
    ],
)
def test_a_file_that_is_not_copied(content: str, message: str) -> None:
    """For what is wrong with it, a key could get into the broker; the error does not contain it."""
    with pytest.raises(KeyFileError, match=message) as caught:
        hashed_entries(content.encode())
    assert '"secret' not in str(caught.value)
