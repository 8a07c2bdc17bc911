"""The REST clients: `PTNClient` blocks, `AsyncPTNClient` is the same for asyncio.

with PTNClient("http://localhost:48888", api_key="...") as api:
    for hotkey, entry in api.miner_positions(tier=100).items():
        ...

`exchange` decides what to do next (send, or wait and retry) and performs no I/O; each client carries that out
in its own way.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Generator, Hashable, Iterator
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Concatenate, ParamSpec, TypeVar

import httpx
import msgspec

from ptn_api.backoff import Backoff
from ptn_api.client import calls
from ptn_api.client.arguments import NO_KEY, optional_api_key
from ptn_api.client.calls import Call
from ptn_api.errors import (
    APIStatusError,
    AuthenticationError,
    ClientError,
    ServerUnreachableError,
    SettingsError,
    error_text,
)

__all__ = ["AsyncPTNClient", "PTNClient", "Retries"]

P = ParamSpec("P")
T = TypeVar("T")


class Retries(msgspec.Struct, frozen=True, kw_only=True):
    """How often a request is retried, after delays (s) that double, with full jitter.

    A server's `Retry-After` is obeyed unless it is longer than `longest`.
    """

    times: int = 3
    first: float = 0.5
    longest: float = 60.0

    def pause(self, attempt: int, asked: float | None) -> float | None:
        """Returns the delay before the next attempt; None gives up. `asked` is the server's Retry-After."""
        if attempt >= self.times or (asked is not None and asked > self.longest):
            return None
        first_ms = 1000 * self.first * 2.0**attempt
        delay = Backoff(first_ms=first_ms, max_ms=1000 * self.longest, jitter=1.0).next_ms() / 1000
        return delay if asked is None else asked + delay / 4


class ResponseCache:
    """The most recently used results, with their ETags."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[Hashable, tuple[str, Any]] = OrderedDict()

    def conditional_headers(self, key: Hashable) -> dict[str, str]:
        entry = self._entries.get(key)
        return {} if entry is None else {"if-none-match": entry[0]}

    def get(self, key: Hashable) -> Any:
        """Returns the result that the server calls unchanged, None if it is not here."""
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key][1]

    def put(self, key: Hashable, etag: str | None, result: Any) -> None:
        if etag is None or self._size == 0:
            return
        self._entries[key] = (etag, result)
        self._entries.move_to_end(key)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)


# --- one request, without I/O -----------------------------------------------------------------------------

SEND = None
Outcome = httpx.Response | httpx.RequestError | None
_RETRIED = {429, 503}


def exchange(call: Call[T], retries: Retries, cache: ResponseCache) -> Generator[float | None, Outcome, T]:
    """Yields SEND and expects the response or error, or yields a delay in s. Returns the call's result.

    Raises AuthenticationError (401, 403), APIStatusError, ServerUnreachableError, or ClientError with code
    `bad_answer` for a malformed response.
    """
    attempt = 0
    while True:
        outcome = yield SEND
        retry_after = None
        if isinstance(outcome, httpx.Response):
            # `accept` comes first: an unhealthy server answers /health with 503.
            if outcome.status_code in call.accept or outcome.status_code not in _RETRIED:
                return _result(call, outcome, cache)
            with contextlib.suppress(ValueError):  # absent, or a date, which this API never sends
                retry_after = max(0.0, float(outcome.headers.get("retry-after", "")))
        delay = retries.pause(attempt, retry_after)
        if delay is None:
            raise _failure(outcome)
        yield delay
        attempt += 1


def _result(call: Call[T], response: httpx.Response, cache: ResponseCache) -> T:
    if response.status_code == 304 and (unchanged := cache.get(call.key)) is not None:
        result: T = unchanged
        return result
    if response.status_code not in call.accept:
        raise _failure(response)
    try:
        result = call.read(b"" if call.to_file else response.content, response.headers)
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, ValueError) as error:
        raise ClientError(f"malformed response to {call.path}: {error}", code="bad_answer") from None
    if call.cached:
        cache.put(call.key, response.headers.get("etag"), result)
    return result


class _ErrorBody(msgspec.Struct):
    error: str = ""
    code: str | None = None


def _failure(outcome: Outcome) -> ClientError:
    assert outcome is not None  # the request was sent
    if not isinstance(outcome, httpx.Response):
        return ServerUnreachableError(f"no answer: {error_text(outcome)}")
    try:
        body = msgspec.json.decode(outcome.content, type=_ErrorBody)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        body = _ErrorBody()  # perhaps a proxy's error page
    message = body.error or f"status {outcome.status_code}"
    # Without a key the server's message would be about an invalid one.
    if outcome.status_code == 401 and "authorization" not in outcome.request.headers:
        return AuthenticationError(NO_KEY, code="no_key", status=401)
    if outcome.status_code in (401, 403):
        return AuthenticationError(message, code=body.code, status=outcome.status_code)
    return APIStatusError(message, status=outcome.status_code, code=body.code)


@contextlib.contextmanager
def _temporary_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a temporary file that replaces `path` when the block ends without an error."""
    target = path.resolve()  # replaces what a symbolic link points to, not the link
    part = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")  # unique: downloads may overlap
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _report_progress(call: Call[Any], response: httpx.Response) -> None:
    if call.progress is not None:
        total = response.headers.get("content-length", "")
        call.progress(response.num_bytes_downloaded, int(total) if total.isdigit() else None)


# --- the clients ------------------------------------------------------------------------------------------


def _blocking(route: Callable[P, Call[T]]) -> Callable[Concatenate[PTNClient, P], T]:
    """Turns a function of `calls` into a method of PTNClient."""

    @wraps(route)
    def method(self: PTNClient, /, *args: P.args, **parameters: P.kwargs) -> T:
        return self.call(route(*args, **parameters))

    return _with_self(method)


def _awaitable(
    route: Callable[P, Call[T]],
) -> Callable[Concatenate[AsyncPTNClient, P], Coroutine[Any, Any, T]]:
    """Turns a function of `calls` into a method of AsyncPTNClient."""

    @wraps(route)
    async def method(self: AsyncPTNClient, /, *args: P.args, **parameters: P.kwargs) -> T:
        return await self.call(route(*args, **parameters))

    return _with_self(method)


M = TypeVar("M", bound=Callable[..., Any])


def _with_self(method: M) -> M:
    # `wraps` copied the route's signature, which lacks self.
    route = signature(method)
    self = Parameter("self", Parameter.POSITIONAL_OR_KEYWORD)
    method.__signature__ = route.replace(parameters=[self, *route.parameters.values()])  # type: ignore[attr-defined]
    return method


def _above_debug(record: logging.LogRecord) -> bool:
    return record.levelno > logging.DEBUG


def _httpx_options(
    base_url: str, api_key: str | None, timeout: float, options: dict[str, Any]
) -> dict[str, Any]:
    if not base_url.startswith(("http://", "https://")):
        raise SettingsError(f"not an HTTP URL: {base_url!r}")
    key = optional_api_key(api_key)
    # HTTP/2, where a transport uses it, logs the headers that it compresses, keys included.
    logging.getLogger("hpack.hpack").addFilter(_above_debug)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return {"base_url": base_url, "headers": headers, "timeout": timeout, **options}


class PTNClient:
    """The blocking REST client. `api_key` None means PTN_API_KEY from the environment.

    `timeout` (s) applies to connecting and to each part of a response, not to the whole. `cache` is the
    number of results kept and requested only if changed; an unchanged document is the same object as before
    (modify a copy). Other options are passed to `httpx.Client`.

    Every method may raise AuthenticationError (`status` 401 or 403: the key, or its tier), APIStatusError
    (`status`, and the server's message), ServerUnreachableError, or ClientError with code `bad_answer`.
    Statuses 429 and 503 are retried as the server asks, see `Retries`.
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
        self._http = httpx.Client(**_httpx_options(base_url, api_key, timeout, options))
        self._retries = retries or Retries()
        self._cache = ResponseCache(cache)

    def __enter__(self) -> PTNClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def call(self, call: Call[T]) -> T:
        """Sends any call of `ptn_api.client.calls` and returns its result."""
        steps = exchange(call, self._retries, self._cache)
        delay, outcome = next(steps), None
        try:
            while True:
                if delay is SEND:
                    outcome = self._send(call)
                else:
                    time.sleep(delay)
                delay = steps.send(outcome)
        except StopIteration as end:
            result: T = end.value
            return result

    def _send(self, call: Call[T]) -> Outcome:
        try:
            if call.to_file is not None:
                return self._download(call, call.to_file)
            headers = self._cache.conditional_headers(call.key)
            return self._http.get(call.path, params=call.parameters, headers=headers)
        except httpx.RequestError as error:
            return error

    def _download(self, call: Call[T], path: Path) -> httpx.Response:
        with self._http.stream("GET", call.path, params=call.parameters) as response:
            if response.status_code != 200:
                response.read()
                return response
            with _temporary_file(path) as file:
                for chunk in response.iter_bytes():
                    file.write(chunk)
                    _report_progress(call, response)
        return response

    # The routes; `calls` documents them.
    miner_positions = _blocking(calls.miner_positions)
    miner = _blocking(calls.miner)
    hotkeys = _blocking(calls.hotkeys)
    statistics = _blocking(calls.statistics)
    miner_statistics = _blocking(calls.miner_statistics)
    eliminations = _blocking(calls.eliminations)
    validator_checkpoint = _blocking(calls.validator_checkpoint)
    perf_ledger = _blocking(calls.perf_ledger)
    orders = _blocking(calls.orders)
    limit_orders = _blocking(calls.limit_orders)
    challenge_period = _blocking(calls.challenge_period)
    debt_ledgers = _blocking(calls.debt_ledgers)
    debt_ledger = _blocking(calls.debt_ledger)
    emissions_ledger = _blocking(calls.emissions_ledger)
    penalty_ledger = _blocking(calls.penalty_ledger)
    account_snapshots = _blocking(calls.account_snapshots)
    collateral = _blocking(calls.collateral)
    miner_selections = _blocking(calls.miner_selections)
    entities = _blocking(calls.entities)
    entity = _blocking(calls.entity)
    entity_endpoint = _blocking(calls.entity_endpoint)
    trade_pairs = _blocking(calls.trade_pairs)
    me = _blocking(calls.me)
    health = _blocking(calls.health)
    messages = _blocking(calls.messages)


class AsyncPTNClient:
    """`PTNClient` for asyncio: the same methods, to be awaited."""

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
        self._http = httpx.AsyncClient(**_httpx_options(base_url, api_key, timeout, options))
        self._retries = retries or Retries()
        self._cache = ResponseCache(cache)

    async def __aenter__(self) -> AsyncPTNClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def call(self, call: Call[T]) -> T:
        """Sends any call of `ptn_api.client.calls` and returns its result."""
        steps = exchange(call, self._retries, self._cache)
        delay, outcome = next(steps), None
        try:
            while True:
                if delay is SEND:
                    outcome = await self._send(call)
                else:
                    await asyncio.sleep(delay)
                delay = steps.send(outcome)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _send(self, call: Call[T]) -> Outcome:
        try:
            if call.to_file is not None:
                return await self._download(call, call.to_file)
            headers = self._cache.conditional_headers(call.key)
            return await self._http.get(call.path, params=call.parameters, headers=headers)
        except httpx.RequestError as error:
            return error

    async def _download(self, call: Call[T], path: Path) -> httpx.Response:
        async with self._http.stream("GET", call.path, params=call.parameters) as response:
            if response.status_code != 200:
                await response.aread()
                return response
            with _temporary_file(path) as file:
                async for chunk in response.aiter_bytes():
                    file.write(chunk)
                    _report_progress(call, response)
        return response

    # The routes; `calls` documents them.
    miner_positions = _awaitable(calls.miner_positions)
    miner = _awaitable(calls.miner)
    hotkeys = _awaitable(calls.hotkeys)
    statistics = _awaitable(calls.statistics)
    miner_statistics = _awaitable(calls.miner_statistics)
    eliminations = _awaitable(calls.eliminations)
    validator_checkpoint = _awaitable(calls.validator_checkpoint)
    perf_ledger = _awaitable(calls.perf_ledger)
    orders = _awaitable(calls.orders)
    limit_orders = _awaitable(calls.limit_orders)
    challenge_period = _awaitable(calls.challenge_period)
    debt_ledgers = _awaitable(calls.debt_ledgers)
    debt_ledger = _awaitable(calls.debt_ledger)
    emissions_ledger = _awaitable(calls.emissions_ledger)
    penalty_ledger = _awaitable(calls.penalty_ledger)
    account_snapshots = _awaitable(calls.account_snapshots)
    collateral = _awaitable(calls.collateral)
    miner_selections = _awaitable(calls.miner_selections)
    entities = _awaitable(calls.entities)
    entity = _awaitable(calls.entity)
    entity_endpoint = _awaitable(calls.entity_endpoint)
    trade_pairs = _awaitable(calls.trade_pairs)
    me = _awaitable(calls.me)
    health = _awaitable(calls.health)
    messages = _awaitable(calls.messages)
