"""One question to the REST server and what becomes of it: retries, errors, decoding. No I/O.

`exchange` says what to do next, send or pause, and is told the outcome; a blocking and an asynchronous
client do so in their own ways.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import httpx
import msgspec

from ptn_api.client.answer_cache import AnswerCache
from ptn_api.client.api_key import NO_KEY
from ptn_api.client.reason import reason
from ptn_api.errors import APIStatusError, AuthenticationError, ClientError, ServerUnreachableError

__all__ = ["SEND", "Call", "Outcome", "Retries", "exchange"]

T = TypeVar("T")


class Call(Generic[T]):
    """A GET: `read` makes the result of the answer's body and headers; `accept` are statuses it reads.

    `kept`: whether the result is worth keeping for the next time.
    """

    def __init__(
        self,
        path: str,
        read: Callable[[bytes, Mapping[str, str]], T],
        *,
        accept: Sequence[int] = (200,),
        kept: bool = True,
        **parameters: Any,
    ) -> None:
        self.path = path
        self.read = read
        self.accept = accept
        self.kept = kept
        self.parameters = {name: value for name, value in parameters.items() if value not in (None, [], "")}
        self.key = (path, read, msgspec.json.encode(self.parameters))
        """What makes two questions the same."""

    def result(self, response: httpx.Response) -> T:
        return self.read(response.content, response.headers)


class Retries(msgspec.Struct, frozen=True, kw_only=True):
    """How often a question is asked again, after pauses (s) that double, with full jitter.

    What the server asks for (`Retry-After`) is waited for, unless it is longer than `longest`.
    """

    times: int = 3
    first: float = 0.5
    longest: float = 60.0

    def pause(self, attempt: int, asked: float | None) -> float | None:
        """Before the attempt after this one; None: ask no more."""
        if attempt >= self.times or (asked is not None and asked > self.longest):
            return None
        longest = min(self.first * 2.0**attempt, self.longest)
        jitter = random.uniform(0.0, longest)  # noqa: S311 - no secret
        return jitter if asked is None else asked + jitter / 4


SEND = None
Outcome = httpx.Response | httpx.RequestError | None
_AGAIN = {429, 503}


def exchange(call: Call[T], retries: Retries, cache: AnswerCache) -> Generator[float | None, Outcome, T]:
    """Yields SEND, and is sent the response or the error; or yields a pause in s. Returns the result.

    A document that the server says is unchanged (304) is the one in the cache.

    Raises AuthenticationError (401, 403), APIStatusError, ServerUnreachableError, or ClientError with code
    `bad_answer` for an answer that makes no sense.
    """
    attempt = 0
    while True:
        outcome = yield SEND
        if isinstance(outcome, httpx.Response) and (
            outcome.status_code in call.accept or outcome.status_code not in _AGAIN
        ):
            return _result(call, outcome, cache)
        asked = _retry_after(outcome) if isinstance(outcome, httpx.Response) else None
        pause = retries.pause(attempt, asked)
        if pause is None:
            raise _failure(outcome)
        yield pause
        attempt += 1


def _result(call: Call[T], response: httpx.Response, cache: AnswerCache) -> T:
    if response.status_code == 304 and (kept := cache.get(call.key)) is not None:
        unchanged: T = kept
        return unchanged
    if response.status_code not in call.accept:
        raise _failure(response)
    try:
        result = call.result(response)
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, ValueError) as error:
        raise ClientError(f"{call.path} makes no sense: {error}", code="bad_answer") from None
    if call.kept:
        cache.keep(call.key, response.headers.get("etag"), result)
    return result


def _failure(outcome: Outcome) -> ClientError:
    assert outcome is not None  # something was sent
    if not isinstance(outcome, httpx.Response):
        return ServerUnreachableError(f"no answer: {reason(outcome)}")
    body = _error_body(outcome)
    message = body.error or f"status {outcome.status_code}"
    if outcome.status_code == 401 and "authorization" not in outcome.request.headers:
        return AuthenticationError(NO_KEY, code="no_key", status=401)
    if outcome.status_code in (401, 403):
        return AuthenticationError(message, code=body.code, status=outcome.status_code)
    return APIStatusError(message, status=outcome.status_code, code=body.code)


class _ErrorBody(msgspec.Struct):
    error: str = ""
    code: str | None = None


def _error_body(response: httpx.Response) -> _ErrorBody:
    try:
        return msgspec.json.decode(response.content, type=_ErrorBody)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _ErrorBody()  # a proxy's page, perhaps


def _retry_after(response: httpx.Response) -> float | None:
    """In seconds; None if absent (or a date, which this API never says)."""
    try:
        return max(0.0, float(response.headers.get("retry-after", "")))
    except ValueError:
        return None
