"""The server that a command talks to, and words for what may be wrong with it."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus, WebSocketException

from ptn_api.cli.api_key import read_api_key
from ptn_api.cli.config import read_config
from ptn_api.client.calls import Call
from ptn_api.client.rest import PTNClient, Retries
from ptn_api.errors import (
    APIStatusError,
    AuthenticationError,
    ClientError,
    ServerUnreachableError,
    SettingsError,
    error_text,
)

__all__ = ["REST_URL", "WS_URL", "answer", "asking", "hear_the_client", "rest_url", "try_stream", "ws_url"]

T = TypeVar("T")

REST_URL = "http://127.0.0.1:48888"
WS_URL = "ws://127.0.0.1:8765"


def rest_url(given: str | None) -> str:
    """The option or PTN_REST_URL, the config file's, or this machine. Raises SettingsError."""
    return _checked(given or read_config().rest_url or REST_URL, ("http", "https"))


def ws_url(given: str | None) -> str:
    """The option or PTN_WS_URL, the config file's, or this machine. Raises SettingsError."""
    return _checked(given or read_config().ws_url or WS_URL, ("ws", "wss"))


def _checked(url: str, schemes: tuple[str, str]) -> str:
    try:
        parts = urlsplit(url)
        known = parts.scheme in schemes and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is no number
        known = False
    if not known:
        example = REST_URL if "http" in schemes else WS_URL
        raise SettingsError(f"{url!r} is not an address like {example}")
    return url


@contextmanager
def asking(url: str | None, api_key_file: Path | None) -> Iterator[PTNClient]:
    """A client, and its errors with the address they are about."""
    hear_the_client()
    address = rest_url(url)
    with PTNClient(address, read_api_key(api_key_file), retries=Retries(times=2, first=0.2)) as client:
        try:
            yield client
        except ServerUnreachableError as error:
            raise ServerUnreachableError(f"{address} does not answer: {_reason(error, address)}") from None
        except AuthenticationError as error:
            raise AuthenticationError(f"{address}: {error}", code=error.code) from None
        except APIStatusError as error:
            if str(error) != f"status {error.status}":
                raise
            problem = f"{address} answers {error.status}; is that the REST address?"
            raise APIStatusError(problem, status=error.status) from None
        except ClientError as error:
            if error.code != "bad_answer":
                raise
            raise ClientError(f"{address} is no PTN API: {error}", code="bad_answer") from None


def answer(client: PTNClient, call: Call[T]) -> tuple[bytes, T]:
    """The answer as it came, and what it says."""
    body = client.call(Call(call.path, _whole, **call.parameters))
    try:
        return body, call.read(body, {})
    except msgspec.MsgspecError as error:
        raise ClientError(str(error), code="bad_answer") from None


def _whole(body: bytes, headers: Mapping[str, str]) -> bytes:
    return body


async def try_stream(url: str) -> None:
    """Whether a WebSocket server is there. Raises ServerUnreachableError, and says what is there instead."""
    try:
        async with connect(url, open_timeout=10, close_timeout=1):
            return
    except InvalidStatus as error:
        problem = f"answers HTTP {error.response.status_code}; is that the WebSocket address?"
    except (OSError, EOFError, WebSocketException, asyncio.TimeoutError) as error:
        problem = f"does not answer: {_reason(error, url)}"
    raise ServerUnreachableError(f"{url} {problem}")


def _reason(error: BaseException, url: str) -> str:
    """The system's words, without Python's decoration; and a guess where only one side speaks TLS."""
    words = _bare(error_text(error))
    scheme, _, rest = url.partition(":")
    other, signs = _OTHERS[scheme]
    return words + (f"; is it {other}:{rest}?" if any(sign in words for sign in signs) else "")


_TO_TLS = "Server disconnected", "valid HTTP response"
_TO_PLAIN = "wrong version number", "opening handshake"
_OTHERS = {
    "http": ("https", _TO_TLS),
    "ws": ("wss", _TO_TLS),
    "https": ("http", _TO_PLAIN),
    "wss": ("ws", _TO_PLAIN),
}
"""What a server may be found under that answers so."""


def _bare(text: str) -> str:
    return re.sub(r"^no answer: |\[(Errno|SSL)[^\]]*\] | \(_ssl\.c:\d+\)|\.$", "", text)


class _Heard(logging.Handler):
    """One line each, whatever else hangs on it."""

    def emit(self, record: logging.LogRecord) -> None:
        detail: Any = record.exc_info and record.exc_info[1]
        print(f"ptn: {record.getMessage()}" + (f": {detail}" if detail else ""), file=sys.stderr)


def hear_the_client() -> None:
    """What the library logs, gaps among it, on standard error."""
    logger = logging.getLogger("ptn_api.client")
    logger.handlers[:] = [_Heard(logging.WARNING)]
    logger.propagate = False
