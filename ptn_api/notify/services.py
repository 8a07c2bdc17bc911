"""Chats, mail and the other services that Apprise can reach."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from contextvars import ContextVar

from apprise import Apprise, AppriseAsset, NotifyBase, NotifyFormat

from ptn_api.client.message import PTNWebSocketMessage
from ptn_api.errors import SettingsError
from ptn_api.notify.targets import NotDeliveredError, Target
from ptn_api.notify.text import digest_text, order_text

__all__ = ["Service"]

_records: ContextVar[list[str]] = ContextVar("_records")


class _Collector(logging.Handler):
    """Collects what Apprise logs during one delivery: it reports no reason in another way."""

    def emit(self, record: logging.LogRecord) -> None:
        _records.get([]).append(record.getMessage())


# Apprise's messages may quote addresses. Without a handler of its own, they would reach standard error.
_logger = logging.getLogger("apprise")
_logger.handlers[:] = [_Collector(logging.WARNING)]
_logger.propagate = False
_logger.setLevel(logging.WARNING)


class Service:
    """A target that Apprise delivers to. Raises SettingsError for an address that Apprise does not know."""

    is_limited = True

    def __init__(self, target: Target) -> None:
        # Redirects are not followed: they would carry secrets and orders to another host.
        asset = AppriseAsset(app_id="PTN", app_desc="PTN orders", http_redirects=False)
        plugin = Apprise.instantiate(target.url, asset=asset, suppress_exceptions=True)
        if not isinstance(plugin, NotifyBase):
            remedy = "check the scheme and its parts in the documentation of Apprise"
            raise SettingsError(f"target {target.name}: not an address of a service ({remedy})")
        self._plugin = plugin

    @property
    def has_secret(self) -> bool:
        """Whether Apprise counts a part of the address as a secret."""
        shown, full = (self._plugin.url(privacy=hidden) for hidden in (True, False))  # type: ignore[no-untyped-call]
        return bool(shown != full)

    async def send(self, messages: Sequence[PTNWebSocketMessage]) -> None:
        await self._send(*(order_text(messages[0]) if len(messages) == 1 else digest_text(messages)))

    async def send_test(self) -> None:
        await self._send("Test of ptn notify", "Orders will appear here.")

    async def _send(self, title: str, body: str) -> None:
        # Apprise blocks, and limits its own connection and read timeouts.
        reason = await asyncio.to_thread(self._notify, title, body)
        if reason:
            raise NotDeliveredError(reason)

    def _notify(self, title: str, body: str) -> str:
        """Returns why the service did not take the message; an empty string if it did."""
        records: list[str] = []
        _records.set(records)
        try:
            if self._plugin.notify(body=body, title=title, body_format=NotifyFormat.TEXT):
                return ""
        except Exception as error:  # noqa: BLE001 - a hundred plugins may raise anything
            return f"{type(error).__name__} in Apprise"
        # Of the log only the status is repeated: the rest may quote the address, or the service's answer.
        statuses = [match[1] for line in records if (match := re.search(r"\berror\s?=\s?(\d{3})\b", line))]
        return f"status {statuses[-1]}" if statuses else "the service did not take it"

    async def close(self) -> None:
        pass
