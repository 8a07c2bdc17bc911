"""Telling a consumer's function what happened."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

__all__ = ["tell"]

logger = logging.getLogger("ptn_api.client")


async def tell(listener: Callable[..., Any] | None, *values: Any) -> None:
    """Calls a plain or an async function, if there is one. What it raises is logged and goes no further."""
    if listener is None:
        return
    try:
        result = listener(*values)
        if inspect.isawaitable(result):
            await result
    except Exception:  # a listener's fault must not stop the orders
        logger.exception("a listener failed")
