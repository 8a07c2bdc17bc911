"""The REST routes for Python: `PTNClient` blocks, `AsyncPTNClient` is the same for `async` programs.

with PTNClient("http://localhost:48888", api_key="...") as api:
    for hotkey, entry in api.miner_positions(tier=100).items():
        ...
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, TypeVar

import httpx

from ptn_api.client import calls
from ptn_api.client.calls import MessagePage, Tier
from ptn_api.client.exchange import SEND, Call, Outcome, Retries, exchange
from ptn_api.errors import SettingsError
from ptn_api.model.miner import MinerEntry
from ptn_api.wire.frames import Format

__all__ = ["AsyncPTNClient", "MessagePage", "PTNClient", "Retries"]

T = TypeVar("T")


def _options(base_url: str, api_key: str | None, timeout: float, options: dict[str, Any]) -> dict[str, Any]:
    if not base_url.startswith(("http://", "https://")):
        raise SettingsError(f"not an HTTP address: {base_url!r}")
    key = api_key or os.environ.get("PTN_API_KEY", "")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return {"base_url": base_url, "headers": headers, "timeout": timeout, **options}


class PTNClient:
    """Asks and waits. `api_key` None: the environment's PTN_API_KEY.

    `timeout` (s) is for connecting and for each part of an answer, not for the whole of it. Further options
    are `httpx.Client`'s. Every method may raise AuthenticationError (401 and 403: the key, or its tier),
    APIStatusError (`status`, and the server's sentence), ServerUnreachableError, or ClientError with code
    `bad_answer`; 429 and 503 are waited for as the server says, see `Retries`.
    """

    def __init__(
        self,
        base_url: str = "http://localhost:48888",
        api_key: str | None = None,
        *,
        timeout: float = 30.0,
        retries: Retries | None = None,
        **options: Any,
    ) -> None:
        self._http = httpx.Client(**_options(base_url, api_key, timeout, options))
        self._retries = retries or Retries()

    def __enter__(self) -> PTNClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def call(self, call: Call[T]) -> T:
        """Any call of `ptn_api.client.calls`."""
        steps = exchange(call, self._retries)
        pause, outcome = next(steps), None
        try:
            while True:
                if pause is SEND:
                    outcome = self._send(call)
                else:
                    time.sleep(pause)
                pause = steps.send(outcome)
        except StopIteration as end:
            result: T = end.value
            return result

    def _send(self, call: Call[T]) -> Outcome:
        try:
            return self._http.get(call.path, params=call.parameters)
        except httpx.RequestError as error:
            return error

    def miner_positions(
        self,
        *,
        tier: Tier | None = None,
        miners: Sequence[str] = (),
        trade_pairs: Sequence[str] = (),
        status: str | None = None,
    ) -> dict[str, MinerEntry]:
        """Every miner's positions, best miner first. `tier` None: 100. `status`: "open" or "closed"."""
        return self.call(calls.miner_positions(tier, miners, trade_pairs, status))

    def miner(self, hotkey: str) -> MinerEntry:
        """One miner's entry, at the key's own tier."""
        return self.call(calls.miner(hotkey))

    def hotkeys(self) -> list[str]:
        """The miners that the validator knows."""
        return self.call(calls.hotkeys())

    def statistics(self, *, checkpoints: bool = True) -> dict[str, Any]:
        """The validator's statistics: `data` is a list of miners."""
        return self.call(calls.statistics(checkpoints))

    def miner_statistics(self, hotkey: str, *, checkpoints: bool = True) -> dict[str, Any]:
        return self.call(calls.miner_statistics(hotkey, checkpoints))

    def eliminations(self) -> list[dict[str, Any]]:
        """Who was eliminated, when and why."""
        return self.call(calls.eliminations())

    def validator_checkpoint(self) -> dict[str, Any]:
        """Everything a validator restores from."""
        return self.call(calls.document("/validator-checkpoint"))

    def perf_ledger(self, hotkey: str) -> dict[str, Any]:
        """One miner's ledgers, by trade pair and "portfolio"."""
        return self.call(calls.perf_ledger(hotkey))

    def me(self) -> dict[str, Any]:
        """What the server knows about the key."""
        return self.call(calls.document("/me"))

    def health(self) -> dict[str, Any]:
        """How the server is, also where it is not well. Needs no key."""
        return self.call(calls.health())

    def messages(
        self,
        after: int = -1,
        *,
        epoch: str | None = None,
        limit: int = 1_000,
        miners: Sequence[str] = (),
        trade_pairs: Sequence[str] = (),
        format: Format = "full",  # noqa: A002 - the protocol's word
    ) -> MessagePage:
        """The stream's messages after a sequence; -1: none yet, but where to begin.

        Raises APIStatusError with status 410 where the server no longer has them.
        """
        return self.call(calls.messages(after, epoch, limit, miners, trade_pairs, format))


class AsyncPTNClient:
    """`PTNClient` for asynchronous programs: the same methods, to be awaited."""

    def __init__(
        self,
        base_url: str = "http://localhost:48888",
        api_key: str | None = None,
        *,
        timeout: float = 30.0,
        retries: Retries | None = None,
        **options: Any,
    ) -> None:
        self._http = httpx.AsyncClient(**_options(base_url, api_key, timeout, options))
        self._retries = retries or Retries()

    async def __aenter__(self) -> AsyncPTNClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def call(self, call: Call[T]) -> T:
        """Any call of `ptn_api.client.calls`."""
        steps = exchange(call, self._retries)
        pause, outcome = next(steps), None
        try:
            while True:
                if pause is SEND:
                    outcome = await self._send(call)
                else:
                    await asyncio.sleep(pause)
                pause = steps.send(outcome)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _send(self, call: Call[T]) -> Outcome:
        try:
            return await self._http.get(call.path, params=call.parameters)
        except httpx.RequestError as error:
            return error

    async def miner_positions(
        self,
        *,
        tier: Tier | None = None,
        miners: Sequence[str] = (),
        trade_pairs: Sequence[str] = (),
        status: str | None = None,
    ) -> dict[str, MinerEntry]:
        return await self.call(calls.miner_positions(tier, miners, trade_pairs, status))

    async def miner(self, hotkey: str) -> MinerEntry:
        return await self.call(calls.miner(hotkey))

    async def hotkeys(self) -> list[str]:
        return await self.call(calls.hotkeys())

    async def statistics(self, *, checkpoints: bool = True) -> dict[str, Any]:
        return await self.call(calls.statistics(checkpoints))

    async def miner_statistics(self, hotkey: str, *, checkpoints: bool = True) -> dict[str, Any]:
        return await self.call(calls.miner_statistics(hotkey, checkpoints))

    async def eliminations(self) -> list[dict[str, Any]]:
        return await self.call(calls.eliminations())

    async def validator_checkpoint(self) -> dict[str, Any]:
        return await self.call(calls.document("/validator-checkpoint"))

    async def perf_ledger(self, hotkey: str) -> dict[str, Any]:
        return await self.call(calls.perf_ledger(hotkey))

    async def me(self) -> dict[str, Any]:
        return await self.call(calls.document("/me"))

    async def health(self) -> dict[str, Any]:
        return await self.call(calls.health())

    async def messages(
        self,
        after: int = -1,
        *,
        epoch: str | None = None,
        limit: int = 1_000,
        miners: Sequence[str] = (),
        trade_pairs: Sequence[str] = (),
        format: Format = "full",  # noqa: A002 - the protocol's word
    ) -> MessagePage:
        return await self.call(calls.messages(after, epoch, limit, miners, trade_pairs, format))
