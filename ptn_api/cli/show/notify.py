"""`ptn notify`: orders are sent to chats, mail and webhooks."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ptn_api.cli.client import authentication_failure, check_stream, print_client_log, ws_url
from ptn_api.cli.config import read_api_key
from ptn_api.cli.show.choices import known_trade_pairs
from ptn_api.cli.show.following import state_printer, stop_on_signals, whole_hotkeys
from ptn_api.client.stream import Stream
from ptn_api.errors import AuthenticationError, ClientError, SettingsError
from ptn_api.notify.notifier import Notifier, NotifyOptions
from ptn_api.notify.targets import (
    NotDeliveredError,
    Sender,
    choose_targets,
    exposed_address,
    parse_targets,
    read_private_file,
)
from ptn_api.notify.webhook import Webhook, parse_secrets
from ptn_api.tasks import cancel_and_wait

__all__ = ["notification_senders", "run_notification_test", "run_notifier"]


def notification_senders(
    arguments: Sequence[str], targets_file: Path | None, secret_file: Path | None, *, timeout_s: float
) -> dict[str, Sender]:
    """Returns the way to each chosen target, by its name. Raises SettingsError."""
    if targets_file is not None:
        text = read_private_file(targets_file, "--targets-file")
        known = parse_targets(text.splitlines(), "--targets-file")
    else:
        known = parse_targets(os.environ.get("PTN_NOTIFY_TARGETS", "").split(), "PTN_NOTIFY_TARGETS")
    senders: dict[str, Sender] = {}
    for target in choose_targets(arguments, known):
        if target.is_webhook:
            source, text = "PTN_WEBHOOK_SECRET", os.environ.get("PTN_WEBHOOK_SECRET", "")
            if secret_file is not None:
                source = "--webhook-secret-file"
                text = read_private_file(secret_file, source)
            senders[target.name] = Webhook(target, parse_secrets(text, source), timeout_s=timeout_s)
            continue
        try:
            from ptn_api.notify.services import Service
        except ModuleNotFoundError:
            problem = f"target {target.name}: this needs Apprise: pip install 'ptn-api[notify]'"
            raise SettingsError(problem) from None
        service = Service(target)
        if target.url in arguments and service.has_secret:
            raise exposed_address(f"argument {arguments.index(target.url) + 1}")
        senders[target.name] = service
    return senders


def run_notification_test(senders: Mapping[str, Sender]) -> None:
    """Sends a test message to each target and prints which took it. Raises ClientError if one did not."""

    async def send(sender: Sender) -> str:
        try:
            await sender.send_test()
        except NotDeliveredError as error:
            return f"failed: {error}"
        finally:
            await sender.close()
        return "delivered"

    async def send_all() -> list[str]:
        return await asyncio.gather(*map(send, senders.values()))

    results = asyncio.run(send_all())
    for name, result in zip(senders, results, strict=True):
        print(f"{name}: {result}")
    if failed := sum(result != "delivered" for result in results):
        raise ClientError(f"{failed} of {len(senders)} targets failed", code="not_delivered")


def run_notifier(
    senders: Mapping[str, Sender],
    url: str | None,
    api_key_file: Path | None,
    *,
    options: NotifyOptions,
    miners: Sequence[str],
    trade_pairs: Sequence[str],
    name: str,
    max_age_ms: int | None,
    wait: bool,
) -> None:
    """Delivers orders to each target until a signal. Every target has a connection and a cursor."""
    print_client_log()
    address, key = ws_url(url), read_api_key(api_key_file)
    streams = {
        target: Stream(
            address,
            key.value,
            name="-".join(filter(None, ("ptn", "notify", name, target))),
            max_age_ms=max_age_ms,
            miners=whole_hotkeys(miners, api_key_file),
            trade_pairs=known_trade_pairs(trade_pairs) if trade_pairs else None,
            format="delta",
            on_state=state_printer(f"ptn: {target}"),
            stop_on_auth_error=True,
        )
        for target in senders
    }

    async def deliver(target: str) -> bool:
        """Returns whether the target is still there."""

        def report(sentence: str) -> None:
            print(f"ptn: {target}: {sentence}", file=sys.stderr, flush=True)

        try:
            await Notifier(streams[target], senders[target], options, report=report).run()
        except NotDeliveredError as error:
            report(f"{error}: it wants no more orders; the next start tries again")
            return False
        return True

    async def deliver_all() -> bool:
        stop_on_signals(list(streams.values()))
        if not wait:
            await check_stream(address)
        tasks = [asyncio.create_task(deliver(target)) for target in streams]
        try:
            return any(await asyncio.gather(*tasks))
        finally:
            await cancel_and_wait(tasks)

    try:
        served = asyncio.run(deliver_all())
    except AuthenticationError as error:
        raise authentication_failure(error, address, key) from None
    if not served:
        raise ClientError("no target is left: each has answered with status 410", code="not_delivered")
