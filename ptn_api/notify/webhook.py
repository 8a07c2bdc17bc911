"""Signed webhooks: each order as JSON in a POST, in order (docs/notify.md, "Signed webhooks")."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from email.utils import parsedate_to_datetime

import httpx
import msgspec

from ptn_api import __version__
from ptn_api.client.connection_errors import failure_text
from ptn_api.client.message import PTNWebSocketMessage
from ptn_api.clock import Clock, wall_ms
from ptn_api.errors import SettingsError
from ptn_api.notify.targets import NotDeliveredError, Target

__all__ = ["Webhook", "parse_secrets", "signature"]

MAX_RETRY_AFTER_S = 3600.0
"""Longest `Retry-After` that is honoured."""

_MAX_RESPONSE = 64 << 10
_SHORTEST_SECRET = 16


def parse_secrets(text: str, source: str) -> list[bytes]:
    """Returns the secret, or two while one replaces the other. Raises SettingsError."""
    found = [line.strip().encode() for line in text.splitlines() if line.strip()]
    if not found or min(map(len, found)) < _SHORTEST_SECRET:
        remedy = "make one with: openssl rand -hex 32"
        raise SettingsError(f"{source}: needs a secret of at least {_SHORTEST_SECRET} characters ({remedy})")
    return found


def signature(keys: Sequence[bytes], timestamp_ms: int, body: bytes) -> str:
    """Returns `X-PTN-Signature`: the time, and for each secret the HMAC-SHA256 of time, dot and body."""
    signed = b"%d." % timestamp_ms + body
    digests = (hmac.new(key, signed, hashlib.sha256).hexdigest() for key in keys)
    return ",".join((f"t={timestamp_ms}", *(f"v1={digest}" for digest in digests)))


class Webhook:
    """A receiver of signed webhooks. Raises SettingsError for an address that is not one."""

    is_limited = False

    def __init__(
        self, target: Target, keys: Sequence[bytes], *, timeout_s: float, clock: Clock = wall_ms
    ) -> None:
        try:
            url = httpx.URL(target.url.removeprefix("webhook+"))
        except httpx.InvalidURL:
            url = httpx.URL("")
        if url.scheme not in ("http", "https") or not url.host:
            expected = "webhook+https://HOST/PATH"
            raise SettingsError(f"target {target.name}: not an address like {expected}")
        self._url = url
        self._keys = keys
        self._timeout_s = timeout_s
        self._clock = clock
        # A redirect would carry the orders to another host.
        self._client = httpx.AsyncClient(timeout=timeout_s, follow_redirects=False)

    async def send(self, messages: Sequence[PTNWebSocketMessage]) -> None:
        for message in messages:
            position, order = message.position, message.new_order
            # The order's identity, the same in every attempt and every log.
            identity = f"{position.miner_hotkey}\n{order.order_uuid}".encode("utf-8", "surrogatepass")
            await self._post(message.to_json(), hashlib.sha256(identity).hexdigest()[:32])

    async def send_test(self) -> None:
        body = msgspec.json.encode({"type": "test", "timestamp": self._clock()})
        await self._post(body, secrets.token_hex(16))

    async def _post(self, body: bytes, idempotency_key: str) -> None:
        headers = {
            "content-type": "application/json",
            "idempotency-key": idempotency_key,
            "user-agent": f"ptn-api/{__version__}",
            "x-ptn-signature": signature(self._keys, self._clock(), body),
        }
        try:
            # The timeouts of httpx are per read: a slow trickle of bytes never exceeds them.
            response = await asyncio.wait_for(self._exchange(headers, body), self._timeout_s)
        except asyncio.TimeoutError:
            raise NotDeliveredError(f"no response within {self._timeout_s:g} s") from None
        except httpx.HTTPError as error:
            raise NotDeliveredError(failure_text(error)) from None
        except (httpx.InvalidURL, ValueError):  # from the Location of a redirect, which httpx reads anyway
            raise NotDeliveredError("the response is malformed") from None
        status = response.status_code
        if not 200 <= status < 300:
            # A `Retry-After` of 429, 503 or any other refusal.
            retry_after_s = _retry_after(response.headers.get("retry-after", ""), self._clock())
            reason = f"status {status}" + (" (redirects are not followed)" if 300 <= status < 400 else "")
            raise NotDeliveredError(reason, retry_after_s=retry_after_s, gone=status == 410)

    async def _exchange(self, headers: dict[str, str], body: bytes) -> httpx.Response:
        async with self._client.stream("POST", self._url, headers=headers, content=body) as response:
            received = 0
            async for chunk in response.aiter_raw():  # to the end, so that the connection can be used again
                received += len(chunk)
                if received > _MAX_RESPONSE:
                    break
        return response

    async def close(self) -> None:
        await self._client.aclose()


def _retry_after(text: str, now_ms: int) -> float:
    """Seconds or a date, in seconds from now; 0 if absent or malformed."""
    try:
        seconds = float(text) if text.isdigit() else parsedate_to_datetime(text).timestamp() - now_ms / 1000
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(0.0, seconds), MAX_RETRY_AFTER_S)
