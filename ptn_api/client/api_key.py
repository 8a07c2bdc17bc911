"""Where a consumer's key comes from."""

from __future__ import annotations

import os

from ptn_api.errors import AuthenticationError

__all__ = ["api_key_from"]


def api_key_from(api_key: str | None) -> str:
    """The key given, else the environment's PTN_API_KEY. Raises AuthenticationError without one."""
    key = api_key or os.environ.get("PTN_API_KEY", "")
    if not key:
        raise AuthenticationError("no API key: give api_key= or set PTN_API_KEY", code="no_key")
    return key
