"""Where notifications go: targets with a name and an address, which usually holds a secret.

    team = discord://WEBHOOK_ID/WEBHOOK_TOKEN
    desk = webhook+https://bot.example.org/orders

No error repeats any part of a target but its name.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ptn_api.client.message import PTNWebSocketMessage
from ptn_api.errors import ClientError, SettingsError

__all__ = [
    "MAX_TARGETS",
    "NotDeliveredError",
    "Sender",
    "Target",
    "choose_targets",
    "parse_targets",
    "read_private_file",
]

MAX_TARGETS = 4
"""Each target has a connection, and a key has five by default: one is left for other programs."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_MAX_FILE = 1 << 20
_NONBLOCKING = getattr(os, "O_NONBLOCK", 0)


class NotDeliveredError(ClientError):
    """A target did not take a notification. `gone`: it wants no more of them."""

    code = "not_delivered"

    def __init__(self, reason: str, *, retry_after_s: float = 0.0, gone: bool = False) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s
        self.gone = gone


class Sender(Protocol):
    """The way to one target."""

    is_limited: bool
    """Whether people read the notifications: then too many orders become one message."""

    async def send(self, messages: Sequence[PTNWebSocketMessage]) -> None:
        """Returns once the target has taken the orders. Raises NotDeliveredError."""

    async def send_test(self) -> None:
        """Sends a test message. Raises NotDeliveredError."""

    async def close(self) -> None: ...


@dataclass(frozen=True)
class Target:
    """`name` stands for it in output and for its cursor, so a new address continues where the old one was."""

    name: str
    url: str = field(repr=False)

    @property
    def is_webhook(self) -> bool:
        return self.url.startswith("webhook+")


def parse_targets(entries: Iterable[str], source: str) -> list[Target]:
    """Reads `NAME = URL` from each entry; empty ones and those that begin with # are skipped.

    Raises SettingsError for a malformed entry, or for a name that is used twice.
    """
    targets: dict[str, Target] = {}
    for number, entry in enumerate(map(str.strip, entries), 1):
        if not entry or entry.startswith("#"):
            continue
        name, _, url = (part.strip() for part in entry.partition("="))
        if not _NAME.fullmatch(name) or "://" not in url or not url.isprintable() or " " in url:
            raise SettingsError(f"{source}: entry {number} is not NAME = URL (as in team = discord://...)")
        if name in targets:
            raise SettingsError(f"{source}: two targets have the name {name}")
        targets[name] = Target(name, url)
    return list(targets.values())


def choose_targets(arguments: Sequence[str], known: Sequence[Target]) -> list[Target]:
    """Returns the known targets with these names, and addresses given as arguments; without arguments, all.

    Raises SettingsError for an unknown name, and for an address with a login or parameters: every user of the
    system can read arguments in the process list.
    """
    by_name = {target.name: target for target in known}
    chosen: dict[str, Target] = {}
    for number, argument in enumerate(arguments, 1):
        scheme, separator, rest = argument.partition("://")
        if separator and ("@" in rest or "?" in rest):
            raise exposed_address(f"argument {number}")
        if separator:
            # An address has no name, so its hash identifies the cursor.
            name = f"{re.sub('[^a-z+]', '', scheme)[:20]}-{hashlib.sha256(argument.encode()).hexdigest()[:6]}"
            chosen[name] = Target(name, argument)
        elif argument in by_name:
            chosen[argument] = by_name[argument]
        else:
            problem = "neither an address nor the name of a target"
            raise SettingsError(f"argument {number}: {problem} (known: {', '.join(by_name) or 'none'})")
    targets = list(chosen.values() if arguments else known)
    if not targets:
        raise SettingsError("no targets: name them in --targets-file or PTN_NOTIFY_TARGETS")
    if len(targets) > MAX_TARGETS:
        problem = f"{len(targets)} targets, but each takes one of your key's few connections"
        raise SettingsError(f"{problem}: name at most {MAX_TARGETS}, and use another key for the rest")
    return targets


def exposed_address(place: str) -> SettingsError:
    """The error for a secret in an argument."""
    remedy = "put it into --targets-file or PTN_NOTIFY_TARGETS"
    return SettingsError(f"{place}: every process list would show the secret in this address; {remedy}")


def read_private_file(path: Path, flag: str) -> str:
    """Returns the file's text. Raises SettingsError if it cannot be read, or if other users can.

    Errors do not repeat the file's name: it may be the secret, given by mistake.
    """
    try:
        # Non-blocking: a FIFO without a writer must not block.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NONBLOCKING)) as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_MAX_FILE + 1) if stat.S_ISREG(mode) else b""
    except OSError as error:
        raise SettingsError(f"{flag}: the file cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(mode) or len(content) > _MAX_FILE:
        raise SettingsError(f"{flag}: not a regular file of at most {_MAX_FILE >> 20} MiB")
    if mode & 0o077 and sys.platform != "win32":
        raise SettingsError(f"{flag}: other users can read or write the file: run chmod 600 on it")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SettingsError(f"{flag}: not a text file") from None
