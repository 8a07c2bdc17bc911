"""What a consumer chooses by name: one or several, and what is no choice at all."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, get_args

from ptn_api.errors import SettingsError
from ptn_api.model.trade_pair import TRADE_PAIRS

__all__ = ["Choice", "check_one_of", "several", "trade_pairs_of"]

logger = logging.getLogger("ptn_api.client")

Choice = str | Sequence[str]
"""One, or several of which each will do."""


def several(choice: Choice | None) -> list[str] | None:
    """As a list; a single one is not taken for its letters. None: all."""
    if choice is None:
        return None
    return [choice] if isinstance(choice, str) else list(choice)


def trade_pairs_of(choice: Choice | None) -> list[str] | None:
    """The same; ids that are not known here are logged, for they may be misspelt."""
    pairs = several(choice)
    for pair in pairs or ():
        if pair not in TRADE_PAIRS:
            logger.warning("%r is no trade pair that is known here", pair)
    return pairs


def check_one_of(kind: Any, value: str, name: str) -> None:
    """Raises SettingsError for what is not of that Literal."""
    if value not in get_args(kind):
        raise SettingsError(f"{name} is one of {', '.join(map(repr, get_args(kind)))}, not {value!r}")
