"""The REST routes for Python: `PTNClient` blocks, `AsyncPTNClient` is the same for `async` programs.

with PTNClient("http://localhost:48888", api_key="...") as api:
    for hotkey, entry in api.miner_positions(tier=100).items():
        ...
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, overload

import httpx

from ptn_api.client import calls
from ptn_api.client.answer_cache import AnswerCache
from ptn_api.client.api_key import given_api_key
from ptn_api.client.calls import MessagePage, Status
from ptn_api.client.choice import Choice
from ptn_api.client.documents import (
    Checkpoint,
    Ledgers,
    Miner,
    MinerPositions,
    PositionChanges,
    StatisticsDocument,
)
from ptn_api.client.download import Download, Progress
from ptn_api.client.exchange import SEND, Call, Outcome, Retries, exchange
from ptn_api.errors import SettingsError
from ptn_api.model.statistics import Elimination, MinerStatistics
from ptn_api.model.tiers import Tier
from ptn_api.wire.about import Health, Me
from ptn_api.wire.frames import Format

__all__ = ["AsyncPTNClient", "MessagePage", "PTNClient", "Retries"]

T = TypeVar("T")


def _options(base_url: str, api_key: str | None, timeout: float, options: dict[str, Any]) -> dict[str, Any]:
    if not base_url.startswith(("http://", "https://")):
        raise SettingsError(f"not an HTTP address: {base_url!r}")
    key = given_api_key(api_key)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return {"base_url": base_url, "headers": headers, "timeout": timeout, **options}


class PTNClient:
    """Asks and waits. `api_key` None: the environment's PTN_API_KEY.

    `timeout` (s) is for connecting and for each part of an answer, not for the whole of it. `cache`: so many
    answers are kept and asked for only if they changed; one that did not is the same object as before
    (change a copy). Further options are `httpx.Client`'s.

    Every method may raise AuthenticationError (`status` 401 or 403: the key, or its tier), APIStatusError
    (`status`, and the server's sentence), ServerUnreachableError, or ClientError with code `bad_answer`;
    429 and 503 are waited for as the server says, see `Retries`.
    """

    def __init__(
        self,
        base_url: str = "http://localhost:48888",
        api_key: str | None = None,
        *,
        timeout: float = 30.0,
        retries: Retries | None = None,
        cache: int = 8,
        **options: Any,
    ) -> None:
        self._http = httpx.Client(**_options(base_url, api_key, timeout, options))
        self._retries = retries or Retries()
        self._cache = AnswerCache(cache)

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
        steps = exchange(call, self._retries, self._cache)
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
            if isinstance(call, Download):
                return self._download(call)
            headers = self._cache.headers(call.key)
            return self._http.get(call.path, params=call.parameters, headers=headers)
        except httpx.RequestError as error:
            return error

    def _download(self, call: Download) -> httpx.Response:
        with self._http.stream("GET", call.path, params=call.parameters) as response:
            if response.status_code != 200:
                response.read()
                return response
            with call.writing() as file:
                for chunk in response.iter_bytes():
                    file.write(chunk)
                    call.tell(response)
        return response

    @overload
    def miner_positions(
        self,
        *,
        tier: Tier | None = None,
        miner: Choice = (),
        trade_pair: Choice = (),
        status: Status | None = None,
        since: None = None,
    ) -> MinerPositions: ...

    @overload
    def miner_positions(self, *, since: str) -> PositionChanges: ...

    def miner_positions(
        self,
        *,
        tier: Tier | None = None,
        miner: Choice = (),
        trade_pair: Choice = (),
        status: Status | None = None,
        since: str | None = None,
    ) -> MinerPositions | PositionChanges:
        """Every miner's positions, best miner first; `tier` None: 100. `miner` and `trade_pair`: only those.

        `since` (an earlier answer's `cursor`, tier 100): only what changed; raises APIStatusError with status
        410 where only a whole answer helps.
        """
        if since is not None:
            return self.call(calls.position_changes(since))
        return self.call(calls.miner_positions(tier, miner, trade_pair, status))

    def miner(self, hotkey: str) -> Miner:
        """One miner's entry, at the key's own tier."""
        return self.call(calls.miner(hotkey))

    def hotkeys(self) -> list[str]:
        """The miners that the validator knows."""
        return self.call(calls.hotkeys())

    def statistics(self, *, checkpoints: bool = True) -> StatisticsDocument:
        """The validator's statistics: `data` is a list of miners."""
        return self.call(calls.statistics(checkpoints))

    def miner_statistics(self, hotkey: str, *, checkpoints: bool = True) -> MinerStatistics:
        return self.call(calls.miner_statistics(hotkey, checkpoints))

    def eliminations(self) -> list[Elimination]:
        """Who was eliminated, when and why."""
        return self.call(calls.eliminations())

    @overload
    def validator_checkpoint(self) -> Checkpoint: ...

    @overload
    def validator_checkpoint(
        self, to_file: str | os.PathLike[str], progress: Progress | None = None
    ) -> Path: ...

    def validator_checkpoint(
        self, to_file: str | os.PathLike[str] | None = None, progress: Progress | None = None
    ) -> Checkpoint | Path:
        """Everything a validator restores from (tier 100).

        With `to_file` it goes there as it comes, whole or not at all, and `progress(bytes, total)` is told.
        """
        if to_file is None:
            return self.call(calls.checkpoint())
        return self.call(calls.checkpoint_file(to_file, progress))

    def perf_ledger(self, hotkey: str) -> Ledgers:
        """One miner's ledgers, by trade pair and "portfolio"."""
        return self.call(calls.perf_ledger(hotkey))

    def me(self) -> Me:
        """What the server knows about the key."""
        return self.call(calls.me())

    def health(self) -> Health:
        """How the server is, also where it is not well. Needs no key."""
        return self.call(calls.health())

    def messages(
        self,
        after: int = -1,
        *,
        epoch: str | None = None,
        limit: int = 1_000,
        miner: Choice = (),
        trade_pair: Choice = (),
        format: Format = "full",  # noqa: A002 - the protocol's word
    ) -> MessagePage:
        """The stream's messages after a sequence; -1: none yet, but where to begin.

        Raises APIStatusError with status 410 where the server no longer has them.
        """
        return self.call(calls.messages(after, epoch, limit, miner, trade_pair, format))


class AsyncPTNClient:
    """`PTNClient` for asynchronous programs: the same methods, to be awaited."""

    def __init__(
        self,
        base_url: str = "http://localhost:48888",
        api_key: str | None = None,
        *,
        timeout: float = 30.0,
        retries: Retries | None = None,
        cache: int = 8,
        **options: Any,
    ) -> None:
        self._http = httpx.AsyncClient(**_options(base_url, api_key, timeout, options))
        self._retries = retries or Retries()
        self._cache = AnswerCache(cache)

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
        steps = exchange(call, self._retries, self._cache)
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
            if isinstance(call, Download):
                return await self._download(call)
            headers = self._cache.headers(call.key)
            return await self._http.get(call.path, params=call.parameters, headers=headers)
        except httpx.RequestError as error:
            return error

    async def _download(self, call: Download) -> httpx.Response:
        async with self._http.stream("GET", call.path, params=call.parameters) as response:
            if response.status_code != 200:
                await response.aread()
                return response
            with call.writing() as file:
                async for chunk in response.aiter_bytes():
                    file.write(chunk)
                    call.tell(response)
        return response

    @overload
    async def miner_positions(
        self,
        *,
        tier: Tier | None = None,
        miner: Choice = (),
        trade_pair: Choice = (),
        status: Status | None = None,
        since: None = None,
    ) -> MinerPositions: ...

    @overload
    async def miner_positions(self, *, since: str) -> PositionChanges: ...

    async def miner_positions(
        self,
        *,
        tier: Tier | None = None,
        miner: Choice = (),
        trade_pair: Choice = (),
        status: Status | None = None,
        since: str | None = None,
    ) -> MinerPositions | PositionChanges:
        if since is not None:
            return await self.call(calls.position_changes(since))
        return await self.call(calls.miner_positions(tier, miner, trade_pair, status))

    async def miner(self, hotkey: str) -> Miner:
        return await self.call(calls.miner(hotkey))

    async def hotkeys(self) -> list[str]:
        return await self.call(calls.hotkeys())

    async def statistics(self, *, checkpoints: bool = True) -> StatisticsDocument:
        return await self.call(calls.statistics(checkpoints))

    async def miner_statistics(self, hotkey: str, *, checkpoints: bool = True) -> MinerStatistics:
        return await self.call(calls.miner_statistics(hotkey, checkpoints))

    async def eliminations(self) -> list[Elimination]:
        return await self.call(calls.eliminations())

    @overload
    async def validator_checkpoint(self) -> Checkpoint: ...

    @overload
    async def validator_checkpoint(
        self, to_file: str | os.PathLike[str], progress: Progress | None = None
    ) -> Path: ...

    async def validator_checkpoint(
        self, to_file: str | os.PathLike[str] | None = None, progress: Progress | None = None
    ) -> Checkpoint | Path:
        if to_file is None:
            return await self.call(calls.checkpoint())
        return await self.call(calls.checkpoint_file(to_file, progress))

    async def perf_ledger(self, hotkey: str) -> Ledgers:
        return await self.call(calls.perf_ledger(hotkey))

    async def me(self) -> Me:
        return await self.call(calls.me())

    async def health(self) -> Health:
        return await self.call(calls.health())

    async def messages(
        self,
        after: int = -1,
        *,
        epoch: str | None = None,
        limit: int = 1_000,
        miner: Choice = (),
        trade_pair: Choice = (),
        format: Format = "full",  # noqa: A002 - the protocol's word
    ) -> MessagePage:
        return await self.call(calls.messages(after, epoch, limit, miner, trade_pair, format))
