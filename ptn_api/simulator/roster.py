"""Who trades: the miners of a simulation, weighed by how active they are."""

from __future__ import annotations

from bisect import bisect
from itertools import accumulate
from random import Random

from ptn_api.simulator.market import Market
from ptn_api.simulator.miner import Miner, make_miner

__all__ = ["Roster"]


class Roster:
    """The miners that have a directory; the eliminated ones among them trade no more."""

    def __init__(self, market: Market) -> None:
        self._instruments = list(market.instruments.values())
        self._miners: dict[str, Miner] = {}
        self._active: list[Miner] = []
        self._weights: list[float] = []
        self.eliminated: set[str] = set()

    def hotkeys(self) -> list[str]:
        return list(self._miners)

    def miners(self) -> list[Miner]:
        return list(self._miners.values())

    def get(self, hotkey: str) -> Miner | None:
        return self._miners.get(hotkey)

    def add(self, hotkey: str) -> Miner:
        miner = self._miners[hotkey] = make_miner(hotkey, self._instruments)
        self._weigh()
        return miner

    def remove(self, hotkey: str) -> None:
        self._miners.pop(hotkey, None)
        self._weigh()

    def eliminate(self, hotkeys: set[str]) -> None:
        """Says who is eliminated, and who no longer is."""
        self.eliminated = hotkeys
        self._weigh()

    def choose(self, rng: Random) -> Miner | None:
        """An active miner, the busy ones more often; None if there is none."""
        if not self._active:
            return None
        return self._active[bisect(self._weights, rng.random() * self._weights[-1], hi=len(self._active) - 1)]

    def _weigh(self) -> None:
        self._active = [m for m in self._miners.values() if m.hotkey not in self.eliminated]
        self._weights = list(accumulate(m.activity for m in self._active))
