"""The errors of this package, in one tree.

    PTNError
    ├── SettingsError         an invalid setting
    ├── InvalidInputError     a malformed position, document or frame
    ├── KeyFileError          an unusable API key file
    ├── LogError              the event log cannot be read or written; retry
    │   ├── BrokerError           the cluster's broker did not answer; retry
    │   │   ├── EntriesPurgedError    the requested entries are only in a snapshot
    │   │   ├── OutcomeUnknownError   the entry may have been stored
    │   │   └── PublishRefusedError   the entry was not stored; read on
    │   ├── LogBehindError        this machine's copy lacks what a client has seen elsewhere; retry
    │   ├── LogLockedError        another process writes this log
    │   ├── LogMissingError       the writer has not created or migrated the log yet
    │   ├── LogPrunedError        the requested events or removals have been pruned
    │   ├── LogReplacedError      the log was deleted or replaced while open; reopen it
    │   ├── LogUnusableError      damaged, not a log, or a newer version's; a retry does not help
    │   │   └── LogDamagedError       damaged: the file's structure, or the row with its counters
    │   └── LogUnwritableError    disk full, read-only, no permission, no broker; retry
    │       └── LogFencedError        another machine writes the log now
    └── ClientError           a failure in the client library
        ├── ServerUnreachableError   no connection, or it was lost
        ├── AuthenticationError      unknown key, or its tier is too low
        └── APIStatusError           an HTTP response with a status of 300 or above

Each has a `code`, a stable identifier for programs; messages are for people and may change. HTTP statuses and
close codes depend on codes and types, never on messages.
"""

from __future__ import annotations

import copyreg
import os
from typing import Any

__all__ = [
    "APIStatusError",
    "AuthenticationError",
    "BrokerError",
    "ClientError",
    "EntriesPurgedError",
    "InvalidInputError",
    "KeyFileError",
    "LogBehindError",
    "LogDamagedError",
    "LogError",
    "LogFencedError",
    "LogLockedError",
    "LogMissingError",
    "LogPrunedError",
    "LogReplacedError",
    "LogUnusableError",
    "LogUnwritableError",
    "OutcomeUnknownError",
    "PTNError",
    "PublishRefusedError",
    "ServerUnreachableError",
    "SettingsError",
    "error_text",
]


class PTNError(Exception):
    """The root of all errors; `code` is a stable identifier, the message a sentence for people."""

    code = "error"
    remedy = ""
    """What to do about it, where that is not in the message."""

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        # By default `__init__` is called with the message alone. An error that cannot be unpickled leaves a
        # process pool waiting forever.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class SettingsError(PTNError):
    code = "bad_setting"


class InvalidInputError(PTNError):
    """Rejected input; `code` is the reason, `field` the name of the faulty part, if it is known."""

    code = "invalid"

    def __init__(self, message: str, *, code: str | None = None, field: str | None = None) -> None:
        super().__init__(message, code=code)
        self.field = field


class KeyFileError(PTNError):
    code = "bad_key_file"


class LogError(PTNError):
    code = "log_error"


class BrokerError(LogError):
    """`code` may be `damaged_commit`: another server of the broker may have the commit undamaged.

    Or `forbidden`: the servers do not permit these credentials to do this, and nothing was done.
    """

    code = "broker_error"


class EntriesPurgedError(BrokerError):
    code = "entries_purged"


class OutcomeUnknownError(BrokerError):
    code = "outcome_unknown"


class PublishRefusedError(BrokerError):
    code = "publish_refused"


class LogBehindError(LogError):
    code = "log_behind"


class LogLockedError(LogError):
    code = "log_locked"


class LogMissingError(LogError):
    code = "no_log"


class LogPrunedError(LogError):
    code = "pruned"


class LogReplacedError(LogError):
    code = "replaced"


class LogUnusableError(LogError):
    """`code`: `corrupt`, `not_a_log`, `newer_schema`, `no_wal` or `no_locks` (file system without).

    In a cluster also `not_joined`, `newer_commit`, `diverged` and `forked`.
    """

    code = "log_unusable"


class LogDamagedError(LogUnusableError):
    """Bits of the file are wrong. `ptn doctor --check-log` names each damaged part, with the remedy."""

    code = "corrupt"


class LogUnwritableError(LogError):
    code = "log_unwritable"


class LogFencedError(LogUnwritableError):
    code = "log_fenced"


class ClientError(PTNError):
    code = "client_error"


class ServerUnreachableError(ClientError):
    code = "unreachable"


class AuthenticationError(ClientError):
    """`status` is the HTTP status, 401 or 403; None if the stream refused the key, or without a key."""

    code = "authentication"

    def __init__(self, message: str, *, code: str | None = None, status: int | None = None) -> None:
        super().__init__(message, code=code)
        self.status = status


class APIStatusError(ClientError):
    """An HTTP response with a `status` of 300 or above; the message is the body's `error`.

    `code` is the body's, or `redirect`, or `foreign` for a response of something else than the API, such as a
    proxy.
    """

    code = "http_status"
    hotkey = ""
    """Of status 404: the hotkey that was asked for."""

    def __init__(self, message: str, *, status: int, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.status = status


def error_text(error: BaseException) -> str:
    """Words for an exception of the system or a library: "Connection refused" rather than its repr.

    Never empty: an exception without a message is named by its class.
    """
    number = getattr(error, "errno", None)
    if number and number > 0 and type(error).__module__ != "ssl":  # an SSLError has OpenSSL's numbers
        return os.strerror(number)
    return str(error) or type(error).__name__
