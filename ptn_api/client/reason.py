"""What an exception of the system or of a library says, in words for people."""

from __future__ import annotations

import os
from ssl import SSLError

__all__ = ["reason"]


def reason(error: BaseException) -> str:
    """The system's words where it knows the error ("Connection refused"); never nothing."""
    number = None if isinstance(error, SSLError) else getattr(error, "errno", None)  # SSL has its own numbers
    return os.strerror(number) if number and number > 0 else str(error) or type(error).__name__
