"""Which names may become part of keys, URLs and log lines."""

from __future__ import annotations

import re
import unicodedata

from ptn_api.errors import InvalidInputError

__all__ = ["LONGEST_NAME", "check_name"]

LONGEST_NAME = 128
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_FORBIDDEN = frozenset("'\"`\\/")


def check_name(name: str) -> None:
    """Raises InvalidInputError, code `bad_name`: empty, over 128 characters, hidden, a control character,
    quote or slash in it, or bytes that are no UTF-8."""
    if len(name) <= LONGEST_NAME and _PLAIN.fullmatch(name):
        return
    if not 0 < len(name) <= LONGEST_NAME or name.startswith("."):
        raise InvalidInputError("empty, hidden or too long a name", code="bad_name")
    # Categories C*: control and format characters, and the surrogates that stand for undecodable bytes.
    if any(c in _FORBIDDEN or unicodedata.category(c).startswith("C") for c in name):
        raise InvalidInputError("a character that no name may hold", code="bad_name")
