"""The connection from a command to a server: its address, a client, and sentences for what may be wrong."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus, WebSocketException

from ptn_api.access.address import url_host
from ptn_api.cli.config import ApiKey, read_api_key, read_config
from ptn_api.client.arguments import ALL
from ptn_api.client.calls import Call
from ptn_api.client.connection_errors import foreign_text, proxy_note, tls_text, unanswered_text
from ptn_api.client.rest import PTNClient, Retries
from ptn_api.errors import (
    APIStatusError,
    AuthenticationError,
    ClientError,
    ServerUnreachableError,
    SettingsError,
)
from ptn_api.model.miner import similar_hotkeys
from ptn_api.model.order import Order, OrderRow
from ptn_api.model.tiers import data_tier

__all__ = [
    "REST_URL",
    "WS_URL",
    "authentication_failure",
    "check_stream",
    "fetch",
    "newest_orders",
    "open_client",
    "print_client_log",
    "rest_url",
    "ws_url",
]

T = TypeVar("T")

REST_URL = "http://127.0.0.1:48888"
WS_URL = "ws://127.0.0.1:8765"


def ws_url(option: str | None) -> str:
    """The WebSocket address: from the option or PTN_WS_URL, the config file, or this machine's server."""
    return _checked(option or read_config().ws_url or _own_url(WS_URL), ("ws", "wss"))


def _own_url(usual: str) -> str:
    """This machine's server: at the usual address, unless the environment has the server's settings."""
    scheme, _, netloc = usual.partition("://")
    usual_host, _, usual_port = netloc.partition(":")

    def setting(name: str) -> str:
        return os.environ.get(f"PTN_{name}", "")

    host = (scheme == "ws" and setting("API_WS_HOST")) or setting("API_HOST") or usual_host
    port = setting("API_REST_PORT" if scheme == "http" else "API_WS_PORT")
    if not port.isdecimal() or int(port) == 0:  # 0 is any free port
        port = usual_port
    return f"{scheme}{'s' * bool(setting('TLS_CERT'))}://{url_host(host)}:{port}"


def _checked(url: str, schemes: tuple[str, str]) -> str:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in schemes and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # the port is not a number
        valid = False
    if not valid:
        example = REST_URL if "http" in schemes else WS_URL
        raise SettingsError(f"--url: {url!r} is not an address like {example}")
    return url


def rest_url(option: str | None) -> str:
    """The REST address: from the option or PTN_REST_URL, the config file, or this machine's server."""
    return _checked(option or read_config().rest_url or _own_url(REST_URL), ("http", "https"))


@contextmanager
def open_client(
    url: str | None, api_key_file: Path | None, *, key_required: bool = True
) -> Iterator[PTNClient]:
    """A REST client, whose errors name the address."""
    print_client_log()
    address = rest_url(url)
    key = read_api_key(api_key_file, required=key_required)
    with PTNClient(address, key.value, retries=Retries(times=2, first=0.2)) as client:
        try:
            yield client
        except AuthenticationError as error:
            raise authentication_failure(error, address, key) from None
        except APIStatusError as error:
            if error.status == 400 and error.code == "bad_parameter":
                raise SettingsError(str(error)) from None
            unknown = error.status == 404 and error.code != "foreign"  # an unknown miner, say
            problem = str(error) if unknown else f"{address}: {error}"
            if unknown and error.hotkey:
                with suppress(ClientError):
                    problem += similar_hotkeys(error.hotkey, client.hotkeys())
            raise APIStatusError(problem, status=error.status, code=error.code) from None
        except ClientError as error:
            if error.code != "bad_answer":
                raise
            raise ClientError(f"{address} is not a PTN API: {error}", code="bad_answer") from None


def authentication_failure(error: AuthenticationError, address: str, key: ApiKey) -> AuthenticationError:
    """The error with the address, and the place to check."""
    refused = error.status == 401 or "Invalid API key" in str(error)  # the stream has no status
    said = str(error).removesuffix(".").partition(f"{address}: ")
    problem = "authentication failed: unknown or expired API key" if refused else said[2] or said[0]
    sentence = f"{address}: {problem} (check {key.source})"
    return AuthenticationError(sentence, code=error.code, status=error.status)


def fetch(client: PTNClient, call: Call[T]) -> tuple[bytes, T]:
    """The response's body as received, and decoded."""

    def read(body: bytes, headers: Mapping[str, str]) -> tuple[bytes, T]:
        return body, call.read(body, headers)

    return client.call(Call(call.path, read, accept=call.accept, join=call.join, **call.parameters))


def newest_orders(
    client: PTNClient,
    tier: int | None,
    miners: Sequence[str],
    trade_pairs: Sequence[str],
    span: tuple[int | None, int | None],
    limit: int,
) -> list[tuple[OrderRow, Order]] | None:
    """The newest `limit` orders of the span (0: all of them), newest last, without any position.

    None if they are only in the positions: below tier 100, and on older servers.
    """
    if (data_tier(client.me().tier) if tier is None else tier) < 100:
        return None
    start, end = span
    newest: list[tuple[OrderRow, Order]] = []
    page = min(limit, 1_000) if limit and end is None else 1_000
    try:
        for row in client.all_orders(miner=miners or ALL, trade_pair=trade_pairs or ALL, page=page):
            if start is not None and row.order.processed_ms < start:
                break
            if end is None or row.order.processed_ms < end:
                newest.append((row, row.order))
            if limit and len(newest) == limit:
                break
    except APIStatusError as error:
        if error.status != 404:
            raise
        return None
    return newest[::-1]


async def check_stream(url: str) -> None:
    """Tries a WebSocket handshake. Raises ServerUnreachableError, which says what was found instead."""
    try:
        async with connect(url, open_timeout=10, close_timeout=1):
            return
    except InvalidStatus as error:
        status = error.response.status_code
        problem = f"answers HTTP {status}; is that the WebSocket address?"
        if status in (401, 403, 407, 502, 504):
            body = (error.response.body or b"").decode(errors="replace")
            found = tls_text(url, body) or foreign_text(status, error.response.headers) + proxy_note(url)
            problem = f"answers: {found}"
    except (OSError, EOFError, WebSocketException, asyncio.TimeoutError) as error:
        raise ServerUnreachableError(f"{unanswered_text(error, url)}{proxy_note(url)}") from None
    raise ServerUnreachableError(f"{url} {problem}")


class _StderrHandler(logging.Handler):
    """One line per record: the message, and the exception's."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "also_reported", False):  # as an error or a problem of the stream, with a remedy
            return
        detail: Any = record.exc_info and record.exc_info[1]
        print(f"ptn: {record.getMessage()}" + (f": {detail}" if detail else ""), file=sys.stderr)


def print_client_log() -> None:
    """Sends the client library's warnings, such as gaps, to standard error."""
    logger = logging.getLogger("ptn_api.client")
    logger.handlers[:] = [_StderrHandler(logging.WARNING)]
    logger.propagate = False
