"""What callers of this package meet, in one tree.

    PTNError
    ├── SettingsError         a setting that cannot be used
    ├── InvalidInputError     a position, document or frame that is not what it should be
    ├── KeyFileError          an API key file that cannot be used
    ├── LogError              the event log cannot be read or written; retry
    │   ├── LogLockedError        another process writes this log
    │   ├── LogMissingError       there is no log yet; its writer will create it
    │   ├── LogPrunedError        the requested events or removals have been pruned
    │   ├── LogReplacedError      the log was deleted or replaced while open; reopen it
    │   ├── LogUnusableError      damaged, not a log, or a newer version's; a retry does not help
    │   └── LogUnwritableError    disk full, read-only, no permission; retry
    └── ClientError           what a consumer meets
        ├── ServerUnreachableError   no connection, or it broke
        ├── AuthenticationError      the key is unknown, or its tier is too low
        └── APIStatusError           an HTTP answer of 400 or above

Each carries a `code`, a short word that programs can match on; messages are for people and may change.
HTTP statuses and close codes are looked up from codes and types, never from messages.
"""

from __future__ import annotations

import os

__all__ = [
    "APIStatusError",
    "AuthenticationError",
    "ClientError",
    "InvalidInputError",
    "KeyFileError",
    "LogError",
    "LogLockedError",
    "LogMissingError",
    "LogPrunedError",
    "LogReplacedError",
    "LogUnusableError",
    "LogUnwritableError",
    "PTNError",
    "ServerUnreachableError",
    "SettingsError",
    "error_text",
]


class PTNError(Exception):
    """The root; `code` is a word for programs, the message a sentence for people."""

    code = "error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class SettingsError(PTNError):
    code = "bad_setting"


class InvalidInputError(PTNError):
    """Input that was refused; `code` says why, `field` names the part where one is to blame."""

    code = "invalid"

    def __init__(self, message: str, *, code: str | None = None, field: str | None = None) -> None:
        super().__init__(message, code=code)
        self.field = field


class KeyFileError(PTNError):
    code = "bad_key_file"


class LogError(PTNError):
    code = "log_error"


class LogLockedError(LogError):
    code = "log_locked"


class LogMissingError(LogError):
    code = "no_log"


class LogPrunedError(LogError):
    code = "pruned"


class LogReplacedError(LogError):
    code = "replaced"


class LogUnusableError(LogError):
    """`code`: `corrupt`, `not_a_log`, `newer_schema` or `no_wal` (file system without a write-ahead log)."""

    code = "log_unusable"


class LogUnwritableError(LogError):
    code = "log_unwritable"


class ClientError(PTNError):
    code = "client_error"


class ServerUnreachableError(ClientError):
    code = "unreachable"


class AuthenticationError(ClientError):
    """`status` is the HTTP answer's, 401 or 403; None where the stream was refused, or there is no key."""

    code = "authentication"

    def __init__(self, message: str, *, code: str | None = None, status: int | None = None) -> None:
        super().__init__(message, code=code)
        self.status = status


class APIStatusError(ClientError):
    """An HTTP answer of 400 or above: `status`, and the body's `error` as the message."""

    code = "http_status"

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
