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
import mmap
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Hashable, Iterator, Mapping
from datetime import timedelta
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Concatenate, Generic, ParamSpec, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec

from ptn_api.backoff import Backoff
from ptn_api.client import calls
from ptn_api.client.arguments import ALL, NO_KEY, Choice, Time, optional_api_key
from ptn_api.client.calls import Call
from ptn_api.client.connection_errors import (
    failure_text,
    foreign_text,
    proxy_note,
    redirect_text,
    shown_url,
    tls_text,
    unanswered_text,
)
from ptn_api.client.tables.columns import Rows
from ptn_api.clock import wall_ms
from ptn_api.errors import (
    APIStatusError,
    AuthenticationError,
    ClientError,
    ServerUnreachableError,
    SettingsError,
)
from ptn_api.model.order import OrderRow

if TYPE_CHECKING:
    import polars

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
        first_ms = 1000 * self.first * 2.0 ** min(attempt, 100)  # more would overflow
        delay = Backoff(first_ms=first_ms, max_ms=1000 * self.longest, jitter=1.0).next_ms() / 1000
        return delay if asked is None else asked + delay / 4


class ResponseCache:
    """The most recently used results, with their ETags. May be used from several threads."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[Hashable, tuple[str, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> tuple[str, Any] | None:
        """Returns (ETag, result), None if it is not here."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def put(self, key: Hashable, etag: str | None, result: Any) -> None:
        if etag is None or self._size == 0:
            return
        with self._lock:
            self._entries[key] = (etag, result)
            self._entries.move_to_end(key)
            if len(self._entries) > self._size:
                self._entries.popitem(last=False)


# --- one request, without I/O -----------------------------------------------------------------------------

Headers = Mapping[str, str]
Outcome = httpx.Response | httpx.RequestError | None
_MALFORMED_ADDRESS = httpx.InvalidURL, UnicodeError
"""Raised for the host, or for the address of a redirect, which httpx reads without following it."""
_RETRIED = {304, 429, 503}
"""304: called unchanged without having been asked whether it is, as by a faulty proxy."""


def exchange(
    call: Call[T], retries: Retries, cache: ResponseCache, url: str, proxy: str
) -> Generator[float | Headers, Outcome, T]:
    """Yields headers to send and expects the response or error, or yields a delay in s. Returns the result.

    `url` is the server's address and `proxy` the words about a proxy before it, for errors. Raises
    AuthenticationError (401, 403), APIStatusError, ServerUnreachableError, or ClientError with code
    `bad_answer` for a malformed response.
    """
    attempt = 0
    # Held until the response is here: other calls may replace it in the cache meanwhile.
    kept = cache.get(call.key) if call.cached else None
    while True:
        outcome = yield {} if kept is None else {"if-none-match": kept[0]}
        retry_after = None
        if isinstance(outcome, httpx.Response):
            if outcome.status_code == 304 and kept is not None:
                unchanged: T = kept[1]
                return unchanged
            # `accept` comes first: an unhealthy server answers /health with 503.
            if outcome.status_code in call.accept:
                try:
                    return _result(call, outcome, cache)
                except _IncompleteError as error:
                    outcome = error
            elif outcome.status_code not in _RETRIED:
                raise _failure(outcome, call, url, proxy)
            else:
                with contextlib.suppress(ValueError):  # absent, or a date, which this API never sends
                    retry_after = max(0.0, float(outcome.headers.get("retry-after", "")))
        delay = retries.pause(attempt, retry_after)
        if delay is None:
            raise _failure(outcome, call, url, proxy)
        yield delay
        attempt += 1


class _IncompleteError(httpx.RequestError):
    """The body ended early. Without a length, as in HTTP/1.0 or from some proxies, only its content tells."""

    def __init__(self) -> None:
        super().__init__("the response ended early")


def _result(call: Call[T], response: httpx.Response, cache: ResponseCache) -> T:
    try:
        result = call.read(b"" if call.to_file or call.collector else response.content, response.headers)
    except (msgspec.MsgspecError, RecursionError, KeyError, ValueError) as error:
        raise _malformed(call, error) from None
    if call.cached:
        cache.put(call.key, response.headers.get("etag"), result)
    return result


def _malformed(call: Call[Any], error: Exception) -> Exception:
    if isinstance(error, msgspec.DecodeError) and "truncated" in str(error):
        return _IncompleteError()
    return ClientError(f"malformed response to {call.path}: {error}", code="bad_answer")


class _ErrorBody(msgspec.Struct):
    error: str = ""
    code: str | None = None


def _failure(outcome: Outcome, call: Call[Any], url: str, proxy: str) -> ClientError:
    assert outcome is not None  # the request was sent
    if not isinstance(outcome, httpx.Response):
        return ServerUnreachableError(f"{unanswered_text(outcome, url)}{proxy}")
    status = outcome.status_code
    if location := outcome.headers.get("location", ""):
        return APIStatusError(redirect_text(url, call.path, location), status=status, code="redirect")
    try:
        body = msgspec.json.decode(outcome.content, type=_ErrorBody)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        body = _ErrorBody()
    # Of the statuses 401 and 403 only the API's own are about the key; others are a proxy's.
    if not body.error:
        return APIStatusError(foreign_text(status, outcome.headers) + proxy, status=status, code="foreign")
    if status == 403 and (remedy := tls_text(url, body.error)):
        return APIStatusError(remedy, status=status, code="foreign")
    # Without a key the server's message would be about an invalid one.
    if status == 401 and "authorization" not in outcome.request.headers:
        return AuthenticationError(NO_KEY, code="no_key", status=401)
    if status in (401, 403):
        refused = AuthenticationError(f"{shown_url(url)}: {body.error}", code=body.code, status=status)
        refused.remedy = _KEY_REMEDIES[status]
        return refused
    failed = APIStatusError(body.error, status=status, code=body.code)
    if status == 404 and call.hotkey:
        problem = body.error if call.hotkey in body.error else f"{body.error}: {call.hotkey!r}"
        failed = APIStatusError(problem, status=status, code=body.code)
        failed.hotkey = call.hotkey
        failed.remedy = "Check the hotkey, a whole one: hotkeys() lists those of all miners"
    return failed


_KEY_REMEDIES = {
    401: "Check the API key and the address; the server's operator can tell whether the key is valid",
    403: "Ask for what the key's tier may see (me() returns it), or the operator for a higher tier",
}


@contextlib.contextmanager
def _temporary_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a temporary file that replaces `path` when the block ends without an error."""
    target = path.resolve()  # replaces what a symbolic link points to, not the link
    part = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")  # unique: downloads may overlap
    try:
        with part.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _check_complete(call: Call[Any], file: BinaryIO) -> None:
    """Raises ClientError unless the file is one JSON document, or _IncompleteError if it is the start of one.

    The transport need not notice: a body without a length ends where the connection does, and half a gzip
    stream decompresses to half a document.
    """
    file.flush()
    try:
        if file.tell() == 0:
            raise _IncompleteError
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            msgspec.json.decode(content, type=msgspec.Raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise _malformed(call, error) from None


@contextlib.contextmanager
def _destination(call: Call[Any]) -> Iterator[Callable[[bytes], object]]:
    """Yields the function that gets the parts of a body which is not kept in memory."""
    if call.collector is not None:
        call.collector.clear()
        yield call.collector.add
    else:
        assert call.to_file is not None
        with _temporary_file(call.to_file) as file:
            yield file.write
            _check_complete(call, file)


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


@contextlib.contextmanager
def _absent_then() -> Iterator[None]:
    """Accepts that a miner had no position at a time: a 404 below tier 100."""
    try:
        yield
    except APIStatusError as error:
        if error.status != 404:
            raise


def _above_debug(record: logging.LogRecord) -> bool:
    return record.levelno > logging.DEBUG


_WITHOUT_CONNECTIONS = httpx.MockTransport, httpx.ASGITransport, httpx.WSGITransport

H = TypeVar("H", httpx.Client, httpx.AsyncClient)


class _HttpClients(Generic[H]):
    """Makes a client's HTTP clients: connections belong to one process and one event loop.

    A connection that a forked process inherits is shared with its parent: each would read responses to the
    other's requests.
    """

    def __init__(
        self, kind: type[H], base_url: str, api_key: str | None, timeout: float, options: dict[str, Any]
    ) -> None:
        try:
            valid = base_url.startswith(("http://", "https://")) and bool(urlsplit(base_url).netloc)
        except ValueError:  # of the brackets of an IPv6 address
            valid = False
        if not valid:
            raise SettingsError(f"not an HTTP URL: {base_url!r}")
        key = optional_api_key(api_key)
        # HTTP/2, where a transport uses it, logs the headers that it compresses, keys included.
        logging.getLogger("hpack.hpack").addFilter(_above_debug)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._kind: type[H] = kind
        self._options = {"base_url": base_url, "headers": headers, "timeout": timeout, **options}
        self.url = base_url
        own_transport = any(options.get(name) for name in ("transport", "mounts"))
        self.proxy = ""
        if options.get("proxy") is not None:
            self.proxy = proxy_note(base_url, str(getattr(options["proxy"], "url", options["proxy"])))
        elif options.get("trust_env", True) and not own_transport:
            self.proxy = proxy_note(base_url)

    def make(self) -> H:
        """Raises SettingsError for unusable options or environment variables, such as SSL_CERT_FILE."""
        try:
            client: H = self._kind(**self._options)
        except (ValueError, ImportError) as error:  # as for a proxy of an unknown kind
            raise SettingsError(f"{error}{self.proxy}") from None
        except OSError as error:  # an SSLError too
            file = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")
            named = f"SSL_CERT_FILE or SSL_CERT_DIR ({file})" if file else "the certificates"
            raise SettingsError(f"{named} cannot be used: {failure_text(error)}") from None
        return client

    def make_again(self) -> H:
        """Makes another one, for another process or event loop."""
        given = [self._options.get("transport"), *(self._options.get("mounts") or {}).values()]
        if any(part is not None and not isinstance(part, _WITHOUT_CONNECTIONS) for part in given):
            problem = "this client has a transport of another process or event loop; make one here"
            raise ClientError(problem, code="other_process")
        return self.make()


class PTNClient:
    """The blocking REST client. `api_key` None means PTN_API_KEY from the environment.

    `timeout` (s) applies to connecting and to each part of a response, not to the whole. `cache` is the
    number of results kept and requested only if changed; an unchanged document is the same object as before
    (modify a copy). Other options are passed to `httpx.Client`.

    Threads may share a client. A forked process may use its parent's: it makes new connections.

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
        self._clients = _HttpClients(httpx.Client, base_url, api_key, timeout, options)
        self._retries = retries or Retries()
        self._cache_size = cache
        self._cache = ResponseCache(cache)
        self._client = self._clients.make()
        self._process = os.getpid()

    @property
    def _http(self) -> httpx.Client:
        if self._process != os.getpid() and not self._client.is_closed:
            # The parent's is dropped without closing it, and so is the cache: a thread that does not exist
            # here may hold their locks.
            self._client = self._clients.make_again()
            self._cache = ResponseCache(self._cache_size)
            self._process = os.getpid()
        return self._client

    def __enter__(self) -> PTNClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        if self._process == os.getpid():
            self._client.close()

    def call(self, call: Call[T]) -> T:
        """Sends any call of `ptn_api.client.calls` and returns its result."""
        if call.join is not None and (parts := call.parts()):
            return call.read(*call.join([self.call(part) for part in parts]))
        http = self._http
        steps = exchange(call, self._retries, self._cache, self._clients.url, self._clients.proxy)
        step, outcome = next(steps), None
        try:
            while True:
                if isinstance(step, float):
                    time.sleep(step)
                else:
                    outcome = self._send(http, call, step)
                step = steps.send(outcome)
        except StopIteration as end:
            result: T = end.value
            return result

    def all_orders(
        self,
        *,
        before: str | None = None,
        miner: Choice | None = ALL,
        trade_pair: Choice | None = ALL,
        page: int = 1_000,
    ) -> Iterator[OrderRow]:
        """Yields all miners' orders, newest first (tier 100); requests `page` of them when one is needed."""
        while True:
            found = self.order_page(limit=page, before=before, miner=miner, trade_pair=trade_pair)
            yield from found.orders
            if (before := found.next) is None:
                return

    def history(
        self,
        hotkey: str,
        *,
        every: str | timedelta = "1d",
        start: Time | None = None,
        end: Time | None = None,
        rows: Rows = "positions",
    ) -> polars.DataFrame:
        """Returns a miner's positions, or orders, as they were at each of several times, as a Polars frame.

        The times are multiples of `every` (such as "6h") from `start` to `end`, by default from the miner's
        first position until now; below tier 100, a day less. One request each.
        """
        history = calls.History(hotkey, every, start, end, rows)
        for at_ms in history.times(self.miner(hotkey), wall_ms()):
            with _absent_then():
                history.add(at_ms, self.call(calls.miner(hotkey, at=at_ms)))
        return history.to_polars()

    def _send(self, http: httpx.Client, call: Call[T], headers: Headers) -> Outcome:
        try:
            if call.to_file is not None or call.collector is not None:
                return self._download(http, call)
            return http.get(call.path, params=call.parameters, headers=headers)
        except httpx.RequestError as error:
            return error
        except _MALFORMED_ADDRESS as error:
            return httpx.RequestError(str(error))

    def _download(self, http: httpx.Client, call: Call[T]) -> httpx.Response:
        with http.stream("GET", call.path, params=call.parameters) as response:
            if response.status_code != 200:
                response.read()
                return response
            with _destination(call) as put:
                for chunk in response.iter_bytes():
                    put(chunk)
                    _report_progress(call, response)
        return response

    # The routes; `calls` documents them.
    miner_positions = _blocking(calls.miner_positions)
    miner = _blocking(calls.miner)
    leaderboard = _blocking(calls.leaderboard)
    hotkeys = _blocking(calls.hotkeys)
    statistics = _blocking(calls.statistics)
    miner_statistics = _blocking(calls.miner_statistics)
    eliminations = _blocking(calls.eliminations)
    validator_checkpoint = _blocking(calls.validator_checkpoint)
    perf_ledger = _blocking(calls.perf_ledger)
    orders = _blocking(calls.orders)
    order_page = _blocking(calls.order_page)
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
    """`PTNClient` for asyncio: the same methods, to be awaited.

    It may be used in several event loops, one after the other or in several threads: each has its own
    connections. `close` closes those of the running one.
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
        self._clients = _HttpClients(httpx.AsyncClient, base_url, api_key, timeout, options)
        self._retries = retries or Retries()
        self._cache_size = cache
        self._cache = ResponseCache(cache)
        self._unused: list[httpx.AsyncClient] = [self._clients.make()]
        self._by_loop: dict[asyncio.AbstractEventLoop, httpx.AsyncClient] = {}
        self._process = os.getpid()

    def _http(self) -> httpx.AsyncClient:
        """The HTTP client of the running event loop."""
        if self._process != os.getpid():
            self._by_loop = {}
            self._cache = ResponseCache(self._cache_size)
            self._process = os.getpid()
        loop = asyncio.get_running_loop()
        http = self._by_loop.get(loop)
        if http is None:
            http = self._unused.pop() if self._unused else self._clients.make_again()
            open_ones = {known: client for known, client in self._by_loop.items() if not known.is_closed()}
            self._by_loop = open_ones | {loop: http}
        return http

    async def __aenter__(self) -> AsyncPTNClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._http().aclose()

    async def call(self, call: Call[T]) -> T:
        """Sends any call of `ptn_api.client.calls` and returns its result."""
        if call.join is not None and (parts := call.parts()):
            return call.read(*call.join([await self.call(part) for part in parts]))
        http = self._http()
        steps = exchange(call, self._retries, self._cache, self._clients.url, self._clients.proxy)
        step, outcome = next(steps), None
        try:
            while True:
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    outcome = await self._send(http, call, step)
                step = steps.send(outcome)
        except StopIteration as end:
            result: T = end.value
            return result

    async def all_orders(
        self,
        *,
        before: str | None = None,
        miner: Choice | None = ALL,
        trade_pair: Choice | None = ALL,
        page: int = 1_000,
    ) -> AsyncIterator[OrderRow]:
        """Yields all miners' orders, newest first (tier 100); requests `page` of them when one is needed."""
        while True:
            found = await self.order_page(limit=page, before=before, miner=miner, trade_pair=trade_pair)
            for row in found.orders:
                yield row
            if (before := found.next) is None:
                return

    async def history(
        self,
        hotkey: str,
        *,
        every: str | timedelta = "1d",
        start: Time | None = None,
        end: Time | None = None,
        rows: Rows = "positions",
    ) -> polars.DataFrame:
        """Returns a miner's positions, or orders, as they were at each of several times, as a Polars frame.

        The times are multiples of `every` (such as "6h") from `start` to `end`, by default from the miner's
        first position until now; below tier 100, a day less. One request each.
        """
        history = calls.History(hotkey, every, start, end, rows)
        for at_ms in history.times(await self.miner(hotkey), wall_ms()):
            with _absent_then():
                history.add(at_ms, await self.call(calls.miner(hotkey, at=at_ms)))
        return history.to_polars()

    async def _send(self, http: httpx.AsyncClient, call: Call[T], headers: Headers) -> Outcome:
        try:
            if call.to_file is not None or call.collector is not None:
                return await self._download(http, call)
            return await http.get(call.path, params=call.parameters, headers=headers)
        except httpx.RequestError as error:
            return error
        except _MALFORMED_ADDRESS as error:
            return httpx.RequestError(str(error))
        except AttributeError as error:
            # httpx asks for the socket of a connection that was lost just now; uvloop's is None by then.
            if error.obj is not None:
                raise
            return httpx.ConnectError("connection lost")

    async def _download(self, http: httpx.AsyncClient, call: Call[T]) -> httpx.Response:
        async with http.stream("GET", call.path, params=call.parameters) as response:
            if response.status_code != 200:
                await response.aread()
                return response
            with _destination(call) as put:
                async for chunk in response.aiter_bytes():
                    put(chunk)
                    _report_progress(call, response)
        return response

    # The routes; `calls` documents them.
    miner_positions = _awaitable(calls.miner_positions)
    miner = _awaitable(calls.miner)
    leaderboard = _awaitable(calls.leaderboard)
    hotkeys = _awaitable(calls.hotkeys)
    statistics = _awaitable(calls.statistics)
    miner_statistics = _awaitable(calls.miner_statistics)
    eliminations = _awaitable(calls.eliminations)
    validator_checkpoint = _awaitable(calls.validator_checkpoint)
    perf_ledger = _awaitable(calls.perf_ledger)
    orders = _awaitable(calls.orders)
    order_page = _awaitable(calls.order_page)
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
