"""Miners and trade pairs as people type them: parts of hotkeys, and pairs in any usual spelling."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache

from ptn_api.client.arguments import WHOLE_HOTKEY
from ptn_api.client.rest import PTNClient
from ptn_api.errors import SettingsError
from ptn_api.model.miner import similar_hotkeys
from ptn_api.model.trade_pair import resolve_pair, split_names, unknown_pair

__all__ = ["chosen_hotkey", "chosen_hotkeys", "known_trade_pairs", "matching_hotkey"]

_NAMED = 8


def chosen_hotkey(client: PTNClient, name: str) -> str:
    """The hotkey that begins with this name, as `matching_hotkey`."""
    return matching_hotkey(name, client.hotkeys)


def chosen_hotkeys(client: PTNClient, names: Iterable[str]) -> list[str]:
    """The hotkeys that begin with these names. A warning names those that no miner has."""
    known = cache(lambda: tuple(client.hotkeys()))
    hotkeys = [matching_hotkey(name, known) for name in split_names(names)]
    for hotkey in hotkeys:
        if hotkey not in known():
            hint = similar_hotkeys(hotkey, known())
            print(f"ptn: no known miner has the hotkey {hotkey!r}{hint}", file=sys.stderr)
    return hotkeys


def matching_hotkey(name: str, known: Callable[[], Sequence[str]]) -> str:
    """The only known hotkey that begins with `name`, or that a table shows as `name` (5Synr98g…, 5Ent…_0).

    A whole hotkey is returned without a look at the known ones: the documents list more miners than have
    positions. Raises SettingsError, which names the candidates.
    """
    if len(name) >= WHOLE_HOTKEY:
        return name
    start, _, end = name.replace("...", "…").partition("…")
    hotkeys = known()
    found = [hotkey for hotkey in hotkeys if hotkey.startswith(start) and hotkey.endswith(end)]
    # A subaccount's hotkey begins with its entity's.
    whole = [hotkey for hotkey in found if hotkey == name or all(other.startswith(hotkey) for other in found)]
    if len(whole or found) == 1:
        return (whole or found)[0]
    if found:
        listed = ", ".join(sorted(found)[:_NAMED]) + (
            f" and {len(found) - _NAMED} more" * (len(found) > _NAMED)
        )
        raise SettingsError(f"{len(found)} hotkeys begin with {name!r}: {listed}")
    raise SettingsError(f"no known miner's hotkey begins with {name!r}{similar_hotkeys(start, hotkeys)}")


def known_trade_pairs(names: Iterable[str]) -> list[str]:
    """The ids of these pairs. Raises SettingsError for an unknown one: no order would pass the filter."""
    pairs = []
    for name in split_names(names):
        pair = resolve_pair(name)
        if pair is None:
            raise SettingsError(unknown_pair(name).replace("/trade-pairs lists", "`ptn trade-pairs` lists"))
        pairs.append(pair)
    return pairs
