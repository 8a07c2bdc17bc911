"""`ptn stream`, `record`, `notify` and `replay`: orders are printed, recorded, sent or served."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import msgspec

from ptn_api.cli.client import authentication_failure, check_stream, open_client, print_client_log, ws_url
from ptn_api.cli.config import read_api_key
from ptn_api.cli.output import OrderOutput, order_handler, print_document
from ptn_api.client.arguments import Timing
from ptn_api.client.connection import StreamState
from ptn_api.client.cursor_file import NoCursorFile
from ptn_api.client.delivery import Dispatcher, OnError
from ptn_api.client.recording import Recording
from ptn_api.client.replaying import Replay, ReplayServer, replay
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
from ptn_api.wire.client_session import Gap

__all__ = [
    "notification_senders",
    "run",
    "run_notification_test",
    "run_notifier",
    "run_recorder",
    "run_replay",
    "run_replay_server",
]


def run(
    url: str | None,
    api_key_file: Path | None,
    *,
    output: OrderOutput,
    command: str | None,
    on_error: OnError,
    miners: Sequence[str],
    trade_pairs: Sequence[str],
    delta: bool,
    count: int,
    resume: bool,
    name: str,
    max_age_ms: int | None,
    wait: bool,
) -> None:
    """Prints orders, and what happens to the connection on standard error.

    The place in the stream is saved under `name` if `resume` is given, and always with a command: its exit
    status decides whether an order is done. The two do not share it, because an order that was only printed
    must not be taken for one that the command has seen, nor the reverse.
    """
    print_client_log()
    address, key = ws_url(url), read_api_key(api_key_file)
    stream = Stream(
        address,
        key.value,
        name="-".join(filter(None, ("ptn", "stream" if command is None else "exec", name))),
        cursor_store=None if resume or command is not None else NoCursorFile(),
        max_age_ms=max_age_ms,
        miners=list(miners) or None,
        trade_pairs=list(trade_pairs) or None,
        format="delta" if delta else "full",
        on_state=_state_printer(),
        stop_on_auth_error=True,
    )
    handler = order_handler(output, command)

    async def follow() -> None:
        _stop_on_signals([stream])
        if not wait:
            await check_stream(address)
        dispatcher = Dispatcher(
            stream, [handler], on_error=on_error if command else "stop", retries=5, timing=Timing()
        )
        handled = 0
        async with stream:
            async for message in stream:
                if not await dispatcher.dispatch([message]):
                    break
                handled += 1
                if handled == count:
                    break

    try:
        asyncio.run(follow())
    except AuthenticationError as error:
        raise authentication_failure(error, address, key) from None


def run_recorder(
    file: Path,
    url: str | None,
    api_key_file: Path | None,
    *,
    miners: Sequence[str],
    trade_pairs: Sequence[str],
    count: int,
    wait: bool,
    as_json: bool,
) -> None:
    """Continues the file where it ends. Stops at a signal, or after `count` orders."""
    print_client_log()
    address, key = ws_url(url), read_api_key(api_key_file)
    recording = Recording(file)
    stream = Stream(
        address,
        key.value,
        cursor_store=recording,
        miners=list(miners) or None,
        trade_pairs=list(trade_pairs) or None,
        on_state=_state_printer(),
        stop_on_auth_error=True,
    )

    async def flush_every_second() -> None:
        while True:
            await asyncio.sleep(1)
            recording.flush()

    async def record() -> None:
        _stop_on_signals([stream])
        if not wait:
            await check_stream(address)
        flushing = asyncio.create_task(flush_every_second())
        try:
            async with stream:
                async for item in stream.items():
                    recording.take(item)
                    if isinstance(item.value, Gap):
                        _print_gap(item.value)
                    if recording.written == count > 0:
                        break
        finally:
            await cancel_and_wait([flushing])

    try:
        asyncio.run(record())
    except AuthenticationError as error:
        raise authentication_failure(error, address, key) from None
    finally:
        recording.close()
    if as_json:
        print_document(msgspec.json.encode({"file": str(file), "orders": recording.written}))
    else:
        print(f"ptn: {recording.written} orders recorded in {file}", file=sys.stderr)


def _stop_on_signals(streams: Sequence[Stream]) -> None:
    """The first signal stops the streams in order, the second ends the process."""
    loop = asyncio.get_running_loop()

    def stop(number: int, _: object = None) -> None:
        signal.signal(number, signal.SIG_DFL)
        for stream in streams:
            loop.call_soon_threadsafe(stream.stop)

    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop, number)
        except NotImplementedError:  # Windows; there the event loop wakes up for signals by itself
            signal.signal(number, stop)


def _state_printer(prefix: str = "ptn") -> Callable[[StreamState], None]:
    """Prints each state, and each problem when it begins."""
    printed: list[str] = [""]

    def print_state(state: StreamState) -> None:
        if state != printed[0]:
            print(f"{prefix}: {state}", file=sys.stderr)
        for code, sentence, remedy in state.problems:
            if code not in printed:
                print(f"{prefix}: {sentence} ({code}). {remedy}.", file=sys.stderr)
        printed[:] = [state, *(problem.code for problem in state.problems)]

    return print_state


def _print_gap(gap: Gap) -> None:
    print(f"ptn: messages between {gap.after} and {gap.next} are missing: {gap.reason}", file=sys.stderr)


# --- notifications ----------------------------------------------------------------------------------------


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
            miners=list(miners) or None,
            trade_pairs=list(trade_pairs) or None,
            format="delta",
            on_state=_state_printer(f"ptn: {target}"),
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
        _stop_on_signals(list(streams.values()))
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


# --- past orders ------------------------------------------------------------------------------------------


def run_replay(
    file: Path | None,
    url: str | None,
    api_key_file: Path | None,
    *,
    output: OrderOutput,
    command: str | None,
    miners: Sequence[str],
    trade_pairs: Sequence[str],
    speed: float | None,
    span: tuple[int | None, int | None],
) -> None:
    """Replays the file, or without one the orders that the server still has."""
    start_ms, end_ms = span
    with open_client(url, api_key_file) if file is None else nullcontext(file) as source:
        replay(
            source,
            order_handler(output, command),
            speed=speed,
            start_ms=start_ms,
            end_ms=end_ms,
            miners=list(miners) or None,
            trade_pairs=list(trade_pairs) or None,
            on_gap=_print_gap,
        )


def run_replay_server(
    file: Path | None,
    url: str | None,
    api_key_file: Path | None,
    *,
    port: int,
    miners: Sequence[str],
    trade_pairs: Sequence[str],
    speed: float | None,
    span: tuple[int | None, int | None],
) -> None:
    """Starts with the first subscriber and runs until interrupted, so that a client can reconnect."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    start_ms, end_ms = span
    with open_client(url, api_key_file) if file is None else nullcontext(file) as source:
        past = Replay(
            source,
            speed=speed,
            start_ms=start_ms,
            end_ms=end_ms,
            miners=list(miners) or None,
            trade_pairs=list(trade_pairs) or None,
        )
        with ReplayServer(past, port=port) as server:
            print(f"PTN replay ready: WebSocket {server.url}", flush=True)
            served = server.play(stop)
            print(f"ptn: {served} orders served; press Ctrl-C to end", file=sys.stderr, flush=True)
            stop.wait()
