"""Where the command line finds your API key: never in an argument, which any process list shows."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import typer

from ptn_api.client.stream import api_key_from
from ptn_api.errors import ClientError

__all__ = ["read_api_key"]


class _Entry(msgspec.Struct):
    key: str = ""
    tier: int = 100


def read_api_key(file: Path | None) -> str:
    """The key in the file ("-": standard input), or PTN_API_KEY.

    The file holds the key alone, or is a key file like the demo's: then its best key is taken.
    Raises ClientError when there is none.
    """
    if file is None:
        return api_key_from(None)
    try:
        content = sys.stdin.read() if str(file) == "-" else file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ClientError(f"the API key file cannot be read: {error}") from None
    key = _best_of(content) if content.lstrip().startswith("{") else content.strip()
    if not key or not key.isascii() or len(key.split()) != 1:
        raise ClientError(f"there is no API key in {file}", code="no_key")
    return key


def _best_of(content: str) -> str:
    try:
        entries = msgspec.json.decode(content, type=dict[str, str | _Entry])
    except msgspec.DecodeError:
        raise typer.BadParameter("neither a key nor a key file", param_hint="--api-key-file") from None
    known = [_Entry(key=entry) if isinstance(entry, str) else entry for entry in entries.values()]
    return max((entry for entry in known if entry.key), key=lambda entry: entry.tier, default=_Entry()).key
