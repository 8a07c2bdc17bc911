"""The key file, which the server reads and never writes.

    {"alice": {"key": "...", "tier": 100},
     "bob": "...",
     "carol": {"key_sha256": "<64 hex digits>", "tier": 30, "expires": "2027-01-01T00:00:00Z",
               "max_connections": 5, "requests_per_minute": 600, "note": "..."}}

A plain string is the legacy form and means tier 100. Entries are independent (key_content.py). `ptn keys`
stores only hashes (key_edit.py).
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ptn_api.access.key_content import KeyFileContent, KeyFileProblem, parse_keys, parse_stepwise
from ptn_api.access.key_ring import KeyRing
from ptn_api.errors import KeyFileError
from ptn_api.file_version import is_settled, owner_of, version_of
from ptn_api.problems import Findings
from ptn_api.tasks import TimeSlice, let_others_run

__all__ = [
    "KeyFile",
    "exposed_to",
    "find_key_file",
    "key_file_places",
    "load_key_file",
    "missing_key_file",
    "read_key_file",
]

MAX_BYTES = 16 << 20
_NONBLOCKING = getattr(os, "O_NONBLOCK", 0)  # Windows has neither that flag nor FIFOs in folders


def key_file_places(validator_dir: str) -> list[Path]:
    """Returns where to look for the key file if the operator names none; the first that exists is used.

    Without a validator's directory, the working directory counts as one.
    """
    own = "ptn_api/api_keys.json"
    places = (Path(own), *(Path(validator_dir) / name for name in ("vanta_api/api_keys.json", own)))
    return list(dict.fromkeys(place.expanduser().absolute() for place in places))


def find_key_file(validator_dir: str) -> Path | None:
    """Returns the first of `key_file_places` that exists."""
    return next((place for place in key_file_places(validator_dir) if os.path.exists(place)), None)


def missing_key_file(places: Sequence[Path]) -> str:
    """Returns the problem that the key file is in none of these places."""
    return f"key file not found: {', '.join(map(str, places))}"


class _Changed(NamedTuple):
    """What a changed file has, in which version, and whether a later change would be another version."""

    content: bytes
    version: str
    settled: bool


class KeyFile:
    """A key file and the KeyRing that follows it. `refresh` costs one stat if nothing changed.

    A file that does not contain a JSON object, perhaps because it is half written, leaves the last good keys
    in place and is read again by the next call. A file that is missing at two calls in a row was deleted on
    purpose: then every key becomes invalid.
    """

    def __init__(self, path: Path | None, ring: KeyRing) -> None:
        self.path = path
        """None until the file has been chosen."""
        self._ring = ring
        self._read = ("", b"")
        """Version and SHA-256 of the content that the ring holds."""
        self._settled = False
        """Whether a change of that content would be another version."""
        self._missing = 0
        self.problem: KeyFileError | None = None
        """Why the file cannot be read at present."""
        self.entry_problems: list[KeyFileProblem] = []
        """The problems of single entries in the content that the ring holds."""
        self._is_detached = False
        """Whether the file was deleted from its folder, and is still seen because it is mounted by itself."""
        self.reloads: Counter[str] = Counter()
        """How often the file was `read`, and how often reading `failed`."""

    @property
    def findings(self) -> Findings:
        return {
            "no_key_file": self.path is None or self._missing > 1,
            "key_file_unreadable": self.problem is not None and not self._missing,
            "key_file_detached": self._is_detached,
            "key_entries_left_out": self._ring.left_out,
        }

    def refresh(self) -> bool:
        """Reads the file if it changed. Returns whether the keys were replaced.

        Raises KeyFileError once for every new problem; `problem` holds it until it is solved.
        """
        changed = self._read_if_changed()
        if isinstance(changed, bool):
            return changed
        try:
            return self._take(changed, parse_keys(changed.content))
        except KeyFileError as error:
            return self._report(error)

    async def refresh_in_steps(self) -> bool:
        """Like `refresh`, but lets other tasks run: thousands of entries take a second.

        A thread would hold up the event loop at each of its system calls.
        """
        changed = self._read_if_changed()
        if isinstance(changed, bool):
            return changed
        parsed, time_slice = KeyFileContent(), TimeSlice()
        try:
            for _ in parse_stepwise(changed.content, parsed):
                if time_slice.due:
                    await let_others_run()
                    time_slice.restart()
        except KeyFileError as error:
            return self._report(error)
        return self._take(changed, parsed)

    def _read_if_changed(self) -> _Changed | bool:
        """Returns the new content; False without one, True if a missing file has revoked the keys."""
        if self.path is None:
            return False
        try:
            status = self.path.stat()
            version, settled = version_of(status), is_settled(status.st_ctime_ns)
            self._is_detached = status.st_nlink == 0
            if self._settled and version == self._read[0]:
                self._missing, self.problem = 0, None
                return False
            return _Changed(read_key_file(self.path), version, settled)
        except FileNotFoundError:
            return self._handle_missing()
        except OSError as error:
            return self._report(KeyFileError(f"the key file cannot be read: {error.strerror}"))
        except KeyFileError as error:
            return self._report(error)

    def _take(self, changed: _Changed, parsed: KeyFileContent) -> bool:
        """Replaces the keys, unless version and content are the same as before."""
        read, self._read = self._read, (changed.version, hashlib.sha256(changed.content).digest())
        self._settled, self._missing, self.problem = changed.settled, 0, None
        if read == self._read:
            return False
        self.entry_problems = parsed.all_problems(named=False)
        self._ring.replace(parsed.grants, left_out=parsed.left_out)
        self.reloads["read"] += 1
        return True

    def _handle_missing(self) -> bool:
        self._missing += 1
        # Some editors delete the file before they write it: the first miss revokes nothing.
        revoked = self._missing == 2 and len(self._ring) > 0
        if self._missing == 2:  # expired keys as well: the clock may be wrong
            self._read = ("", b"")
            self.entry_problems = []
            self._ring.replace([])
        self._report(KeyFileError("key file not found: create it with `ptn keys add`", code="no_key_file"))
        return revoked

    def _report(self, problem: KeyFileError) -> bool:
        if problem.code != "no_key_file":
            self._missing = 0
        if self.problem is None or str(self.problem) != str(problem):
            self.problem = problem
            self.reloads["failed"] += 1
            raise problem
        return False


def read_key_file(path: Path) -> bytes:
    """The file's bytes. Raises OSError, or KeyFileError if the file is too large or not a regular file."""
    # Non-blocking: opening a FIFO must not block the server.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NONBLOCKING)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise KeyFileError("the key file is not a regular file")
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise KeyFileError(f"the key file is larger than {MAX_BYTES >> 20} MiB")
    return content


def load_key_file(path: Path) -> tuple[bytes, KeyFileContent]:
    """The file's bytes and keys. Raises OSError, or KeyFileError with the path if the file is unusable."""
    try:
        content = read_key_file(path)
        return content, parse_keys(content)
    except KeyFileError as error:
        raise KeyFileError(f"{path}: {error}", code=error.code) from None


def exposed_to(path: Path) -> str:
    """A warning if users other than the owner and the group can read or write the file; else empty.

    Also if the file belongs to root and its directory to another user, whose server then cannot read it.
    """
    try:
        status, folder = path.stat(), path.resolve().parent.stat()
    except OSError:
        return ""
    mode = status.st_mode
    if status.st_uid == 0 != folder.st_uid and not mode & 0o044:
        owner = owner_of(path.resolve().parent)
        return (
            f"the key file belongs to root and its directory to {owner}; a server of that user cannot read it"
        )
    verbs = [verb for bit, verb in ((0o004, "read"), (0o002, "written")) if mode & bit]
    return f"the key file can be {' and '.join(verbs)} by every user of this system" if verbs else ""
