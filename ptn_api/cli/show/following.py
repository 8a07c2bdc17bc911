"""What `ptn stream`, `ptn record` and `ptn notify` share: choices, signals, states."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ptn_api.cli.client import open_client
from ptn_api.cli.show.choices import matching_hotkey
from ptn_api.client.arguments import as_list
from ptn_api.errors import ServerUnreachableError
from ptn_api.summary import wrapped

if TYPE_CHECKING:
    from ptn_api.client.connection import StreamState
    from ptn_api.client.stream import Stream

__all__ = ["state_printer", "stop_on_signals", "whole_hotkeys"]

_LINK_CODES = ("unreachable", "server_restarting", "login_refused", "evicted", "server_silent")
"""Problems of the connection, of which a server has one at a time."""


def whole_hotkeys(names: Sequence[str], api_key_file: Path | None) -> list[str] | None:
    """The chosen hotkeys. The REST server is asked only about parts of hotkeys."""

    def known() -> list[str]:
        try:
            with open_client(os.environ.get("PTN_REST_URL"), api_key_file) as client:
                return client.hotkeys()
        except ServerUnreachableError as error:
            remedy = "give whole hotkeys, or the REST server's address in PTN_REST_URL"
            raise ServerUnreachableError(f"{error} ({remedy})") from None

    names = as_list(names or None) or []
    return [matching_hotkey(name, known) for name in names] or None


def stop_on_signals(streams: Sequence[Stream]) -> None:
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


def state_printer(prefix: str = "ptn") -> Callable[[StreamState], None]:
    """Prints each state, each problem when it begins, and each of several servers that is connected again."""
    printed: list[str] = [""]
    away: set[str] = set()

    def print_state(state: StreamState) -> None:
        nonlocal away
        if state != printed[0]:
            print(f"{prefix}: {state}", file=sys.stderr)
        links = [problem for problem in state.problems if state.servers and problem.code in _LINK_CODES]
        addresses = {problem.sentence.partition(": ")[0] for problem in links}
        for address in sorted(away - addresses) if state != "stopped" else []:
            print(f"{prefix}: {address}: connected again", file=sys.stderr)
        away = addresses
        known = [f"{code} {sentence.partition(': ')[0]}" for code, sentence, _ in state.problems]
        for name, (code, sentence, remedy) in zip(known, state.problems, strict=True):
            final = code == "login_refused" and not state.servers  # the error that ends the command says it
            if name not in printed and not final:
                text = f"{prefix}: {sentence.removesuffix('.')} ({code})."
                if sys.stderr.isatty():  # the remedy on a line below
                    text = wrapped(text, sys.stderr, indent="  ", widest=100)
                    remedy = wrapped(f"{remedy}.", sys.stderr, first="  ", indent="  ", widest=100)
                    print(text, remedy, sep="\n", file=sys.stderr)
                else:
                    print(f"{text} {remedy}.", file=sys.stderr)
        printed[:] = [state, *known]

    return print_state
