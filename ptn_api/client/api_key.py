"""Where a consumer's key comes from."""

from __future__ import annotations

import os

from ptn_api.errors import AuthenticationError

__all__ = ["NO_KEY", "api_key_from", "given_api_key"]

NO_KEY = "no API key: give api_key= or set PTN_API_KEY"


def api_key_from(api_key: str | None) -> str:
    """The key given, else the environment's PTN_API_KEY. Raises AuthenticationError without one."""
    key = given_api_key(api_key)
    if not key:
        raise AuthenticationError(NO_KEY, code="no_key")
    return key


def given_api_key(api_key: str | None) -> str:
    """The same where none will do too: then it is empty. White space around it goes, as that of a file's end.

    Raises AuthenticationError for what cannot be a key, without saying it.
    """
    key = (api_key or os.environ.get("PTN_API_KEY", "")).strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise AuthenticationError("the API key has characters that no key has", code="no_key")
    return key
