"""Where the command line finds your API key: never in an argument, which any process list shows.

In this order: `--api-key-file` (a file, or - for standard input), PTN_API_KEY, the config file. Nothing here
ever prints a key, nor a name that could be one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from ptn_api.cli.config import config_path, read_config
from ptn_api.errors import AuthenticationError, SettingsError

__all__ = ["read_api_key"]


class _Entry(msgspec.Struct):
    key: str = ""
    tier: int = 100


def read_api_key(file: Path | None) -> str:
    """The key in the file, in PTN_API_KEY, or in the config file.

    A file holds the key alone, or is a key file like the demo's: then its best key is taken. Raises
    AuthenticationError where there is none, SettingsError for a file that cannot be read.
    """
    if file is not None:
        return _of_file(file)
    if key := os.environ.get("PTN_API_KEY", "").strip():
        return _checked(key, "PTN_API_KEY")
    config = read_config()
    if config.api_key:
        return _checked(config.api_key, str(config_path()))
    if config.api_key_file:
        return _of_file(Path(config.api_key_file).expanduser())
    known = "--api-key-file, PTN_API_KEY"
    raise AuthenticationError(f"no API key: give one with {known} or {config_path()}", code="no_key")


def _of_file(file: Path) -> str:
    """Its name stays unsaid: people do give the key itself here."""
    try:
        content = sys.stdin.read() if str(file) == "-" else file.read_text()
    except OSError as error:
        raise SettingsError(f"the API key file cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError("the API key file is no text") from None
    return _checked(_best_of(content) if content.lstrip().startswith("{") else content, "the API key file")


def _checked(key: str, source: str) -> str:
    key = key.strip()
    if not key or not key.isascii() or len(key.split()) != 1:
        raise AuthenticationError(f"there is no API key in {source}", code="no_key")
    return key


def _best_of(content: str) -> str:
    try:
        entries = msgspec.json.decode(content, type=dict[str, str | _Entry])
    except msgspec.MsgspecError:
        raise SettingsError("the API key file is neither a key nor a key file") from None
    known = [_Entry(key=entry) if isinstance(entry, str) else entry for entry in entries.values()]
    return max((entry for entry in known if entry.key), key=lambda entry: entry.tier, default=_Entry()).key
