"""Completion of values in the shell: trade pairs, hotkeys, choices. Without a match, shells offer files."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterable

from ptn_api.errors import PTNError
from ptn_api.model.trade_pair import trade_pairs

__all__ = ["complete_choices", "complete_hotkeys", "complete_trade_pairs"]

_TIMEOUT_S = 1.0


def complete_choices(values: Iterable[str]) -> Callable[[str], list[str]]:
    """A completion of these values, in any case."""
    listed = list(values)

    def complete(prefix: str) -> list[str]:
        return [value for value in listed if value.casefold().startswith(prefix.casefold())]

    return complete


def complete_trade_pairs(prefix: str) -> list[str]:
    """Ids; of several with commas, the last one."""
    earlier, comma, last = prefix.rpartition(",")
    return [earlier + comma + pair for pair in complete_choices(trade_pairs())(last)]


def complete_hotkeys(prefix: str) -> list[str]:
    """The hotkeys of the server's miners, if it answers at once and the key is not in an option."""
    from ptn_api.cli.client import rest_url
    from ptn_api.cli.config import read_api_key
    from ptn_api.client.rest import PTNClient, Retries

    earlier, comma, last = prefix.rpartition(",")
    hotkeys: list[str] = []
    with contextlib.suppress(PTNError, OSError), contextlib.redirect_stderr(io.StringIO()):
        address, key = rest_url(os.environ.get("PTN_REST_URL")), read_api_key(None).value
        with PTNClient(address, key, timeout=_TIMEOUT_S, retries=Retries(times=0)) as client:
            hotkeys = client.hotkeys()
    return [earlier + comma + hotkey for hotkey in hotkeys if hotkey.startswith(last)]
